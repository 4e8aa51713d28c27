"""All interleavings of Grow, Commit, Close, re-pairing and loss against one model of the truth (docs/design.md 4)."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from drafthouse.config.serving import FIRST_OWN, DrafterConfig, TreeConfig
from drafthouse.sampling import SamplingParams
from drafthouse.stages.build import MODEL, SOURCE_OF
from drafthouse.token_tree import TokenTree
from drafthouse.wire.session_messages import Grow, from_verifier_proto
from tests.engine.interleaved import DRAFTERS, LIMITS, MODEL_ALONE, TREE, Interleaved, Stream
from tests.engine.interleaved_states import InterleavedStates
from tests.engine.pairs import GREEDY, request
from tests.engine.scripted import RECENT, VOCAB_SIZE

PROMPTS = ((1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11, 12), tuple(range(14)) * 2)
SAMPLINGS = (GREEDY, SamplingParams(1.0), SamplingParams(0.7, top_k=5, repetition_penalty=1.3))
MAX_TOKENS = 14
EXAMPLES, STAGED_EXAMPLES = 900, 250
STATE_EXAMPLES = 200
DAMAGE = ("index", "token", "parent", "future", "unreadable")


def damaged(message: Grow, kind: str) -> Grow:
    n = message.nodes
    match kind:
        case "index":
            return replace(message, first_node=message.first_node + 1000)
        case "future":
            return replace(message, base_len=message.base_len + 1000)
        case "token":
            return replace(message, nodes=TokenTree([VOCAB_SIZE] * len(n), n.parents, n.edges, n.sources))
    return replace(message, nodes=TokenTree(n.tokens, [p + 1000 for p in n.parents], n.edges, n.sources))


class Interleavings(RuleBasedStateMachine):
    reached: Counter[str] = Counter()
    """Over all examples."""

    setups: tuple[tuple[DrafterConfig, TreeConfig], ...] = ((MODEL_ALONE, TREE),)

    @initialize(per_token_ms=st.sampled_from([0.001, 0.001, 1.0]), long=st.booleans(), which=st.integers(0, 63))
    def start(self, per_token_ms: float, long: bool, which: int) -> None:
        self.it = Interleaved(per_token_ms, *self.setups[which % len(self.setups)])
        for name in DRAFTERS:
            self.it.connect(name)
        for name in "abc":
            self.submit(name, PROMPTS[2 if long else 0], SAMPLINGS[1], seed=0, mode="auto")

    @rule(name=st.sampled_from("abcd"), prompt=st.sampled_from(PROMPTS), sampling=st.sampled_from(SAMPLINGS), seed=st.integers(0, 2),
          mode=st.sampled_from(["auto", "auto", "fixed", "off"]))  # fmt: skip
    def submit(self, name: str, prompt: tuple[int, ...], sampling: SamplingParams, seed: int, mode: str) -> None:
        """A new request, perhaps under an id that was used before, or the next attempt at one that was cancelled."""
        if name in self.it.verifier.sequences:
            return
        old, output = self.it.requests.get(name), self.it.outputs.get(name, [])
        if old is not None and len(output) < MAX_TOKENS:
            self.it.reached["resumed"] += bool(output)
            self.it.submit(replace(old, attempt=old.attempt + 1, delivered=tuple(output)))
        else:
            self.it.submit(request(name, prompt, MAX_TOKENS, sampling, seed, mode, nodes=6, depth=3))

    @precondition(lambda self: self.it.verifier.sequences)
    @rule(which=st.integers(0, 3))
    def cancel(self, which: int) -> None:
        running = list(self.it.verifier.sequences.values())
        sequence = running[which % len(running)]
        self.it.verifier.cancel(sequence.id, sequence.request.attempt)

    @rule()
    def step(self) -> None:
        self.it.step()

    @rule(passes=st.integers(1, 3), held=st.integers(0, 2))
    def step_with_arrivals(self, passes: int, held: int) -> None:
        """While it runs drafters hear, draft and answer; the last that each of them says comes only after the commit."""

        def meanwhile() -> None:
            for stream in list(self.it.live.values()):
                self.it.deliver_up(stream, 99)
                for _ in range(passes):
                    self.it.route(self.it.drafters[stream.drafter].run_pass())
                count = max(0, len(stream.down) - held)
                self.it.reached["during a step"] += count
                self.it.deliver_down(stream, count)

        self.it.step(meanwhile)

    @rule(seconds=st.sampled_from([0.002, 0.02, 0.6, 1.1]))
    def wait(self, seconds: float) -> None:
        self.it.now += seconds

    @precondition(lambda self: self.it.streams)
    @rule(which=st.integers(0, 5), count=st.integers(1, 4))
    def deliver_up(self, which: int, count: int) -> None:
        self.it.deliver_up(self.stream(which), count)

    @precondition(lambda self: self.it.streams)
    @rule(which=st.integers(0, 5), count=st.integers(1, 4))
    def deliver_down(self, which: int, count: int) -> None:
        self.it.deliver_down(self.stream(which), count)

    def stream(self, which: int) -> Stream:
        return self.it.streams[which % len(self.it.streams)]

    @rule(name=st.sampled_from(DRAFTERS))
    def draft_pass(self, name: str) -> None:
        self.it.route(self.it.drafters[name].run_pass())

    @rule(turns=st.integers(1, 3))
    def all_goes_well(self, turns: int) -> None:
        """Undisturbed turns, so that examples get far."""
        for _ in range(turns):
            for stream in list(self.it.live.values()):
                self.it.deliver_up(stream, 99)
                self.it.route(self.it.drafters[stream.drafter].run_pass())
                self.it.deliver_down(stream, 99)
            self.it.step()

    @precondition(lambda self: self.it.live)
    @rule(which=st.integers(0, 1), up=st.integers(0, 3), down=st.integers(0, 3))
    def lose(self, which: int, up: int, down: int) -> None:
        self.it.lose(sorted(self.it.live)[which % len(self.it.live)], up, down)

    @precondition(lambda self: len(self.it.live) < len(DRAFTERS))
    @rule()
    def connect(self) -> None:
        self.it.connect(next(name for name in DRAFTERS if name not in self.it.live))

    @precondition(lambda self: any(s.broken for s in self.it.streams))
    @rule()
    def drafter_notices(self) -> None:
        self.it.forget(next(s for s in self.it.streams if s.broken))

    @rule(name=st.sampled_from(DRAFTERS))
    def drafter_drops(self, name: str) -> None:
        drafter = self.it.drafters[name]
        for key in list(drafter.sessions)[:1]:
            self.it.route([(key[0], drafter.drop(key, "a test"))])

    @precondition(lambda self: self.it.live)
    @rule(name=st.sampled_from(DRAFTERS))
    def damage(self, name: str) -> None:
        """A Grow is damaged on the way: its session ends, nothing else does."""
        kind = DAMAGE[round(self.it.now / 0.005) % len(DAMAGE)]  # by the clock, since hypothesis prefers some choices by far
        stream = self.it.live.get(name)
        if stream is None:
            return
        self.draft_pass(name)
        while stream.down:
            message = from_verifier_proto(stream.down.popleft())
            if isinstance(message, Grow) and len(message.nodes):
                return self.receive_damaged(stream, message, kind)
            self.it.receive(stream, message)

    def receive_damaged(self, stream: Stream, message: Grow, kind: str) -> None:
        events = self.it.verifier.draft_sessions.events
        before = events.malformed
        if kind == "unreadable":
            self.it.verifier.fail_session(message.session_id, message.epoch, kind)
        else:
            self.it.receive(stream, damaged(message, kind))
        self.it.damaged += events.malformed - before
        self.it.reached[kind] += events.malformed - before

    @invariant()
    def check(self) -> None:
        if hasattr(self, "it"):  # hypothesis asks before `start` too
            self.it.check()

    def teardown(self) -> None:
        if not hasattr(self, "it"):
            return
        self.it.finish()
        verifier = self.it.verifier
        self.it.reached.update(accepted=verifier.totals.accepted, preempted=verifier.scheduler.preemptions)
        self.it.reached["of the verifier"] += verifier.local.totals.stage_nodes
        for drafter in self.it.drafters.values():
            self.it.reached["came true"] += drafter.totals.came_true
            self.it.reached["cached by a drafter"] += drafter.totals.cached_tokens
            self.it.reached["grown ahead"] += drafter.ahead_passes
            self.it.reached["survived"] += drafter.survived
            assert drafter.tree.grow_during_verification or not drafter.ahead_passes
        type(self).reached += self.it.reached


MERGED = [{"kind": "lookup"}, {"kind": "model", "inner": {"kind": "tests.engine.own_stages:Counting"}}, {"kind": "suffix"}]
SPLIT = [
    {"kind": "lookup", "placement": "verifier"},
    {"kind": "tests.engine.own_stages:Counting"},
    {"kind": "model", "inner": {"kind": "suffix"}},
]


class StagedInterleavings(Interleavings):
    reached: Counter[str] = Counter()
    setups = tuple(
        (DrafterConfig.model_validate({"stages": stages, "window": window, **LIMITS}), tree)
        for stages in (MERGED, SPLIT)
        for window in (None, {"sinks": 1, "recent": RECENT})
        for tree in (TREE, TREE.model_copy(update={"grow_during_verification": False}))
    )


class StateInterleavings(Interleavings):
    reached: Counter[str] = Counter()
    setups = tuple(
        (DrafterConfig.model_validate({"stages": stages, "window": window, **LIMITS}), tree)
        for stages in ([{"kind": "model"}], [{"kind": "lookup"}, {"kind": "model"}])
        for window in (None, {"sinks": 1, "recent": RECENT})
        for tree in (TREE, TREE.model_copy(update={"grow_during_verification": False}))
    )

    @initialize(per_token_ms=st.sampled_from([0.001, 0.001, 1.0]), long=st.booleans(), which=st.integers(0, 63))
    def start(self, per_token_ms: float, long: bool, which: int) -> None:
        self.it = InterleavedStates(per_token_ms, *self.setups[which % len(self.setups)])
        for name in DRAFTERS:
            self.it.connect(name)
        for name in "abc":
            self.submit(name, PROMPTS[2 if long else 0], SAMPLINGS[1], seed=0, mode="auto")

    @precondition(lambda self: self.it.streams)
    @rule(which=st.integers(0, 5), spoilt=st.booleans())
    def tamper(self, which: int, spoilt: bool) -> None:
        """States that are under way get lost, or one of them is cut."""
        assert isinstance(self.it, InterleavedStates)
        (self.it.spoil_states if spoilt else self.it.lose_states)(self.stream(which))


EVENTS = (
    "accepted", "preempted", "cached", "stale", "late", "appended", "during a step", "equal", "resumed", "Opened", "Refused", "Dropped",
)  # fmt: skip


def explored(machine: type[Interleavings], examples: int, events: Iterable[str]) -> None:
    machine.reached.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, derandomize=True, report_multiple_bugs=False),
    )
    print(dict(machine.reached))
    for event in events:
        assert machine.reached[event], f"no example reached {event!r}: {dict(machine.reached)}"


def test_interleavings() -> None:
    explored(Interleavings, EXAMPLES, (*EVENTS, *DAMAGE, "cached by a drafter"))


def test_interleavings_of_staged_and_merged_drafters() -> None:
    sources = [f"source {source}" for source in (MODEL, SOURCE_OF["lookup"], SOURCE_OF["suffix"], FIRST_OWN)]
    events = ("came true", "grown ahead", "survived", "skipped", "of the verifier", *sources)
    explored(StagedInterleavings, STAGED_EXAMPLES, (*EVENTS, *events))


def test_interleavings_of_drafts_that_read_states() -> None:
    """Without an inner stage, which they cannot have."""
    states = ("states", "lost states", "spoilt states", "told of a prompt", "run alone", "own states", "cached by a drafter", "skipped")
    explored(StateInterleavings, STATE_EXAMPLES, ("accepted", "stale", "late", "during a step", "equal", "resumed", *states))
