"""`drafthouse bench peers`: ours beside other engines' servers, on the same weights, over HTTP.

Promises: all servers run and are asked in turn, one at a time; each gets the same prompts, none of which it has seen before, and makes
equally many tokens. Ours takes two turns, as the A/A control. A peer that is not installed, does not start or fails is left out, and
the report says why. No server is left when it returns or is interrupted. docs/peers.md says how to read the figures.
"""

import asyncio
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.harness.exact_prompts import ExactPrompts
from benchmarks.harness.http_stream import BenchError, Completion, complete_async
from benchmarks.harness.interleave import order
from benchmarks.harness.prompts import load_texts, load_tokenizer
from benchmarks.harness.report import Report
from benchmarks.load.client import gathered
from benchmarks.peers import servers as known
from benchmarks.peers.report import Block, Place, places_report, wrong_counts
from benchmarks.peers.servers import LLAMA, LLAMA_NGRAM, OURS, TRANSFORMERS, VLLM, Installed, Launch, PeerServer, Setup
from deployments.cli.options import machine
from drafthouse.checkpoints.model_path import model_path
from drafthouse.errors import ConfigError

BODIES = 60
WARM_UP_TOKENS, WARM_UP_ROUNDS, WARM_UP_NUMBERS = 32, 2, 80_000
SERIES_NUMBERS = 20_000
"""Prompts that begin with these numbers on are those of a server's next contestant."""

SPARE_TOKENS = 64
"""Of each context, for drafts and for servers that keep a few."""

IDLE_S = 3.0


