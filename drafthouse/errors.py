"""Typed errors of the system's edges. Each message names the field, file or peer at fault."""

from collections.abc import Iterator
from contextlib import contextmanager


class DrafthouseError(Exception):
    """Base of all errors that a user or a peer can cause."""


class ConfigError(DrafthouseError):
    """The configuration, or a file it names, cannot be used."""


class ModelError(DrafthouseError):
    """A model cannot be loaded, failed the self-check, or does not match its pair."""


class Faults:
    """Gathers the errors of checks that do not depend on each other, so that a person is told of all at once."""

    def __init__(self) -> None:
        self.errors: list[ConfigError | ModelError] = []

    @contextmanager
    def gather(self, prefix: str = "") -> Iterator[None]:
        """Keeps a ConfigError or ModelError that is raised inside; each of its lines gets `prefix`."""
        try:
            yield
        except (ConfigError, ModelError) as error:
            lines = [prefix + line for line in str(error).splitlines()]
            self.errors.append(type(error)("\n".join(lines)))

    def end(self) -> None:
        """Raises the one error that was gathered, or a ConfigError with a line for each of several."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ConfigError("\n".join(str(error) for error in self.errors))


TOO_LARGE = "request_too_large"
"""The code of a RequestError for what is refused by its size alone."""

CONTEXT_EXCEEDED = "context_length_exceeded"
"""The code of a RequestError for a prompt, or a prompt and its output, that the context does not hold."""


class RequestError(DrafthouseError):
    """A request cannot be served as asked; `param` names the field, `code` is OpenAI's error code."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class OverloadError(DrafthouseError):
    """No room for this request now; it may be sent again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LimitError(OverloadError):
    """This client has had its part of `resource` (requests, tokens or streams): others may have room."""

    def __init__(self, message: str, resource: str, retry_after_s: float):
        super().__init__(message, retry_after_s)
        self.resource = resource


class WireError(DrafthouseError):
    """A peer's message that is malformed or breaks the protocol; on the data plane it fails its own session only."""


class OutOfKvSlots(DrafthouseError):
    """The KV cache has fewer free slots than were asked for."""


class RankError(DrafthouseError):
    """A tensor-parallel replica has lost a rank and must be started again whole."""
