"""The API key that our own clients send: generate, status and the benches that take --url.

Promises: it comes from DRAFTHOUSE_API_KEY alone, since a command line can be read by every user of the machine,
and is repeated in no error.
"""

import os

from drafthouse.errors import ConfigError

API_KEY = "DRAFTHOUSE_API_KEY"
HINT = f"the key is taken from {API_KEY}"
"""What a client adds to an answer of status 401."""


def authorization() -> dict[str, str]:
    """The header to send; empty without a key. Raises ConfigError for what no header can carry."""
    key = os.environ.get(API_KEY, "").strip()
    if not key.isascii() or any(character.isspace() for character in key):
        raise ConfigError(f"{API_KEY}: an API key is printable ASCII without spaces")
    return {"Authorization": f"Bearer {key}"} if key else {}


def call_metadata() -> tuple[tuple[str, str], ...]:
    """The same for a gRPC call."""
    return tuple((name.lower(), value) for name, value in authorization().items())
