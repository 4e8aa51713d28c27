"""Drafts made from one checkpoint, and real engines in virtual time. Nothing here looks at how fast the CPU was."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from benchmarks.ablation.workloads import own_texts
from benchmarks.drafts.acceptance import hits
from benchmarks.drafts.bench import PLAIN, Bench, Timed, run_draft, run_drafts, texts_of
from benchmarks.drafts.variants import LoadedDraft, load_draft
from benchmarks.harness.interleave import SAMPLINGS
from benchmarks.harness.samples import pick
from drafthouse.checkpoints.model_path import DEMO_MODELS
from drafthouse.config.serving import ModelConfig, ServingConfig
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel
from drafthouse.engine.segment import chunk
from drafthouse.errors import ConfigError
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from tests.engine.oracle import greedy
from tests.engine.pairs import loaded, noisy_copy
from tests.engine.tiny_models import tiny


def first_keys(model: LoadedModel) -> torch.Tensor:
    """Of one token in the first layer."""
    kv = KvSequence(model.runner.cache)
    model.runner.run([chunk(kv, [5], 0, False)])
    return model.runner.cache.data[0, 0, :, kv.slots[0]].clone()


def test_noise_and_layers_change_the_model_that_is_loaded() -> None:
    config = ModelConfig(path="demo:target", kv_tokens=256)
    whole, cut, disturbed = (load_draft(f"demo:draft{change}", config) for change in ("", "@layers=1", "@noise=0.3"))
    assert cut.parameters < whole.parameters == disturbed.parameters
    assert len({d.model.fingerprint for d in (whole, cut, disturbed)}) == 3
    keys = [first_keys(d.model) for d in (whole, cut, disturbed)]
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2])
    with pytest.raises(ConfigError, match="--draft demo:draft@layers=9: the checkpoint has 2 layers"):
        load_draft("demo:draft@layers=9", config)


def test_own_texts_are_the_targets_greedy_ones() -> None:
    prompts = [[5, 9, 200, 31], [77, 3]]
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODELS / "target", dtype=torch.float64).eval()
    found = own_texts(ModelConfig(path="demo:target", dtype="float64"), prompts, 6)
    assert found == [greedy(model, prompt, 6) for prompt in prompts]


BIG = Curve("big", "a test", 20.0, 0.05, 0.0)
SMALL = Curve("small", "a test", 1.0, 0.01, 0.0)
TOKENS = 24
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def bench() -> Bench:
    samplings = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=1.0, top_k=50)}
    return Bench(loaded(tiny("llama", 0)), [[5, 9, 200, 31], [77, 3]], TOKENS, samplings, ServingConfig())


def timed(noise: float, latency: Curve = SMALL) -> Timed:
    draft = LoadedDraft(f"noise {noise}", loaded(noisy_copy("llama", 0, noise)), 1)
    return Timed(draft, latency, BIG, "big")


def test_plain_decoding_takes_the_curves_time(bench: Bench) -> None:
    texts, samples = texts_of(bench, timed(0.0))
    [greedy] = [s for s in samples if (s.sampling, s.prompt) == ("greedy", 0)]
    assert greedy.target_passes == TOKENS
    assert greedy.seconds == pytest.approx(BIG.seconds(4, 0) + (TOKENS - 1) * BIG.seconds(1, 0), rel=1e-9)
    assert len(texts["sampled", 1]) == TOKENS


def test_the_perfect_draft_gains_what_its_passes_leave(bench: Bench) -> None:
    """Each step commits a chain; the same text as plain. A draft as slow as the target gains nothing like it."""
    [row] = run_drafts(bench, [timed(0.0)], QUIET)
    assert row["greedy"]["first"] == row["sampled"]["first"] == 1.0
    assert row["cost_ratio"] == pytest.approx(1.01 / 20.05)
    assert row["greedy"]["ratio_to_plain"]["value"] > 3.0
    assert row["greedy"]["tokens_per_step"] > 3.0
    [slow] = run_drafts(bench, [timed(0.0, replace(SMALL, base_ms=20.0))], QUIET)
    assert slow["gain"] < 0.6 * row["gain"]


def test_virtual_runs_are_deterministic(bench: Bench) -> None:
    first, second = (run_draft(bench, timed(0.05)) for _ in range(2))
    assert [g.sample for g in first] == [g.sample for g in second]
    for sampling in SAMPLINGS:
        assert len(pick([g.sample for g in first], "noise 0.05", sampling)) == 2
    assert not pick([g.sample for g in first], PLAIN, "greedy")


def test_the_draft_that_is_the_target_ranks_every_token_first(bench: Bench) -> None:
    texts, _ = texts_of(bench, timed(0.0))
    for sampling, parameters in bench.samplings.items():
        ranks = hits(bench.target, bench.prompts[0], texts[sampling, 0], parameters, seed=0)
        assert ranks == [0] * TOKENS
    assert set(hits(bench.target, bench.prompts[0], texts["sampled", 0], parameters, seed=1)) != {0}, "another seed, another noise"
