"""API keys: long random strings that callers hold, and of which the server knows the hashes alone.

Promises: no key is stored, logged or repeated in an error, nor is a line of the file, which may hold one by mistake.
All hashes are compared, each in constant time, so that timing tells nothing. A key taken out of the file is
refused from the next request on.

The hash is plain SHA-256: a slow one protects secrets that can be guessed, which 256 random bits cannot, and
would cost every request its time.
"""

import hashlib
import hmac
import pathlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from drafthouse.config.limits import RateLimits
from drafthouse.config.security import HASH_PATTERN, ApiKeysConfig
from drafthouse.errors import ConfigError, RequestError
from drafthouse.objective import FIELDS, NO_WISH, UrgencyWish
from drafthouse.security.watched_files import WatchedFiles, read_text

LEAST_CHARACTERS = 20
"""Of a secret that somebody brings along: shorter ones may be guessed from their hash."""

OWN_LIMIT = re.compile(rf"({'|'.join(RateLimits.model_fields)})=([1-9]\d{{0,11}}|none)")
OWN_URGENCY = re.compile(rf"(priority)=(-?\d)|({'|'.join(FIELDS)})=(\d{{1,7}}(?:\.\d{{1,3}})?)")


@dataclass(frozen=True, slots=True)
class OwnSettings:
    """What one key has of its own, by the names of the configuration. A limit of None: none."""

    limits: Mapping[str, int | None] = field(default_factory=dict)
    urgency: UrgencyWish = NO_WISH


NOTHING_OWN = OwnSettings()


def generate_key() -> str:
    return "dh-" + secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """The line that `drafthouse hash-key` prints. A lone surrogate, which no secret has, becomes a question mark."""
    return "sha256:" + hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def matches(secret: str, hashes: Iterable[str]) -> bool:
    given, found = hash_of(secret), False
    for known in hashes:
        found |= hmac.compare_digest(given, known)
    return found


def bearer(authorization: str | None) -> str | None:
    """What follows `Bearer`; None if nothing does."""
    scheme, _, secret = (authorization or "").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None


def check_secret(secret: str) -> None:
    """Raises ConfigError, which does not repeat it."""
    if len(secret) < LEAST_CHARACTERS or not re.fullmatch(r"[!-~]+", secret):
        raise ConfigError(f"a key or token has {LEAST_CHARACTERS} characters or more, all of them printable ASCII without spaces")


def read_keys(path: pathlib.Path) -> dict[str, OwnSettings]:
    """Settings of their own by hash: one hash a line, `NAME=NUMBER` after it, or for a limit `NAME=none`; `#` begins a comment. Raises
    ConfigError naming file and line."""
    keys: dict[str, OwnSettings] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        own = _own_settings(words[1:])
        if not re.match(HASH_PATTERN, words[0]) or own is None:
            raise ConfigError(
                f"{path}: line {number} is not a hash, as `drafthouse hash-key` prints it, with settings such as streams=4, streams=none, "
                "priority=-1 or per_token_ms=40"
            )
        try:
            own.urgency.check()
        except RequestError as error:
            raise ConfigError(f"{path}: line {number}: {error}") from error
        keys[words[0]] = own
    return keys


def _own_settings(words: Iterable[str]) -> OwnSettings | None:
    """None where one of them is no setting."""
    limits: dict[str, int | None] = {}
    urgency = NO_WISH
    for word in words:
        if found := OWN_LIMIT.fullmatch(word):
            limits[found[1]] = None if found[2] == "none" else int(found[2])
        elif found := OWN_URGENCY.fullmatch(word):
            said = {"priority": int(found[2])} if found[1] else {found[3]: float(found[4])}
            urgency = UrgencyWish(**said).over(urgency)
        else:
            return None
    return OwnSettings(limits, urgency)


class ApiKeys:
    """Raises ConfigError when the file cannot be used or holds no hash. Emptied later, it lets nobody in."""

    def __init__(self, config: ApiKeysConfig) -> None:
        self._hashes: Mapping[str, OwnSettings] = dict.fromkeys(config.hashes, NOTHING_OWN)
        self._watched = None
        self._operators = frozenset(config.operators)
        if (file := config.file) is not None:
            self._watched = WatchedFiles((file,), lambda: read_keys(file))
            if not self._watched.current():
                raise ConfigError(f"{file}: holds no hash, so nobody could call the API")

    def check(self, authorization: str | None) -> str:
        """The key's hash. `authorization` is the header's or the metadata's value. Raises RequestError with status 401."""
        key = bearer(authorization)
        if key is None:
            raise RequestError("no API key: send `Authorization: Bearer KEY`", code="missing_api_key", status=401)
        if not matches(key, self._current()):
            raise RequestError("this API key is not known", code="invalid_api_key", status=401)
        return hash_of(key)

    def is_operator(self, key_hash: str) -> bool:
        """Whether this key is told of processes and addresses."""
        return key_hash in self._operators

    def limits_of(self, key_hash: str) -> Mapping[str, int | None]:
        """The limits that this key has of its own, by their names in the configuration."""
        return self._current().get(key_hash, NOTHING_OWN).limits

    def urgency_of(self, key_hash: str) -> UrgencyWish:
        """What this key says of its requests' priority and objective."""
        return self._current().get(key_hash, NOTHING_OWN).urgency

    def _current(self) -> Mapping[str, OwnSettings]:
        return self._hashes if self._watched is None else self._watched.current()


def load_api_keys(config: ApiKeysConfig | None) -> ApiKeys | None:
    """None: the API is open. Raises ConfigError naming the key of the configuration."""
    try:
        return None if config is None else ApiKeys(config)
    except ConfigError as error:
        raise ConfigError(f"security.api_keys.file: {error}") from error
