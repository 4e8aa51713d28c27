"""The ablation over the full stack: real Ray cluster, HTTP, data plane; time of passes from curves.

Promises: a few configurations at a time are served, since pools without requests cost their heartbeats too: in each group `plain`,
`tree` and its control take turns with the others on each prompt with the same seed, one request in flight at a time.
Rates are of decoding: from the first text on, without the token that it is, since prompts go through in smaller chunks here
than a real target takes. Seconds are on the stretched axis.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import httpx
from rich.console import Console

from benchmarks.ablation.cluster import HEARTBEAT_S, ApplicationsServer, ablation_configs
from benchmarks.ablation.configurations import CONFIGURATIONS, groups, pool_of, pools
from benchmarks.ablation.figures import Generation, Work
from benchmarks.ablation.schedule import Schedule
from benchmarks.harness.http_stream import Completion, complete, connect
from benchmarks.harness.interleave import SAMPLINGS, Turn
from benchmarks.harness.overruns import is_void
from benchmarks.harness.paced_server import SETTLED_HEARTBEATS, PacedPair, Totals, difference, settled_totals
from benchmarks.harness.report import Report
from benchmarks.harness.samples import Sample
from drafthouse.sampling import SamplingParams

WARM_UP_RUNS, WARM_UP_TOKENS = 1, 32
OTHERS = 3
"""Configurations with pools of their own beside those of `tree`. With six the CPU was late for 18 % of the draft's passes."""

State = dict[str, Totals]


@dataclass
class Meter:
    """What each pair of pools counts, turn by turn. Totals are read late: when the same pools' next turn comes, they have settled
    meanwhile, and nobody waits for heartbeats."""

    urls: Mapping[str, str]
    finished: dict[str, int] = field(default_factory=dict)
    works: dict[Turn, Work] = field(default_factory=dict)
    first: dict[str, State] = field(default_factory=dict)
    last: dict[str, State] = field(default_factory=dict)
    _open: dict[str, Turn] = field(default_factory=dict)
    _ended: dict[str, float] = field(default_factory=dict)

    def started(self, pool: str, warm_ups: int) -> None:
        self.finished[pool], self._ended[pool] = warm_ups, time.monotonic()
        self.first[pool] = self.last[pool] = self._read(pool)

    def before(self, pool: str) -> None:
        """The last turn of these pools is accounted for."""
        turn = self._open.pop(pool, None)
        if turn is not None:
            after = self._read(pool)
            self.works[turn] = _work(after, self.last[pool])
            self.last[pool] = after

    def after(self, pool: str, turn: Turn) -> None:
        self._open[pool], self._ended[pool] = turn, time.monotonic()
        self.finished[pool] += 1

    def _read(self, pool: str) -> State:
        left = self._ended[pool] + SETTLED_HEARTBEATS * HEARTBEAT_S - time.monotonic()
        return settled_totals(self.urls[pool], self.finished[pool], max(0.0, left))

    def changes(self, role: str, pools: Sequence[str]) -> list[Totals]:
        """What a role has counted in these pools, as far as they were served."""
        return [difference(self.last[pool][role], self.first[pool][role]) for pool in self.first if pool in pools]


def overruns(meters: Sequence[Meter], pools: Sequence[str]) -> dict[str, float]:
    """Share of each role's passes, of these pools together, that took the CPU longer than the curve allows."""
    shares = {}
    for role in ("verifier", "drafter"):
        changes = [change for meter in meters for change in meter.changes(role, pools)]
        steps, late = (sum(c.get(name, 0.0) for c in changes) for name in ("paced_steps", "paced_overruns"))
        shares[role] = late / steps if steps else 0.0
    return shares


def _work(after: State, before: State) -> Work:
    verifier, drafter = (difference(after[role], before[role]) for role in ("verifier", "drafter"))
    return Work(
        committed=verifier["committed"], steps=verifier["steps"], verified=verifier["verified"],
        run_seconds=verifier["run_seconds"], wait_seconds=verifier["wait_seconds"],
        **{name: drafter.get(name, 0.0) for name in ("passes", "pass_seconds", "judged", "first")},  # none where nothing drafts there
    )  # fmt: skip


