"""The engine on CUDA: the noise of the CPU, the logits of the stock model, transformers' texts, and no KV slot lost."""

import pytest
import torch

from benchmarks.gpu.checks import DRAFT, TARGET, Check, check_noise, check_self, check_texts, compare
from benchmarks.harness.contestants import Pair, load_pair
from drafthouse.choose import Rows, choose
from drafthouse.noise import gumbel, position_key
from drafthouse.sampling import SamplingParams
from tests.engine.pairs import loaded
from tests.engine.tiny_models import ATTENTION_MODELS, tiny
from tests.unit.test_noise import GOLDEN_V1

pytestmark = pytest.mark.gpu


def passed(check: Check) -> None:
    assert check.passed, f"{check.name}: {check.detail}"


def test_golden_noise() -> None:
    for seed, position, token, expected in GOLDEN_V1:
        keys = torch.tensor([position_key(seed, position)], device="cuda")
        assert float(gumbel(keys, token + 1)[0, token]) == expected


def test_noise_of_whole_vocabularies_is_the_cpus() -> None:
    passed(check_noise("cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ATTENTION_MODELS)
def test_every_architecture_passes_the_self_check(name: str, dtype: torch.dtype) -> None:
    model = tiny(name, dtype=dtype).to("cuda")
    assert loaded(model).runner.cache.data.device.type == "cuda"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_texts_with_trees_are_transformers_or_part_at_a_near_tie(dtype: str) -> None:
    pair = Pair(TARGET, DRAFT, dtype, threads=1, kv_tokens=8192, device="cuda")
    target, draft = load_pair(pair)
    passed(check_self(target, dtype))
    passed(check_texts(compare(pair, target, draft, prompts=16, tokens=64), dtype))


def test_a_penalty_and_filters_choose_what_they_choose_on_the_cpu() -> None:
    """Their masks and tables are made where the logits are."""
    logits = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0))
    sampling = SamplingParams(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    chosen = []
    for device in ("cpu", "cuda"):
        seen = torch.arange(4096, device=device) < 100
        chosen.append(choose(logits.to(device), [Rows(sampling, 1, range(3), [(5, 200)] * 3, seen)]))
    assert chosen[0] == chosen[1]
