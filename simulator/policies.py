"""The policies and workloads that are compared, and how options name them.

Promises: a fault in an option's list is a ConfigError that names the option and the item.
"""

import math
from collections.abc import Iterable
from typing import Any

from drafthouse.errors import ConfigError

AUTO, CONTROL, OFF = "auto", "auto again", "off"

POLICIES: dict[str, dict[str, Any]] = {
    AUTO: {"mode": "auto"},
    CONTROL: {"mode": "auto"},
    OFF: {"mode": "off"},
    "chain3": {"mode": "fixed", "nodes": 3, "depth": 3, "width": 1},
    "tree": {"mode": "fixed", "nodes": 12, "depth": 5},
    "batch-table": {"mode": "table"},
}
"""The `speculation` field of a request under each policy."""

WORKLOADS = {"code": 0.0, "varied": 1.2}
"""Temperatures. Prompts are the same; at 1.2 drafts are hit less often, and differently from request to request."""


def chosen(option: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """The names in a list with commas, in the order of `known`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    every = list(known)
    for name in names:
        if name not in every:
            raise ConfigError(f"{option}: no {name!r}; there are {', '.join(every)}")
    if not names:
        raise ConfigError(f"{option}: the list is empty; there are {', '.join(every)}")
    return tuple(name for name in every if name in names)


def positive(option: str, value: float, limit: float = 1e6) -> float:
    if not (math.isfinite(value) and 0 < value <= limit):
        raise ConfigError(f"{option}: {value:g} is not above 0 and at most {limit:g}")
    return value


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The positive numbers in a list with commas, none twice."""
    values: list[float] = []
    for item in text.split(","):
        try:
            value = positive(option, float(item), limit=100.0)
        except ValueError as error:
            raise ConfigError(f"{option}: {item.strip()!r} is not a number") from error
        if value in values:
            raise ConfigError(f"{option}: {value:g} stands there twice")
        values.append(value)
    return tuple(values)


def shares(option: str, text: str) -> tuple[float, ...]:
    """Shares between 0 and 1 in a list with commas."""
    try:
        values = tuple(float(item) for item in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is not a list of numbers") from error
    if not all(0.0 <= value <= 1.0 for value in values):
        raise ConfigError(f"{option}: {text!r} is not a list of shares between 0 and 1")
    return values


def counts(option: str, text: str, least: int = 1, most: int = 1000, fewest: int = 2) -> tuple[int, ...]:
    """At least `fewest` counts in a list with commas, between `least` and `most`. Raises ConfigError naming the option."""
    try:
        values = tuple(int(item) for item in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is not a list of whole numbers") from error
    if len(values) < fewest or not all(least <= value <= most for value in values):
        raise ConfigError(f"{option}: {text!r} is not a list of at least {fewest} numbers between {least} and {most}")
    return values


def lengths(option: str, text: str) -> tuple[int, int]:
    """Least and most output tokens, from `16-32`; from `24` both are the same. At least 2: one token has no time per token."""
    low, dash, high = text.partition("-")
    try:
        least, most = int(low), int(high if dash else low)
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} is neither a count of tokens nor a range of counts such as 16-32") from error
    if not 2 <= least <= most:
        raise ConfigError(f"{option}: {text!r} is not a range from at least 2 tokens upwards")
    return least, most