def measure(
    pair: PacedPair, names: Sequence[str], prompts: Sequence[list[int]], tokens: int, samplings: Mapping[str, SamplingParams],
    rounds: int, deadline: float | None, console: Console,
) -> tuple[list[list[Generation]], Report]:  # fmt: skip
    """Generations by group, and what else is to be reported. `deadline`: on `time.monotonic`; each group has an equal share of the time.

    Raises ConfigError naming the option, BenchError when the server fails.
    """
    parts = groups(names, OTHERS)
    generations, meters = [], []
    for i, part in enumerate(parts):
        now = time.monotonic()
        until = now + (deadline - now) / (len(parts) - i) if deadline is not None else None
        console.print(f"{i + 1} of {len(parts)}: {', '.join(part)}", highlight=False)
        measured, meter = _measure(pair, part, prompts, tokens, samplings, Schedule(part, len(prompts), rounds, until), console)
        generations.append(measured)
        meters.append(meter)
    shares = overruns(meters, pools(names))
    by_pools = [{pool: overruns([meter], [pool]) for pool in meter.first} for meter in meters]
    return generations, {"overruns": shares, "overruns_by_group": by_pools, "void": is_void(shares)}


def _measure(
    pair: PacedPair, names: Sequence[str], prompts: Sequence[list[int]], tokens: int, samplings: Mapping[str, SamplingParams],
    schedule: Schedule, console: Console,
) -> tuple[list[Generation], Meter]:  # fmt: skip
    own = pools(names)
    server = ApplicationsServer(ablation_configs(pair, own))
    with ExitStack() as stack:
        with console.status(f"starting Ray and {len(own)} applications"):
            server.start()
        stack.enter_context(closing(server))
        clients = {pool: stack.enter_context(connect(server.url(pool), trust_env=False)) for pool in own}
        meter = Meter({pool: server.url(pool) for pool in own})
        with console.status("warming up"):
            warm_ups = {pool: _warm_up(clients[pool], prompts, min(tokens, WARM_UP_TOKENS), samplings) for pool in own}
            for pool, count in warm_ups.items():
                meter.started(pool, count)
        timed = list(_timed(clients, meter, prompts, tokens, samplings, schedule, console))
        for pool in own:
            meter.before(pool)
    return [_generation(turn, completion, meter.works[turn]) for turn, completion in timed], meter


def _warm_up(client: httpx.Client, prompts: Sequence[list[int]], tokens: int, samplings: Mapping[str, SamplingParams]) -> int:
    """Untimed; kernels and calibration meet their first steps here. Returns how many requests that were."""
    bodies = [_body(prompts[seed % len(prompts)], tokens, samplings[s], seed, "auto") for s in SAMPLINGS for seed in range(WARM_UP_RUNS)]
    for body in bodies:
        complete(client, body)
    return len(bodies)


def _timed(
    clients: Mapping[str, httpx.Client], meter: Meter, prompts: Sequence[list[int]], tokens: int,
    samplings: Mapping[str, SamplingParams], schedule: Schedule, console: Console,
) -> Iterator[tuple[Turn, Completion]]:  # fmt: skip
    for turn in schedule.turns(console):
        pool = pool_of(turn.contestant)
        meter.before(pool)
        mode = CONFIGURATIONS[turn.contestant].mode
        completion = complete(clients[pool], _body(prompts[turn.prompt], tokens, samplings[turn.sampling], turn.seed, mode))
        meter.after(pool, turn)
        yield turn, completion


def _body(prompt: Sequence[int], tokens: int, sampling: SamplingParams, seed: int, mode: str) -> dict[str, object]:
    return {
        "model": "paced", "prompt": list(prompt), "max_tokens": tokens, "temperature": sampling.temperature, "top_k": sampling.top_k,
        "seed": seed, "speculation": {"mode": mode}, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def _generation(turn: Turn, c: Completion, work: Work) -> Generation:
    """Without the first token and its step."""
    decoded = max(0, c.tokens - 1)
    sample = Sample(turn.contestant, turn.sampling, turn.prompt, decoded, c.decode_seconds, max(0, c.steps - 1))
    return Generation(sample, c.seconds, work)
