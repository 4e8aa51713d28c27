"""Stages draft; the target alone decides: float64, zero tolerance, for every stage, nested, merged and failing."""

import pathlib
from typing import Any

import numpy as np
import pytest

from drafter.engine import DrafterEngine
from drafter.without_model import WithoutModel
from drafthouse.config.serving import DrafterConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import LoadedModel
from drafthouse.policy.stage_breaker import FAULTS_IN_A_ROW
from drafthouse.sampling import SamplingParams
from drafthouse.stages.build import placed
from drafthouse.stages.trigram_table import counted, packed
from simulator.one_process import OneProcess
from tests.engine.oracle import sampled
from tests.engine.overlapped import Overlapped
from tests.engine.pairs import FAST, FLAT, GREEDY, loaded, noisy_copy, prompts, request
from tests.engine.tiny_models import tiny
from verifier.engine import VerifierEngine

SAMPLED = SamplingParams(temperature=0.8, top_k=50, repetition_penalty=1.1)
REPEATING = SamplingParams(temperature=0.8, repetition_penalty=0.5)
"""Text that comes back to its own words: guesses of lookup and suffixes come true."""
KINDS = (GREEDY, SAMPLED, REPEATING)
OUTPUT = 24
PROMPTS = [[*prompt, *prompt] for prompt in prompts(2, shortest=6, longest=12)]
"""What is said twice gives lookup and suffixes something to find."""

OWN = "tests.engine.own_stages:"


@pytest.fixture(scope="module")
def target() -> LoadedModel:
    return loaded(tiny("llama"))


@pytest.fixture(scope="module")
def truths() -> dict[str, list[int]]:
    oracle = tiny("llama")
    return {f"{i}-{k}": sampled(oracle, p, KINDS[k], i, OUTPUT) for i, p in enumerate(PROMPTS) for k in range(len(KINDS))}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, truths: dict[str, list[int]]) -> str:
    """Of the very texts that are to come, so that guesses come true; every other pair of tokens is unknown to it."""
    path: pathlib.Path = tmp_path_factory.mktemp("trigram") / "trigram.npz"
    path.write_bytes(packed(counted(np.array(list(truths.values())), 1)))
    return str(path)


def drafted(
    target: LoadedModel, stages: list[dict[str, Any]], noise: float | None = 0.02, meanwhile: bool = True, **drafter: Any
) -> OneProcess:
    """A pair whose draft agrees now and then; `noise` None: no draft model."""
    config, tree = DrafterConfig.model_validate({"stages": stages, **drafter}), TreeConfig(max_nodes=48, grow_during_verification=meanwhile)
    model = WithoutModel(256, 512, "none") if noise is None else loaded(noisy_copy("llama", 0, noise))
    engine = DrafterEngine(model, FAST if noise is not None else None, config, tree)
    return OneProcess(VerifierEngine(target, FLAT, VerifierConfig(), tree), [engine])


def texts(pair: OneProcess, mode: str = "auto") -> dict[str, list[int]]:
    return pair.generate(request(f"{i}-{k}", p, OUTPUT, KINDS[k], i, mode) for i, p in enumerate(PROMPTS) for k in range(len(KINDS)))


def engine_of(pair: OneProcess) -> DrafterEngine:
    [engine] = pair.drafters.values()
    return engine


def with_table(stage: dict[str, Any], table: str) -> dict[str, Any]:
    inner = {"inner": with_table(stage["inner"], table)} if "inner" in stage else {}
    return stage | inner | ({"table": table} if stage["kind"] == "trigram" else {})


MODEL_FREE = [{"kind": "lookup"}, {"kind": "suffix"}, {"kind": "trigram"}, {"kind": f"{OWN}Counting"}]


