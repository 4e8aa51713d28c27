"""Latency profiles on disk: one JSON file for each model, device and everything else that changes the curve.

Promises: a file is written whole or not at all, so replicas that start together may all write it.
What cannot be used (no JSON, another version, another model, times that cannot be) is as good as
absent, with one warning that names the file. A folder that cannot be written costs a warning only.
"""

import hashlib
import logging
import os
import pathlib
import tempfile
from typing import Annotated

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from drafthouse import __version__
from drafthouse.config.faults import describe
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.machine import cpu_name
from drafthouse.policy.latency import FitError, MeasuredLatency

logger = logging.getLogger(__name__)

FORMAT = 3
"""Version of the file and of how profiles are measured."""

Seconds = Annotated[float, Field(gt=0, lt=86400)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ProfileKey(_Strict):
    """What a curve depends on; `largest` is the token count up to which it was to be measured."""

    format: int = FORMAT
    model: str
    dtype: str
    device: str
    threads: int
    parallel: int
    forward: str
    largest: int
    drafthouse: str = __version__
    torch: str = str(torch.__version__)
    transformers: str = str(transformers.__version__)


class Profile(_Strict):
    """Knots `(tokens, seconds at no cached tokens)`, rising in tokens; seconds for each cached token; error at points held out."""

    knots: tuple[tuple[Annotated[int, Field(ge=1)], Seconds], ...] = Field(min_length=1)
    per_kv_token: float = Field(ge=0, lt=1)
    fit_error: FitError

    @model_validator(mode="after")
    def _possible(self) -> "Profile":
        tokens = [n for n, _ in self.knots]
        if tokens != sorted({*tokens}):
            raise ValueError("knots: token counts must rise")
        if min(self.fit_error) < 0:
            raise ValueError("fit_error: errors are not negative")
        return self

    def latency(self) -> MeasuredLatency:
        return MeasuredLatency(dict(self.knots), self.per_kv_token, self.fit_error)


class _Entry(_Strict):
    key: ProfileKey
    profile: Profile


def key_of(model: LoadedModel, largest: int) -> ProfileKey:
    """`largest` tokens in a step of this replica."""
    data = model.runner.cache.data
    cuda = data.device.type == "cuda"
    return ProfileKey(
        model=model.fingerprint, dtype=str(data.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(data.device) if cuda else cpu_name(),
        threads=0 if cuda else torch.get_num_threads(), parallel=model.parallel,
        forward=model.runner.forward.name, largest=largest,
    )  # fmt: skip


class LatencyCache:
    """The folder `latency` in $DRAFTHOUSE_CACHE, by default in ~/.cache/drafthouse."""

    def __init__(self) -> None:
        root = os.environ.get("DRAFTHOUSE_CACHE") or "~/.cache/drafthouse"
        self.folder = pathlib.Path(os.path.expanduser(root)) / "latency"

    def path(self, key: ProfileKey) -> pathlib.Path:
        digest = hashlib.sha256(key.model_dump_json().encode()).hexdigest()
        return self.folder / f"{digest[:24]}.json"

    def read(self, key: ProfileKey) -> Profile | None:
        path = self.path(key)
        try:
            entry = _Entry.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            reason = "; ".join(describe(error))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if entry.key == key:
                return entry.profile
            ours, theirs = key.model_dump(), entry.key.model_dump()
            reason = ", ".join(f"{name} is {theirs[name]!r}, not {ours[name]!r}" for name in ours if ours[name] != theirs[name])
        logger.warning("%s: not a latency profile to use, so it is measured again: %s", path, reason)
        return None

    def write(self, key: ProfileKey, profile: Profile) -> None:
        path = self.path(key)
        text = _Entry(key=key, profile=profile).model_dump_json(indent=1) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self.folder, suffix=".tmp", delete=False) as file:
                file.write(text)
            os.replace(file.name, path)
        except OSError as error:
            logger.warning("%s: the latency profile is not kept: %s", path, error.strerror or error)
