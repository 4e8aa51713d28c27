"""What one run of lm_eval found, read from the files that it writes, and two of them side by side.

Promises: pure but for reading. Items are compared one by one, by task and number, not scores alone.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.http_stream import BenchError

DIGITS = 4
"""That scores must share."""

Item = tuple[str, int]
"""A task and the number of its item."""


@dataclass(slots=True)
class Results:
    """`scores` by task and metric. By item: `loglikelihoods` of its choices, each with whether greedy decoding would have written it;
    `texts` that were generated."""

    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    loglikelihoods: dict[Item, list[tuple[float, bool]]] = field(default_factory=dict)
    texts: dict[Item, str] = field(default_factory=dict)


def read_results(folder: pathlib.Path) -> Results:
    """From `--output_path` with `--log_samples`. Raises BenchError where a file is not there."""
    results = Results()
    for task, numbers in json.loads(_only(folder, "results_*.json").read_text(encoding="utf-8"))["results"].items():
        for name, value in numbers.items():
            if isinstance(value, float) and "stderr" not in name:
                results.scores[task, name] = value
        for line in _only(folder, f"samples_{task}_*.jsonl").read_text(encoding="utf-8").splitlines():
            _add_sample(results, task, json.loads(line))
    return results


def _only(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        raise BenchError(f"lm_eval wrote {len(found)} files {pattern}, not one")
    return found[0]


def _add_sample(results: Results, task: str, sample: Mapping[str, Any]) -> None:
    """`resps` holds a list for each request of the item: of a generation its text, of a choice [loglikelihood, whether it is greedy]."""
    item, first = (task, int(sample["doc_id"])), [answers[0] for answers in sample["resps"]]
    if isinstance(first[0], str):
        results.texts[item] = first[0]
    else:
        results.loglikelihoods[item] = [(float(value), str(greedy) == "True") for value, greedy in first]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs on the same items: `worst` is the largest difference of two loglikelihoods, in nats, and the item that has it."""

    scores: dict[tuple[str, str], tuple[float, float]]
    choices: int
    worst: tuple[float, Item]
    greedy_flags_different: int
    texts: int
    texts_different: list[Item]

    @property
    def equal(self) -> bool:
        """In the digits that scores must share."""
        return all(round(a, DIGITS) == round(b, DIGITS) for a, b in self.scores.values())


def compare(theirs: Results, ours: Results) -> Comparison:
    """Raises BenchError where they do not have the same items."""
    for name in ("scores", "loglikelihoods", "texts"):
        if getattr(theirs, name).keys() != getattr(ours, name).keys():
            raise BenchError(f"the two runs of lm_eval do not have the same {name}")
    pairs = [(item, a, b) for item, row in theirs.loglikelihoods.items() for a, b in zip(row, ours.loglikelihoods[item], strict=True)]
    return Comparison(
        {key: (score, ours.scores[key]) for key, score in theirs.scores.items()},
        len(pairs),
        max(((abs(a[0] - b[0]), item) for item, a, b in pairs), default=(0.0, ("", 0))),
        sum(a[1] != b[1] for _, a, b in pairs),
        len(theirs.texts),
        _different(theirs.texts, ours.texts),
    )


def _different(theirs: Mapping[Item, str], ours: Mapping[Item, str]) -> list[Item]:
    """lm_eval's own model cuts its text at a stop string itself, and may leave the spaces before it."""
    return [item for item, text in theirs.items() if text.strip() != ours[item].strip()]


def score_rows(comparison: Comparison) -> Sequence[tuple[str, str, float, float]]:
    return [(task, metric, *both) for (task, metric), both in sorted(comparison.scores.items())]