@pytest.mark.parametrize("stages", [*([stage] for stage in MODEL_FREE), MODEL_FREE])
def test_without_a_draft_model(target: LoadedModel, truths: dict[str, list[int]], table: str, stages: list[dict[str, Any]]) -> None:
    pair = drafted(target, [with_table(stage, table) for stage in stages], noise=None)
    assert texts(pair) == truths
    assert pair.verifier.totals.verified > 0
    assert engine_of(pair).stage_totals.stage_faults == 0
    if stages[-1]["kind"] == "trigram":
        assert pair.verifier.totals.accepted > 10


WINDOW = {"sinks": 2, "recent": 16}
WITH_A_MODEL: dict[str, list[dict[str, Any]]] = {
    "model": [{"kind": "model"}],
    "of trigram": [{"kind": "model", "inner": {"kind": "trigram"}}],
    "of lookup": [{"kind": "model", "inner": {"kind": "lookup"}}],
    "of suffix": [{"kind": "model", "inner": {"kind": "suffix"}}],
    "merged": [{"kind": "lookup"}, {"kind": "model", "inner": {"kind": "trigram"}}, {"kind": "suffix"}, {"kind": f"{OWN}Counting"}],
    "split": [{"kind": "lookup", "placement": "verifier"}, {"kind": "model", "inner": {"kind": "suffix"}}, {"kind": f"{OWN}Counting"}],
}


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "-"])
@pytest.mark.parametrize("window", [None, WINDOW], ids=["whole", "window"])
@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_with_a_draft_model(target: LoadedModel, truths: dict[str, list[int]], table: str, name: str, window: Any, ahead: bool) -> None:
    """Drafts arrive before a step, during it and late, and a node costs so much that there is something to grow ahead."""
    stages = [with_table(stage, table) for stage in WITH_A_MODEL[name]]
    config = DrafterConfig.model_validate({"stages": stages, "window": window, "prefill_tokens": 16})
    pair = Overlapped(target, loaded(noisy_copy("llama", 0, 0.02)), config, TreeConfig(max_nodes=48, grow_during_verification=ahead))
    assert texts(pair) == truths
    drafter, verifier = pair.drafter, pair.verifier
    assert verifier.totals.accepted > 10
    assert verifier.draft_sessions.events.malformed == drafter.stage_totals.stage_faults == 0
    assert pair.arrived["late"] > 5
    assert pair.arrived["during"] > 50 and pair.expanded_during > 50 if ahead else pair.expanded_during == 0
    assert (drafter.ahead_passes > 10 and drafter.survived > 5) if ahead else drafter.ahead_passes == drafter.survived == 0
    assert drafter.totals.came_true > 0 if name != "model" else drafter.totals.guessed == 0
    assert verifier.local.totals.stage_nodes > 10 if name == "split" else not verifier.local.makers
    assert drafter.cache.allocator.free_count == drafter.cache.allocator.count


@pytest.mark.parametrize(
    "stages",
    [
        [{"kind": "trigram"}],
        [{"kind": "model"}],
        [{"kind": "model", "inner": {"kind": "trigram"}}],
        [{"kind": "trigram"}, {"kind": "model"}],
    ],
)
def test_ranks_without_noise_change_no_text(target: LoadedModel, table: str, stages: list[dict[str, Any]]) -> None:
    """Only how often a sampled draft is hit."""
    hot, count = SamplingParams(temperature=1.0), 6
    wanted = {f"{i}": sampled(tiny("llama"), PROMPTS[0], hot, i, OUTPUT) for i in range(count)}
    accepted = {}
    for shared in (True, False):
        noise = None if stages == [{"kind": "trigram"}] else 0.0
        pair = drafted(target, [with_table(stage, table) for stage in stages], noise, shared_noise=shared)
        assert pair.generate(request(name, PROMPTS[0], OUTPUT, hot, int(name)) for name in wanted) == wanted
        accepted[shared] = pair.verifier.totals.accepted
    assert accepted[True] > 1.3 * accepted[False]


