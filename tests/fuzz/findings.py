"""What became of inputs, by port, and what should not have."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_OF_A_KIND = 10
"""Findings that are kept whole; all are counted."""

NEW_LINE, KIND_CHARS = "\n", 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is counted; `fault` is what is wrong with it, empty where nothing is."""

    status: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """`number` is that of the input on its port, which the same seed makes again; `sent` shows it."""

    port: str
    number: int
    fault: str
    sent: str


@dataclass
class Findings:
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    kept: list[Finding] = field(default_factory=list)

    def add(self, port: str, number: int, outcome: Outcome, sent: str) -> None:
        self.statuses.setdefault(port, Counter())[outcome.status] += 1
        if outcome.fault:
            self.found(Finding(port, number, outcome.fault, sent))

    def found(self, finding: Finding) -> None:
        kind = f"{finding.port}: {finding.fault.partition(NEW_LINE)[0][:KIND_CHARS]}"
        self.kinds[kind] += 1
        if self.kinds[kind] <= MAX_OF_A_KIND:
            self.kept.append(finding)

    def inputs(self) -> int:
        return sum(sum(counts.values()) for counts in self.statuses.values())

    def report(self) -> dict[str, Any]:
        statuses = {port: dict(counts.most_common()) for port, counts in self.statuses.items()}
        return {
            "inputs": self.inputs(), "statuses": statuses, "findings": self.kinds.total(), "kinds": dict(self.kinds.most_common()),
            "kept": [asdict(found) for found in self.kept],
        }  # fmt: skip
