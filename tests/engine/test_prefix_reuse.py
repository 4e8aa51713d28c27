"""The prefix cache under a real model on the native decoder: less work, and every bit as without it."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.sampling import SamplingParams
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from simulator.one_process import OneProcess
from tests.engine.pairs import FLAT, GREEDY, loaded, noisy_copy, pair, request
from tests.engine.tiny_models import VOCAB_SIZE, tiny
from verifier.engine import VerifierEngine
from verifier.step import Step, Wait
from verifier.step_loop import run_step
from verifier.verification import Verification

SHARED, REQUESTS, TAIL, OUTPUT = 1500, 32, 12, 3
SAMPLED = SamplingParams(temperature=1.0)


def random_tokens(count: int, seed: int) -> list[int]:
    return torch.randint(0, VOCAB_SIZE, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


COMMON = random_tokens(SHARED, 1)


def target(prefix_cache: str, kv_tokens: int = 4096, name: str = "llama") -> LoadedModel:
    model = tiny(name, dtype=torch.float32)
    model.config.max_position_embeddings = 4096
    return loaded(model, kv_tokens, prefix_cache)


class Recorded(Verification):
    """Keeps the logits of each choice, by request and position."""

    def __init__(self, synthetic_rate: float | None):
        super().__init__(synthetic_rate)
        self.logits: dict[tuple[str, int], torch.Tensor] = {}

    def choose(self, step: Step, logits: torch.Tensor) -> np.ndarray:
        trees, prompted = step.batch.trees, step.batch.prompted
        rows = [*trees.first[:-1].tolist(), *range(len(trees), len(trees) + len(prompted))]
        for row, s in zip(rows, [*step.plan.decoding, *prompted], strict=True):
            self.logits[s.id, len(s.tokens)] = logits[row].clone()
        return super().choose(step, logits)


class Verifier:
    """An engine without drafters, and what it has said."""

    def __init__(self, model: LoadedModel, config: VerifierConfig | None = None):
        self.engine = VerifierEngine(model, FLAT, config or VerifierConfig(), TreeConfig(), verification=Recorded)
        self.texts: dict[str, list[int]] = {}
        self.last: dict[str, GenerateReply] = {}

    @property
    def logits(self) -> dict[tuple[str, int], torch.Tensor]:
        assert isinstance(self.engine.verification, Recorded)
        return self.engine.verification.logits

    def submit(self, r: GenerateRequest) -> None:
        self.texts[r.request_id] = list(r.delivered)
        self.engine.submit(r)

    def step(self) -> None:
        for reply in run_step(self.engine) or ():  # type: ignore[union-attr]
            self.texts[reply.request_id] += reply.tokens
            self.last[reply.request_id] = reply

    def run(self, requests: Iterable[GenerateRequest]) -> None:
        """Together."""
        for r in requests:
            self.submit(r)
        while self.engine.sequences:
            self.step()
        allocator = self.engine.scheduler.allocator
        allocator.check_integrity()
        assert allocator.free_count == allocator.count, "KV slots leaked"


def compare(one: Verifier, plain: Verifier) -> None:
    assert one.texts == plain.texts
    assert one.logits.keys() == plain.logits.keys()
    assert all(torch.equal(logits, one.logits[key]) for key, logits in plain.logits.items()), "a bit has changed"


def requests() -> list[GenerateRequest]:
    """Half of them sampled; two of them equal but for the seed, as `n` makes them."""
    made = []
    for i in range(REQUESTS):
        tail = random_tokens(TAIL, 100 + max(i, 1))
        made.append(request(str(i), COMMON + tail, OUTPUT, SAMPLED if i % 2 else GREEDY, seed=i, mode="off"))
    return made


@pytest.fixture(scope="module")
def uncached() -> Verifier:
    verifier = Verifier(target("off"))
    verifier.run(requests())
    assert verifier.engine.totals.prompt_tokens == REQUESTS * (SHARED + TAIL)
    return verifier


def one_by_one(verifier: Verifier, several: Sequence[GenerateRequest]) -> None:
    for each in several:
        verifier.run([each])


def together(verifier: Verifier, several: Sequence[GenerateRequest]) -> None:
    verifier.run(several)


@pytest.mark.parametrize("run", [together, one_by_one])
def test_a_common_beginning_is_prefilled_once_and_no_bit_changes(
    uncached: Verifier, run: Callable[[Verifier, Sequence[GenerateRequest]], None]
) -> None:
    verifier = Verifier(target("auto"))
    run(verifier, requests())
    assert verifier.engine.totals.prompt_tokens < 0.1 * uncached.engine.totals.prompt_tokens
    compare(verifier, uncached)
    cached = [verifier.last[str(i)].usage.cached_tokens for i in range(REQUESTS)]
    assert cached[:2] == [0, SHARED + TAIL - 1], "the second has the first one's prompt"
    assert min(cached[1:]) == SHARED
    assert verifier.engine.scheduler.cached_tokens == sum(cached)


def test_a_spoilt_slot_shows(uncached: Verifier) -> None:
    """The comparison above can fail: one shared slot in one layer is not what it should be. By much, since what is seen of one
    token among 1,500 may be less than rounding."""
    verifier = Verifier(target("auto"))
    first, *rest = requests()
    verifier.run([first])
    prefixes = verifier.engine.scheduler.allocator.prefixes
    assert prefixes is not None
    lease, slots = prefixes.match(COMMON, "")
    prefixes.release(lease)
    verifier.engine.runner.cache.data[1, 1, :, slots[SHARED // 2]] += 1e6
    verifier.run(rest)
    with pytest.raises(AssertionError):
        compare(verifier, uncached)
    assert not torch.equal(verifier.logits["2", SHARED + TAIL], uncached.logits["2", SHARED + TAIL])
    assert torch.equal(verifier.logits["0", SHARED + TAIL], uncached.logits["0", SHARED + TAIL]), "before it was spoilt"


def test_a_chat_of_ten_turns_prefills_each_token_once() -> None:
    cached, plain = Verifier(target("auto")), Verifier(target("off"))
    text: list[int] = []
    for turn in range(10):
        text += random_tokens(30, turn)
        for verifier in (cached, plain):
            verifier.run([request(str(turn), text, 20, seed=turn, mode="off")])
        text += cached.texts[str(turn)]
    compare(cached, plain)
    assert cached.engine.totals.prompt_tokens == 10 * 30 + 9, "what the user said, and of each answer the last token"
    assert plain.engine.totals.prompt_tokens == sum(50 * turn + 30 for turn in range(10))


def test_under_pressure_cached_prefixes_give_way_and_no_bit_changes() -> None:
    """Room for two prompts of four, in turns, and not for both outputs: sequences are preempted, too."""
    several = [request(f"{i}", random_tokens(150, i % 4) + [i], 80, SAMPLED, seed=i, mode="off") for i in range(12)]
    tight, plain = Verifier(target("auto", 440)), Verifier(target("off", 440))
    tight.run(several)
    plain.run(several)
    compare(tight, plain)
    assert tight.engine.scheduler.preemptions > 0
    assert tight.engine.totals.prompt_tokens < plain.engine.totals.prompt_tokens


def test_a_text_that_moves_here_is_not_prefilled_where_its_prompt_is_known() -> None:
    """A later attempt on the same verifier: of its output, too, only the last token is left to run."""
    verifier = Verifier(target("auto"))
    whole = request("a", COMMON[:100], 20, mode="off")
    verifier.run([whole])
    told = tuple(verifier.texts["a"])
    verifier.submit(request("b", COMMON[:100], 20, mode="off"))
    while len(verifier.texts["b"]) < 10:
        verifier.step()
    verifier.engine.cancel("b", 1)
    before = verifier.engine.totals.prompt_tokens
    verifier.run([request("b", COMMON[:100], 20, mode="off", delivered=told[:10])])
    assert tuple(verifier.texts["b"]) == told
    assert verifier.engine.totals.prompt_tokens == before
    assert verifier.last["b"].usage.cached_tokens == 100


def drafted(prefix_cache: str, kv_tokens: int = 4096) -> tuple[OneProcess, dict[str, list[int]]]:
    """Texts with a draft model and its trees; three prompts, each asked for four times, in two waves."""
    process = pair(target(prefix_cache, kv_tokens), [loaded(noisy_copy("llama", 0, 0.02), prefix_cache=prefix_cache)])
    asked = [
        request(f"{i}", random_tokens(60, i % 3), 30, SAMPLED if i % 2 else GREEDY, seed=i, mode="auto" if i % 4 else "fixed")
        for i in range(12)
    ]
    return process, process.generate(asked[:6]) | process.generate(asked[6:])


def test_with_trees_no_token_changes_and_rejected_nodes_are_not_cached() -> None:
    process, texts = drafted("auto")
    assert texts == drafted("off")[1]
    engine = process.verifier
    assert engine.totals.accepted > 20
    assert engine.totals.verified > engine.totals.accepted
    assert engine.totals.prompt_tokens == 3 * 60
    allocator = engine.scheduler.allocator
    allocator.check_integrity()
    assert allocator.prefixes is not None
    committed = 3 * 60 + sum(len(text) - 1 for text in texts.values())
    assert allocator.prefixes.slot_count <= committed, "nodes that were not accepted are cached"


def test_a_first_token_waits_for_no_tree_though_all_of_its_prompt_is_cached() -> None:
    """As it does not when the prompt has to be prefilled first."""
    verifier = Verifier(target("auto"))
    verifier.run([request("a", COMMON[:50], 2, mode="off")])
    verifier.engine.draft_sessions.add_drafter("d")  # which never answers
    verifier.submit(request("b", COMMON[:50], 9, mode="fixed"))
    verifier.step()
    assert len(verifier.texts["b"]) == 1
    assert isinstance(verifier.engine.begin_step(), Wait), "for the second one"


def test_auto_is_off_where_rows_depend_on_their_neighbours() -> None:
    """GPT-NeoX runs through transformers' modules. Those who take other bits for less work may switch it on."""
    for prefix_cache, on in (("auto", False), ("on", True), ("off", False)):
        allocator = target(prefix_cache, name="gpt_neox").runner.cache.allocator
        assert (allocator.prefixes is not None) == on
