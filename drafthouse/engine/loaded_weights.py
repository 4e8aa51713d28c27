"""Whether weights are those that a configuration asks for, by transformers' account of loading them."""

from collections.abc import Mapping
from typing import Any

from drafthouse.errors import ModelError


def check_weights(loading: Mapping[str, Any]) -> None:
    """`loading`: transformers' account. Raises ModelError where weights do not match config.json: what lacks would be drawn at random."""
    faults = [f"{name} is missing" for name in sorted(loading["missing_keys"])]
    faults += [
        f"{name} has shape {list(found)}, and config.json asks for {list(asked)}"
        for name, found, asked in sorted(loading["mismatched_keys"])
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ModelError(f"the weights are not those of config.json: {faults[0]}{more}; both must be of one model")
