"""What is compared: ways of drafting, each a drafter pool's configuration, and which of them are run.

Promises: pure data. An unknown name, or one that means nothing in the setting, is a ConfigError that
names --configurations. What a configuration leaves out is as served by default, but for the stages and for growth
during verification: the draft model alone, and off, where the meaning does not say otherwise. So each one adds one
thing to another.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from drafthouse.config.serving import ServingConfig
from drafthouse.errors import ConfigError

PLAIN, TREE, CONTROL = "plain", "tree", "tree again"

Sections = dict[str, dict[str, Any]]
"""Keys of a serving config, by section."""


@dataclass(frozen=True)
class Configuration:
    """`sections` stand over the serving config's defaults; `on` names the configuration whose pools it uses with requests of its own
    mode; `overlaps`: it differs from another only while drafter and verifier work at once; `long`: its draft KV is cut."""

    meaning: str
    sections: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    mode: str = "auto"
    on: str = ""
    overlaps: bool = False
    long: bool = False


MODEL: list[dict[str, Any]] = [{"kind": "model"}]
STAGED: list[dict[str, Any]] = [{"kind": "model", "inner": {"kind": "trigram"}}]
MERGED: list[dict[str, Any]] = [{"kind": "model"}, {"kind": "lookup"}, {"kind": "suffix"}]
SINKS = 4
"""As many as attention needs to stay stable (StreamingLLM, arXiv 2309.17453)."""


def _drafter(
    meanwhile: bool = False, stages: list[dict[str, Any]] = MODEL, limits: Mapping[str, Any] | None = None, **keys: Any
) -> dict[str, dict[str, Any]]:
    """`meanwhile`: trees grow while they are verified, too; `limits` of trees."""
    return {"drafter": {"stages": stages, **keys}, "tree": {"grow_during_verification": meanwhile, **(limits or {})}}


def _without_model(kind: str) -> dict[str, dict[str, Any] | None]:
    return {**_drafter(stages=[{"kind": kind}]), "draft": None}


CONFIGURATIONS: dict[str, Configuration] = {
    PLAIN: Configuration("no speculation", mode="off", on=TREE),
    "chain": Configuration("draft model, one child below each node", _drafter(limits={"width": 1})),
    TREE: Configuration("draft model, tree", _drafter()),
    "tree-ahead": Configuration("tree, grown during verification too", _drafter(meanwhile=True), overlaps=True),
    "staged": Configuration("the draft model scores a trigram's tree in one pass", _drafter(stages=STAGED)),
    "staged-ahead": Configuration("staged, grown during verification too", _drafter(meanwhile=True, stages=STAGED), overlaps=True),
    "lookup": Configuration("prompt lookup, no draft model", _without_model("lookup")),
    CONTROL: Configuration("tree once more: the A/A control", on=TREE),
    "suffix": Configuration("suffix index of the session, no draft model", _without_model("suffix")),
    "merged": Configuration("model, lookup and suffix merged, grown during verification too", _drafter(meanwhile=True, stages=MERGED)),
    "window-64": Configuration("draft KV of 4 sinks and 64 recent tokens", _drafter(window={"sinks": SINKS, "recent": 64}), long=True),
    "window-256": Configuration("the same with 256", _drafter(window={"sinks": SINKS, "recent": 256}), long=True),
    "own-noise": Configuration("tree, ranked without the target's noise: the same when greedy", _drafter(shared_noise=False)),
}
QUICK = (PLAIN, "chain", TREE, CONTROL, "staged", "staged-ahead", "lookup", "suffix", "merged")


def by_default(overlap: bool, long: bool, quick: bool) -> tuple[str, ...]:
    """Names run when none are given: `overlap` where drafter and verifier work at once, `long` for long prompts."""
    if long:
        return tuple(name for name, c in CONFIGURATIONS.items() if c.long or name in (PLAIN, TREE, CONTROL))
    usual = (name for name, c in CONFIGURATIONS.items() if not c.long and (overlap or not c.overlaps))
    return tuple(name for name in usual if not quick or name in QUICK)


def chosen(names: Iterable[str], overlap: bool) -> tuple[str, ...]:
    """In the table's order, `plain`, `tree` and its control always among them: ratios need them."""
    wanted = {name.strip() for name in names}
    for name in sorted(wanted):
        if name not in CONFIGURATIONS:
            raise ConfigError(f"--configurations: no {name!r}; there are {', '.join(CONFIGURATIONS)}")
        if CONFIGURATIONS[name].overlaps and not overlap:
            raise ConfigError(f"--configurations: {name} differs only where drafter and verifier work at once: leave --device cpu out")
    return tuple(name for name in CONFIGURATIONS if name in wanted | {PLAIN, TREE, CONTROL})


def groups(names: Sequence[str], others: int) -> list[list[str]]:
    """What is served at a time: `plain`, `tree` and its control in each group, beside at most `others` more. What shares pools stands
    apart, since totals are read between two turns on the same."""
    shared = [name for name in names if pool_of(name) == TREE]
    rest = [name for name in names if pool_of(name) != TREE]
    parts = [rest[i : i + others] for i in range(0, len(rest), others)] or [[]]
    return [[name for pair in zip_longest(shared, part) for name in pair if name is not None] for part in parts]


def pools(names: Iterable[str]) -> tuple[str, ...]:
    """The configurations with pools of their own."""
    return tuple(name for name in names if not CONFIGURATIONS[name].on)


def pool_of(name: str) -> str:
    return CONFIGURATIONS[name].on or name


def laid_over(base: Mapping[str, Any], name: str) -> ServingConfig:
    """The serving config of a configuration's pools: its sections over `base`."""
    data = dict(base)
    for section, keys in CONFIGURATIONS[name].sections.items():
        data[section] = None if keys is None else {**data.get(section, {}), **keys}
    return ServingConfig.model_validate(data)