@pytest.mark.parametrize("bad", ["Crashing", "CrashingLater", "Stillborn", "OutsideTheVocabulary", "Nonsense", "Hanging"])
@pytest.mark.parametrize("place", ["beside", "inner", "alone"])
def test_a_stage_that_fails_is_dropped_and_the_session_goes_on(
    target: LoadedModel, truths: dict[str, list[int]], bad: str, place: str
) -> None:
    stage = {"kind": OWN + bad}
    stages = {"beside": [stage, {"kind": "model"}], "inner": [{"kind": "model", "inner": stage}], "alone": [stage]}[place]
    pair = drafted(target, stages, noise=None if place == "alone" else 0.02)
    assert texts(pair) == truths
    totals = engine_of(pair).totals
    faults = engine_of(pair).stage_totals.stage_faults
    assert FAULTS_IN_A_ROW <= faults <= totals.sessions, "once in each session, and soon it is not made for new ones"
    assert totals.dropped == 0
    assert (pair.verifier.totals.accepted > 10) == (place != "alone")


def test_an_inner_stage_saves_passes(target: LoadedModel, truths: dict[str, list[int]], table: str) -> None:
    passes = {}
    for name, inner in (("alone", {}), ("staged", {"inner": {"kind": "trigram", "table": table}})):
        pair = drafted(target, [{"kind": "model"} | inner], noise=0.0, meanwhile=False)
        assert texts(pair, mode="fixed") == truths
        passes[name] = engine_of(pair).totals.passes
    assert passes["staged"] < passes["alone"]


@pytest.mark.parametrize("drafter", [True, False])
@pytest.mark.parametrize("local", [[{"kind": "lookup"}, {"kind": "trigram"}], [{"kind": "trigram"}, {"kind": f"{OWN}Crashing"}]])
def test_stages_in_the_verifier(
    target: LoadedModel, truths: dict[str, list[int]], table: str, local: list[dict[str, Any]], drafter: bool
) -> None:
    """Merged into the drafter's tree, or alone; half of the way with a drafter and then without."""
    stages = [with_table(stage, table) | {"placement": "verifier"} for stage in local] + [{"kind": "model"}]
    config = DrafterConfig.model_validate({"stages": stages})
    makers = placed(config.stages, "verifier", None, 256)
    verifier = VerifierEngine(target, FLAT, VerifierConfig(), TreeConfig(max_nodes=48), stages=makers)
    engines = [DrafterEngine(loaded(noisy_copy("llama", 0, 0.05)), FAST, config, TreeConfig(max_nodes=48))] if drafter else []
    pair = OneProcess(verifier, engines)
    assert texts(pair) == truths
    assert verifier.local.totals.stage_nodes > 10
    assert verifier.totals.accepted > 10
    assert (verifier.local.totals.stage_faults >= FAULTS_IN_A_ROW) == ("Crashing" in local[1]["kind"])
    assert bool(verifier.totals.draft_messages) == drafter


def test_what_is_left_when_no_drafter_is(target: LoadedModel, truths: dict[str, list[int]], table: str) -> None:
    stages = [{"kind": "trigram", "table": table, "placement": "verifier"}, {"kind": "model"}]
    config = DrafterConfig.model_validate({"stages": stages})
    tree = TreeConfig(max_nodes=48)
    verifier = VerifierEngine(target, FLAT, VerifierConfig(), tree, stages=placed(config.stages, "verifier", None, 256))
    pair = OneProcess(verifier, [DrafterEngine(loaded(noisy_copy("llama", 0, 0.05)), FAST, config, tree)])
    outputs: dict[str, list[int]] = {name: [] for name in truths}
    for name in truths:
        i, k = map(int, name.split("-"))
        verifier.submit(request(name, PROMPTS[i], OUTPUT, KINDS[k], i))
    accepted = 0
    while verifier.sequences:
        if verifier.totals.steps == 4:
            verifier.lose_drafter("drafter-0")
            accepted = accepted or verifier.totals.accepted
        for reply in pair.turn():
            outputs[reply.request_id] += reply.tokens
    assert outputs == truths
    assert verifier.totals.accepted > accepted + 10
