"""Which replicas of a pool can replace each other: those of one fingerprint (docs/failover.md).

Promises: pure.
"""

from collections import defaultdict
from collections.abc import Iterable

from drafthouse.wire.reports import DrafterReport, VerifierReport

SHOWN = 3
"""Names of replicas in a line, for each fingerprint."""

Groups = dict[str, list[str]]
"""Names of replicas by fingerprint, sorted."""


def groups_of(reports: Iterable[VerifierReport | DrafterReport]) -> Groups:
    """Of one pool."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for report in reports:
        found[report.replica.fingerprint].append(report.replica.name)
    return {fingerprint: sorted(found[fingerprint]) for fingerprint in sorted(found)}


def said_of(verifiers: Groups) -> str:
    """One line of the verifier pool; empty while there is none."""
    if len(verifiers) < 2:
        return "".join(f"verifier pool: all {len(names)} of fingerprint {name}" for name, names in verifiers.items())
    listed = "; ".join(f"{name}: {_listed(names)}" for name, names in verifiers.items())
    return (
        f"verifier pool: {len(verifiers)} fingerprints ({listed}): a text that one began cannot go on at one of another. "
        "Weights, dtype, device or versions differ"
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
