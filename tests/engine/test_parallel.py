"""Tensor-parallel replicas on CPUs: rank 0 is this process, rank 1 a child, gloo between them."""

import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from drafter.engine import DrafterEngine
from drafthouse.config.serving import DrafterConfig, ModelConfig, TreeConfig, VerifierConfig, WindowConfig
from drafthouse.engine.fit import memory_need
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.latency_cache import key_of
from drafthouse.engine.loader import LoadedModel, load
from drafthouse.engine.parallel.invitation import Invitation
from drafthouse.engine.parallel.local import ChildProcesses
from drafthouse.engine.parallel.replica import load_replica
from drafthouse.engine.parallel.runner import ParallelRunner
from drafthouse.engine.segment import chunk
from drafthouse.errors import ConfigError, ModelError, RankError
from drafthouse.sampling import SamplingParams
from drafthouse.wire.session_messages import Commit
from tests.engine.model_folders import without_tensor
from tests.engine.oracle import sampled
from tests.engine.pairs import FAST, GREEDY, loaded, noisy_copy, pair, prompts, request, stock_model
from tests.engine.test_drafter_engine import WIDE, opening, run, tree_of, words
from tests.engine.tiny_models import tiny

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1)
KV_TOKENS = 320

Split = Callable[..., LoadedModel]


def saved(model: PreTrainedModel, folder: pathlib.Path, kv_tokens: int = KV_TOKENS) -> ModelConfig:
    model.save_pretrained(folder)
    dtype = str(model.dtype).removeprefix("torch.")
    return ModelConfig.model_validate({"path": str(folder), "dtype": dtype, "kv_tokens": kv_tokens, "parallel": 2})


def runner_of(model: LoadedModel) -> ParallelRunner:
    assert isinstance(model.runner, ParallelRunner)
    return model.runner


@pytest.fixture
def split(tmp_path: pathlib.Path) -> Iterator[Split]:
    """Loads a model over two processes; what is lost is not the end of this one."""
    models: list[LoadedModel] = []

    def make(model: PreTrainedModel, kv_tokens: int = KV_TOKENS, lost: Callable[[str], None] = lambda reason: None) -> LoadedModel:
        models.append(load_replica(saved(model, tmp_path, kv_tokens), lost=lost))
        return models[-1]

    yield make
    for model in models:
        runner_of(model).close()


@pytest.mark.parametrize("name", ["llama", "phi3", "olmo2", "mixtral"])
def test_two_ranks_give_the_text_of_one_with_trees_on(name: str, split: Split) -> None:
    """Greedy and sampled together, prompts in chunks, too few KV slots for all, so that sequences come and go. By the native decoder,
    whose weights transformers has sharded as it needs them (Llama) or otherwise, and by transformers' modules."""
    target, draft = split(tiny(name), kv_tokens=160), loaded(noisy_copy(name, 0, 0.02))
    assert target.runner.forward.name == ("transformers" if name == "mixtral" else "native")
    assert target.runner.cache.data.shape[2] == 1, "each rank holds one of the two KV heads"
    texts = [*prompts(4, longest=30), *prompts(1, shortest=100, longest=100, seed=5)]
    requests = [request(str(i), p, 32, (GREEDY, SAMPLED)[i % 2], seed=i) for i, p in enumerate(texts)]
    both = pair(target, [draft], VerifierConfig(step_tokens=48), tree=TreeConfig(max_nodes=20))
    got = both.generate(requests)
    oracle = tiny(name)
    for r in requests:
        assert got[r.request_id] == sampled(oracle, r.prompt, r.sampling, r.seed, 32), f"{name}, request {r.request_id}"
    assert both.verifier.totals.accepted > 20, "the draft must get something accepted, or no KV was moved"
    assert both.verifier.scheduler.preemptions > 0, "the KV cache was meant to be too small"


def test_ranks_in_bfloat16_check_themselves_in_float32_and_give_unrounded_logits(split: Split) -> None:
    """Weights are shared out over both precisions, and so is the widened head."""
    one, two = loaded(tiny("llama", dtype=torch.bfloat16)), split(tiny("llama", dtype=torch.bfloat16))
    logits = [m.runner.run([chunk(KvSequence(m.runner.cache), [1, 2, 3], 0, want_logits=True)]).logits for m in (one, two)]
    assert logits[1].dtype == torch.float32
    assert logits[1].shape == (1, 256)
    assert bool((logits[1] != logits[1].bfloat16().float()).any())
    spread = float(logits[0].std())
    assert two.errors is not None
    assert float((logits[1] - logits[0]).abs().max()) < 2 * two.errors.stock.worst * spread