@dataclass(frozen=True)
class PeersOptions:
    """`rounds` are those of one client; with several, half as many. `lookup`: prompts that copy, drafted by prompt lookup and, where
    there is one, by the `draft` model."""

    target: str
    dtypes: tuple[str, ...]
    threads: int
    places: tuple[Place, ...]
    tokens: int
    rounds: int
    lookup: bool
    installed: Installed
    draft: str = ""

    @property
    def most_clients(self) -> int:
        return max(place.clients for place in self.places)

    @property
    def prompt_tokens(self) -> list[int]:
        return sorted({place.prompt_tokens for place in self.places})

    def setup(self, dtype: str) -> Setup:
        longest = self.prompt_tokens[-1] + self.tokens + SPARE_TOKENS
        return Setup(self.target, dtype, self.threads, self.most_clients, longest, self.draft)

    def rounds_of(self, place: Place) -> int:
        return self.rounds if place.clients == 1 else max(1, self.rounds // 2)


def places(clients: Sequence[int], prompt_tokens: Sequence[int], quick: bool) -> tuple[Place, ...]:
    """`quick`: several clients have the shortest prompts alone."""
    shortest = min(prompt_tokens)
    return tuple(Place(many, length) for many in clients for length in prompt_tokens if many == 1 or length == shortest or not quick)


@dataclass(frozen=True)
class Contestant:
    """What takes turns: a server, asked in one way. Contestants of one server have prompts of their own, by `series`. After its turn
    the machine is left alone for `settle_s`, in which threads that spin for a while come to rest."""

    name: str
    server: str
    series: int = 0
    speculation: str = ""
    most_clients: int | None = None
    settle_s: float = 0.2

    def fields(self) -> dict[str, Any]:
        return {"speculation": {"mode": self.speculation}} if self.speculation else {}


def contestants(lookup: bool) -> tuple[Contestant, ...]:
    """The first is what is measured, the second its control."""
    if lookup:
        mine = [Contestant(name, OURS, i, "auto") for i, name in enumerate(("ours with lookup", "ours with lookup again"))]
        return (*mine, Contestant("ours plain", OURS, 2, "off"), Contestant(LLAMA_NGRAM, LLAMA_NGRAM), Contestant(LLAMA, LLAMA))
    mine = [Contestant(name, OURS, i, "off") for i, name in enumerate(("ours", "ours again"))]
    vllm = Contestant(VLLM, VLLM, settle_s=1.2)  # its worker spins for a second
    one_by_one = Contestant(TRANSFORMERS, TRANSFORMERS, most_clients=1)  # as `transformers serve` answers
    return (*mine, Contestant(LLAMA, LLAMA), vllm, one_by_one)


@dataclass(frozen=True)
class Turn:
    contestant: Contestant
    place: Place
    round: int


def turns(options: PeersOptions, names: Sequence[Contestant]) -> Iterator[Turn]:
    """Place by place, in each round all contestants that the place has clients for."""
    for place in options.places:
        there = {c.name: c for c in names if c.most_clients is None or place.clients <= c.most_clients}
        for round_ in range(options.rounds_of(place)):
            yield from (Turn(there[name], place, round_) for name in order(list(there), round_))


class Texts:
    """The prompts of a run. What one contestant of a server gets, no other of that server gets."""

    def __init__(self, options: PeersOptions):
        """Raises ConfigError for lengths that cannot be."""
        tokenizer = load_tokenizer(model_path(options.target))
        exact = ExactPrompts(lambda text: tokenizer(text).input_ids, tokenizer.decode, load_texts(None, BODIES))
        self._make = exact.copying if options.lookup else exact.plain
        for tokens in options.prompt_tokens:
            self._make(0, 0, tokens)
        self._first = dict(zip(options.places, _first_numbers(options), strict=True))
        if sum(place.clients * options.rounds_of(place) for place in options.places) > SERIES_NUMBERS:
            raise ConfigError(f"--clients, --rounds: more than {SERIES_NUMBERS} requests to each server")

    def of(self, turn: Turn) -> list[str]:
        place, first = turn.place, self._first[turn.place] + turn.round * turn.place.clients
        series = turn.contestant.series * SERIES_NUMBERS
        return [self._make(series + i, i, place.prompt_tokens) for i in range(first, first + place.clients)]

    def warm_up(self, contestant: Contestant, clients: int, prompt_tokens: int, round_: int) -> list[str]:
        first = WARM_UP_NUMBERS + 1000 * contestant.series + 100 * round_
        return [self._make(first + i, i, prompt_tokens) for i in range(clients)]


def _first_numbers(options: PeersOptions) -> Iterator[int]:
    number = 0
    for place in options.places:
        yield number
        number += place.clients * options.rounds_of(place)


def run_peers(options: PeersOptions, console: Console) -> Report:
    """Raises ConfigError naming the option, BenchError when our own server fails."""
    state, texts, runs = machine(), Texts(options), []
    with tempfile.TemporaryDirectory(prefix="drafthouse-peers-") as name:
        folder = pathlib.Path(name)
        for dtype in options.dtypes:
            known.ours(options.setup(dtype), folder)  # what it refuses shows before a server is started
        runs = [_run(options, dtype, texts, folder, console) for dtype in options.dtypes]
    return {"machine": state, "settings": asdict(options), "runs": runs}


def _run(options: PeersOptions, dtype: str, texts: Texts, folder: pathlib.Path, console: Console) -> Report:
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        servers: dict[str, PeerServer] = {}
        for name, launch in known.launches(options.setup(dtype), options.installed, options.lookup, folder).items():
            try:
                with console.status(f"{dtype}: starting {name}"):
                    server = PeerServer(launch())
                    server.start(options.threads)
                servers[name] = stack.enter_context(closing(server))
            except BenchError as error:
                if name == OURS:
                    raise
                _leave_out(left_out, name, str(error), console)
        there = [c for c in contestants(options.lookup) if c.server in servers]
        blocks = asyncio.run(_measure(options, dtype, servers, there, texts, left_out, console))
        idle = known.busy_cores(servers, IDLE_S)
    names = [c.name for c in there if c.server not in left_out]
    return {
        "dtype": dtype, "left_out": left_out, "places": places_report(blocks, names), "cores_busy_when_idle": idle,
        "wrong_counts": wrong_counts(blocks, options.tokens),
    }  # fmt: skip


def _leave_out(left_out: dict[str, str], name: str, why: str, console: Console) -> None:
    left_out[name] = why
    console.print(f"left out: {name}: {why}", markup=False, highlight=False)


async def _measure(
    options: PeersOptions, dtype: str, servers: Mapping[str, PeerServer], there: Sequence[Contestant], texts: Texts,
    left_out: dict[str, str], console: Console,
) -> list[Block]:  # fmt: skip
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    steps: list[Contestant | Turn] = [*there, *turns(options, there)]
    blocks: list[Block] = []
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(_client(server.launch.url)) for name, server in servers.items()}
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(f"{dtype}: warming up", total=len(steps))
            for step in steps:
                contestant = step if isinstance(step, Contestant) else step.contestant
                client, launch = clients[contestant.server], servers[contestant.server].launch
                try:
                    if isinstance(step, Contestant):
                        await _warm_up(options, client, launch, step, texts)
                    elif contestant.server not in left_out:
                        progress.update(task, description=f"{dtype}, {step.place}: {contestant.name}")
                        blocks.append(await _block(client, launch, step, texts.of(step), options.tokens))
                except BenchError as error:
                    if contestant.server == OURS:
                        raise
                    _leave_out(left_out, contestant.server, str(error), console)
                await asyncio.sleep(contestant.settle_s)
                progress.advance(task)
    return blocks


async def _warm_up(options: PeersOptions, client: httpx.AsyncClient, launch: Launch, contestant: Contestant, texts: Texts) -> None:
    """The longest prompt alone, then the shortest from all clients at once, untimed."""
    tokens, clients = min(options.tokens, WARM_UP_TOKENS), min(options.most_clients, contestant.most_clients or options.most_clients)
    for round_ in range(WARM_UP_ROUNDS):
        for many, length in ((1, options.prompt_tokens[-1]), (clients, options.prompt_tokens[0])):
            prompts = texts.warm_up(contestant, many, length, 2 * round_ + (many > 1))
            await _ask(client, launch, contestant, prompts, tokens)


async def _block(client: httpx.AsyncClient, launch: Launch, turn: Turn, prompts: Sequence[str], tokens: int) -> Block:
    started = time.perf_counter()
    completions = await _ask(client, launch, turn.contestant, prompts, tokens)
    return Block(turn.contestant.name, turn.contestant.series, turn.place, turn.round, completions, time.perf_counter() - started)


async def _ask(
    client: httpx.AsyncClient, launch: Launch, contestant: Contestant, prompts: Sequence[str], tokens: int
) -> list[Completion]:  # fmt: skip
    """All at once. Raises BenchError."""
    bodies = [launch.body(prompt, tokens) | contestant.fields() for prompt in prompts]
    return await gathered([complete_async(client, body, contestant.server == OURS) for body in bodies])


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(30.0, read=600.0), trust_env=False)
