"""What `drafthouse status --watch` shows: rates since the look before, then all that `status` prints; or a line for each look.

Promises: rates compare what the same processes counted at two looks, so that one that comes or goes makes no jump. After a time without
an answer the first look has no rates. The terminal is as before when the view ends, however it ends.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deployments.cli.cluster_view import ALARM, ShownCluster, cluster_view, number

ROWS = 3
"""Of the figures above the tables."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Over the time between two looks; `acceptance` is accepted over verified nodes, None where none were verified."""

    seconds: float
    tokens_per_s: float
    prompt_tokens_per_s: float
    requests_per_s: float
    steps_per_s: float
    drafted_per_s: float
    acceptance: float | None


@dataclass(frozen=True, slots=True)
class _Look:
    cluster: ShownCluster
    at: float  # seconds, monotonic


class StatusWatch:
    """What is known of the server from one look to the next."""

    def __init__(self) -> None:
        self._before: _Look | None = None
        self._last: _Look | None = None
        self._lost: tuple[float, str] | None = None  # Unix seconds of the first look without an answer, and why the last one had none

    def seen(self, cluster: ShownCluster, at: float) -> None:
        """`at`: seconds, monotonic."""
        self._before = None if self._lost else self._last
        self._last, self._lost = _Look(cluster, at), None

    def lost(self, why: str, now: float) -> None:
        """`now`: Unix seconds."""
        self._lost = (self._lost[0] if self._lost else now), why

    @property
    def rates(self) -> Rates | None:
        if self._lost or self._before is None or self._last is None or self._last.at <= self._before.at:
            return None
        return _rates(self._before, self._last)

    def view(self, now: float) -> RenderableType:
        """For a terminal. Without an answer the last state stays below the notice."""
        parts: list[RenderableType] = []
        if self._lost:
            since, why = self._lost
            parts.append(Text(f"unreachable since {_clock(since)}: {why}", style=ALARM))
        if self._last is None:
            return Group(*parts)
        parts += [] if self._lost else [self._rates_table()]
        return Group(*parts, *cluster_view(self._last.cluster, now))

    def line(self, now: float) -> str:
        """For a file or a pipe: the time, then `name=value`, a dash for what is not known."""
        if self._lost:
            since, why = self._lost
            return f"{_clock(now)} unreachable since={_clock(since)} reason={' '.join(why.split())}"
        return f"{_clock(now)} " + " ".join(f"{name}={value}" for name, value in self._figures().items())

    def _figures(self) -> dict[str, str]:
        if self._last is None:
            return {}
        cluster, r = self._last.cluster, self.rates
        rates: dict[str, float | None] = asdict(r) if r is not None else {}
        gates = [v.gauges.gate_open for v in cluster.pools.get("verifier", ()) if v.gauges.gate_open is not None]
        return {
            "tokens_per_s": number(rates.get("tokens_per_s"), ".1f"),
            "prompt_tokens_per_s": number(rates.get("prompt_tokens_per_s"), ".1f"),
            "requests_per_s": number(rates.get("requests_per_s"), ".2f"),
            "steps_per_s": number(rates.get("steps_per_s"), ".1f"),
            "drafted_per_s": number(rates.get("drafted_per_s"), ".1f"),
            "acceptance": number(rates.get("acceptance"), ".3f"),
            "goodput": number(cluster.goodput.committed_per_s, ".1f"),
            "price": number(cluster.goodput.price_median, ".3f"),
            "gates_open": f"{sum(map(int, gates))}/{len(gates)}" if gates else "-",
            "sessions": str(cluster.sessions),
            "requests": str(sum(v.load for v in cluster.pools.get("verifier", ()))),
            "queue": str(cluster.goodput.queue),
            **{f"{role}s": str(len(replicas)) for role, replicas in cluster.pools.items()},
        }

    def _rates_table(self) -> Table:
        r = self.rates
        title = "now; rates come with the next look" if r is None else f"now; rates over the last {r.seconds:.1f} s"
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
        cells = [cell for name, value in self._figures().items() for cell in (name.replace("_per_s", "/s").replace("_", " "), value)]
        row_cells = len(cells) // ROWS + len(cells) % ROWS
        for column in range(row_cells):
            table.add_column(justify="right" if column % 2 else "left", style=None if column % 2 else "dim")
        for start in range(0, len(cells), row_cells):
            table.add_row(*cells[start : start + row_cells])
        return table


def _rates(before: _Look, last: _Look) -> Rates:
    seconds = last.at - before.at

    def grown(role: str, counter: str) -> float:
        return sum(max(0.0, new - old) for old, new in _pairs(before.cluster, last.cluster, role, counter))

    verified = grown("verifier", "verified")
    return Rates(
        seconds, grown("verifier", "committed") / seconds, grown("verifier", "prompt_tokens") / seconds,
        grown("gateway", "requests") / seconds, grown("verifier", "steps") / seconds, grown("drafter", "drafted") / seconds,
        grown("verifier", "accepted") / verified if verified else None,
    )  # fmt: skip


def _pairs(before: ShownCluster, last: ShownCluster, role: str, counter: str) -> Iterator[tuple[float, float]]:
    """The counter of each process that both looks show; a process is known by its name and its start."""
    former = {(r.replica, r.started): r.totals.get(counter, 0.0) for r in before.pools.get(role, ())}
    for r in last.pools.get(role, ()):
        if (r.replica, r.started) in former:
            yield former[r.replica, r.started], r.totals.get(counter, 0.0)


def _clock(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


Show = Callable[[StatusWatch, float], None]


class Stream(Protocol):
    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...


@contextmanager
def shown_live(console: Console) -> Iterator[Show]:
    """On the terminal's alternate screen, which goes when the view ends."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda state, now: live.update(state.view(now), refresh=True)


@contextmanager
def shown_in_lines(out: Stream) -> Iterator[Show]:
    """Each line is out before the next look."""

    def show(state: StatusWatch, now: float) -> None:
        out.write(state.line(now) + "\n")
        out.flush()

    yield show