def test_speculation_on_two_ranks_changes_no_token_in_bfloat16(split: Split) -> None:
    """Beside each other and alone, greedy and sampled: each row's bits are its own on ranks, too."""
    target = split(tiny("llama", dtype=torch.bfloat16), kv_tokens=600)
    draft = loaded(noisy_copy("llama", 0, 0.02).bfloat16())
    texts = prompts(4, longest=30)

    def generated(mode: str, drafts: list[LoadedModel]) -> dict[str, list[int]]:
        both = pair(target, drafts, tree=TreeConfig(max_nodes=20))
        found = both.generate([request(str(i), p, 24, (GREEDY, SAMPLED)[i % 2], seed=i, mode=mode) for i, p in enumerate(texts)])
        assert (both.verifier.totals.accepted > 20) == bool(drafts)
        return found

    assert generated("auto", [draft]) == generated("off", [])


def test_a_draft_has_its_own_parallel_size(split: Split) -> None:
    """Each commit takes the tree's last path, so that slot tables change, and the window cuts KV away in front."""
    models = (loaded(tiny("mixtral"), KV_TOKENS), split(tiny("mixtral")))  # by the same modules, so that only the ranks differ
    config = DrafterConfig(window=WindowConfig(sinks=4, recent=24), prefill_tokens=16)
    whole, shared = (DrafterEngine(model, FAST, config, WIDE, clock=lambda: 0.0) for model in models)
    for engine in (whole, shared):
        engine.handle("v", opening("s", prompts(1)[0], vocab=256))
    for commit in range(12):
        run(whole)
        run(shared)
        wanted = words(tree_of(whole))
        assert words(tree_of(shared)) == pytest.approx(wanted), f"after {commit} commits"
        last = tree_of(whole).path([n for n in range(len(wanted)) if len(tree_of(whole).path(n)) == 2][-1])
        for engine in (whole, shared):
            engine.handle("v", Commit("s", 1, len(engine.sessions["v", "s"].tokens), tuple(last), 0.0))
    assert whole.sessions["v", "s"].skipped > 0


def test_a_rank_holds_what_was_counted_before_and_says_so_in_its_profile(split: Split, tmp_path: pathlib.Path) -> None:
    two = split(tiny("mixtral"))
    runner = runner_of(two)
    local = [p.to_local() if isinstance(p, DTensor) else p for p in stock_model(two).parameters()]
    config = ModelConfig(path=str(tmp_path), dtype="float64", kv_tokens=KV_TOKENS, parallel=2)
    need = memory_need(config, stock_model(two).config)
    assert need.weights == 8 * sum(p.numel() for p in local)
    assert need.kv == 8 * runner.cache.data.numel()
    one = load(config.model_copy(update={"parallel": 1}))
    assert one.fingerprint != two.fingerprint
    assert (key_of(one, 64).parallel, key_of(two, 64).parallel) == (1, 2)
    with pytest.raises(ConfigError, match="this process holds a tensor-parallel model already"):
        load_replica(config)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "has been stopped for 2.5 s")])
def test_a_rank_that_dies_or_stops_loses_the_replica(number: signal.Signals, reason: str, split: Split) -> None:
    told: list[str] = []
    noticed = threading.Event()
    target = split(tiny("llama"), lost=lambda text: (told.append(text), noticed.set())[1])
    runner = runner_of(target)
    os.kill(runner.followers.pids[1], number)
    assert noticed.wait(60)
    assert len(told) == 1
    assert told[0].startswith("rank 1 (pid ")
    assert told[0].endswith(reason)
    if number == signal.SIGKILL:
        with pytest.raises(RankError, match="rank 1 .* has ended"):
            pair(target, []).generate([request("a", [1, 2, 3], 8)])
    else:
        os.kill(runner.followers.pids[1], signal.SIGKILL)


class Stillborn(ChildProcesses):
    def start(self, config: ModelConfig, invitations: Sequence[Invitation]) -> None:
        super().start(config, invitations)
        self.processes[1].kill()


def test_a_rank_that_cannot_start_is_an_error_not_a_wait(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelError, match="parallel: rank 1 ended with exit status -9"):
        load_replica(saved(tiny("llama"), tmp_path), Stillborn())


def test_what_a_rank_cannot_load_is_told_by_rank_0(tmp_path: pathlib.Path) -> None:
    """A tensor that config.json asks for shows only when weights are read."""
    config = saved(tiny("llama"), tmp_path)
    without_tensor(tmp_path, "model.norm.weight")
    with pytest.raises(ModelError, match=r"the weights are not those of config\.json: model\.norm\.weight is missing"):
        load_replica(config)


def test_a_folder_without_weights_is_refused_before_ranks_start(tmp_path: pathlib.Path) -> None:
    config = saved(tiny("llama"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights here"):
        load_replica(config, Stillborn())
