"""Figures of servers that stand side by side: rates, times and ratios, place by place, and the table of them.

Promises: a ratio says how many times faster the first contestant is: by tokens per second, by the time to the first text, and by the
time per token after it. What is compared had the same prompts, but for the first contestant's control, which had others alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.harness.http_stream import Completion
from benchmarks.harness.report import Report
from benchmarks.harness.samples import Sample, ratio, tokens_per_second

OVERALL, FIRST, DECODING = "tokens_per_second", "first_token", "decoding"
METRICS = (OVERALL, FIRST, DECODING)

SPINS = 0.05
"""Cores: a server that is busy with more than this while nothing is asked slows the others."""


@dataclass(frozen=True, slots=True)
class Place:
    """`clients` requests at once, each with a prompt of `prompt_tokens`."""

    clients: int
    prompt_tokens: int

    def __str__(self) -> str:
        return f"{self.clients} client{'s' * (self.clients > 1)}, prompts of {self.prompt_tokens}"


@dataclass(frozen=True, slots=True)
class Block:
    """One turn: the requests of all clients, sent together, and the seconds until the last had ended. Contestants of one `series` had
    the same prompts."""

    contestant: str
    series: int
    place: Place
    round: int
    completions: Sequence[Completion]
    seconds: float

    def sample(self, metric: str) -> Sample:
        """As a rate: tokens by seconds; of the first token, requests by the sum of their waits."""
        made = sum(c.tokens for c in self.completions)
        tokens, seconds = {
            OVERALL: (made, self.seconds),
            FIRST: (len(self.completions), sum(c.first_text_s for c in self.completions)),
            DECODING: (made - len(self.completions), sum(c.decode_seconds for c in self.completions)),
        }[metric]
        return Sample(self.contestant, "greedy", self.round, tokens, seconds, 0)


def places_report(blocks: Sequence[Block], names: Sequence[str]) -> list[Report]:
    """One entry for each place; `names` are in order of the table, the first the one that is measured."""
    return [_place(place, [b for b in blocks if b.place == place], names) for place in dict.fromkeys(b.place for b in blocks)]


def _place(place: Place, blocks: Sequence[Block], names: Sequence[str]) -> Report:
    by_name = {name: mine for name in names if (mine := [b for b in blocks if b.contestant == name])}
    first = by_name[names[0]]
    return {
        **asdict(place), "contestants": {name: _figures(mine) for name, mine in by_name.items()},
        "ratios": {name: _ratios(first, mine) for name, mine in by_name.items() if name != names[0]},
        "same_text": {name: _same_text(first, mine) for name, mine in by_name.items() if mine[0].series == first[0].series},
    }  # fmt: skip


def _figures(blocks: Sequence[Block]) -> dict[str, float | None]:
    """`tokens_per_step` is there where the server tells its steps."""
    rates = {metric: tokens_per_second([b.sample(metric) for b in blocks]) for metric in METRICS}
    completions = [c for b in blocks for c in b.completions]
    tokens, steps = sum(c.tokens for c in completions), sum(c.steps for c in completions)
    return {
        OVERALL: rates[OVERALL], "first_token_ms": 1e3 / rates[FIRST], "token_ms": 1e3 / rates[DECODING],
        "tokens_per_step": tokens / steps if steps else None,
    }  # fmt: skip


def _ratios(first: Sequence[Block], other: Sequence[Block]) -> dict[str, dict[str, float]]:
    return {metric: asdict(ratio([b.sample(metric) for b in first], [b.sample(metric) for b in other])) for metric in METRICS}


def _same_text(first: Sequence[Block], other: Sequence[Block]) -> dict[str, int]:
    """Of the texts of equal prompts. Engines round differently, so below float32 some part at a near-tie."""
    texts = {b.round: [c.text for c in b.completions] for b in first}
    pairs = [pair for b in other if b.round in texts for pair in zip(texts[b.round], (c.text for c in b.completions), strict=True)]
    return {"compared": len(pairs), "equal": sum(mine == theirs for mine, theirs in pairs)}


def wrong_counts(blocks: Sequence[Block], tokens: int) -> dict[str, int]:
    """Completions, by contestant, that had another prompt length or another number of tokens than asked for: they spoil the ratios."""
    found: dict[str, int] = {}
    for block in blocks:
        wrong = sum((c.prompt_tokens, c.tokens) != (block.place.prompt_tokens, tokens) for c in block.completions)
        if wrong:
            found[block.contestant] = found.get(block.contestant, 0) + wrong
    return found


def print_peers(console: Console, report: Report) -> None:
    """A table for each dtype, and below it what qualifies its figures."""
    settings = report["settings"]
    for run in report["runs"]:
        title = (
            f"{settings['target']}, {run['dtype']}, {settings['threads']} threads, {settings['tokens']} tokens, {settings['rounds']} rounds"
        )
        legend = "x: how many times faster the first row is, with its 95 % interval"
        table = Table(title=f"{title}\n{legend}", title_justify="left", box=SIMPLE, padding=(0, 0, 0, 1), pad_edge=False)
        for heading in ("clients\nprompt", "server", "tokens/s", "x", "first\ntoken,\nms", "x", "ms\na\ntoken", "x"):
            if heading == "server":
                table.add_column(heading, min_width=12)
            else:
                table.add_column(heading, justify="right", no_wrap=heading == "x")
        for place in run["places"]:
            for i, (name, figures) in enumerate(place["contestants"].items()):
                where = f"{place['clients']}\n{place['prompt_tokens']}" if i == 0 else ""
                table.add_row(where, name, *_cells(figures, place["ratios"].get(name)), end_section=i == len(place["contestants"]) - 1)
        console.print(table)
        for line in notes(run):
            console.print(line, markup=False, highlight=False)


def _cells(figures: Mapping[str, Any], ratios: Mapping[str, Mapping[str, float]] | None) -> list[str]:
    values = (f"{figures[OVERALL]:.1f}", f"{figures['first_token_ms']:.0f}", f"{figures['token_ms']:.1f}")
    times = [""] * len(METRICS) if ratios is None else [_times(ratios[metric]) for metric in METRICS]
    return [cell for pair in zip(values, times, strict=True) for cell in pair]


def _times(r: Mapping[str, float]) -> str:
    return f"{r['value']:.2f}\n{r['low']:.2f}-{r['high']:.2f}"


def notes(run: Report) -> list[str]:
    """Lines below the table."""
    lines = [f"left out: {name}: {why.splitlines()[0]}" for name, why in run["left_out"].items()]
    lines += [f"{name}: {n} completions with another prompt length or number of tokens" for name, n in run["wrong_counts"].items()]
    spinning = {name: cores for name, cores in run["cores_busy_when_idle"].items() if cores > SPINS}
    lines += [f"{name} keeps {cores:.2f} cores busy while nothing is asked of it" for name, cores in spinning.items()]
    for place in run["places"]:
        for name, figures in place["contestants"].items():
            if (figures["tokens_per_step"] or 1) > 1.005:
                lines.append(
                    f"{Place(place['clients'], place['prompt_tokens'])}: {name} commits {figures['tokens_per_step']:.2f} tokens a step"
                )
    equal: dict[str, list[int]] = {}
    for place in run["places"]:
        for name, same in list(place["same_text"].items())[1:]:
            both = equal.setdefault(name, [0, 0])
            both[0], both[1] = both[0] + same["equal"], both[1] + same["compared"]
    return [*lines, *(f"{name}: {same} of {compared} texts are those of the first row" for name, (same, compared) in equal.items())]
