"""A distilled draft's folder as a model: its logits, its states, and what keeps it from being loaded."""

import json
import pathlib
from collections.abc import Callable

import pytest
import torch

from deployments.preflight import check_models
from drafthouse.checkpoints.draft_folder import EMBEDDINGS, FUSE_STATE, HEAD, HEAD_IDS, RECORD, DraftFolder
from drafthouse.config.serving import DrafterConfig, ModelConfig, ServingConfig, StageConfig, TreeConfig, VerifierConfig
from drafthouse.engine.fit import memory_need
from drafthouse.engine.forward import StockForward
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import LoadedModel, check_fit, load
from drafthouse.engine.model_limits import read_config
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.engine.segment import chunk
from drafthouse.errors import ConfigError, DrafthouseError, ModelError
from tests.engine.draft_folders import IDS, draft_folder, right_logits
from tests.engine.model_folders import byte_tokenizer, change_config, save
from tests.engine.tiny_models import tiny
from tests.unit.latencies import Table
from verifier.engine import VerifierEngine

TOKENS = torch.randint(0, 256, (20,), generator=torch.Generator().manual_seed(9)).tolist()
STATES = [None if i % 3 == 0 else state for i, state in enumerate(torch.randn(20, 64, generator=torch.Generator().manual_seed(8)))]


def loaded(folder: pathlib.Path, dtype: str = "float64", **more: object) -> LoadedModel:
    return load(ModelConfig.model_validate({"path": str(folder), "dtype": dtype, "kv_tokens": 256} | more))


def logits(model: LoadedModel, states: list[torch.Tensor | None] | None = None) -> torch.Tensor:
    kv = KvSequence(model.runner.cache)
    step = chunk(kv, TOKENS, 0, True, of_all=True)
    if states is not None:
        assert model.state_inputs is not None
        step.inputs = model.state_inputs.rows(states)
    result = model.runner.run([step]).logits
    kv.release()
    return result


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3", "granite", "phi3", "olmo2"])
def test_logits_are_those_of_the_heads_tokens(tmp_path: pathlib.Path, family: str) -> None:
    target = tiny(family)
    model = loaded(draft_folder(tmp_path / "draft", target, tmp_path / "target"))
    assert model.forward == "native"
    assert model.head_ids is not None
    assert model.head_ids.tolist() == list(IDS)
    assert (model.state_inputs, model.state_size, model.runner.vocab_size) == (None, 64, 256)
    torch.testing.assert_close(logits(model), right_logits(target, TOKENS), rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_a_draft_reads_states(tmp_path: pathlib.Path, family: str) -> None:
    target = tiny(family)
    model = loaded(draft_folder(tmp_path / "draft", target, tmp_path / "target", hidden=True))
    right = right_logits(target, TOKENS, states=STATES)
    torch.testing.assert_close(logits(model, STATES), right, rtol=1e-6, atol=2e-4)
    assert float((logits(model) - right).abs().max()) > 1e-2, "without what states add it is another"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_dtype_is_loaded_and_checked(tmp_path: pathlib.Path, dtype: str) -> None:
    """With embeddings of its own, or the target's: the same bits, near the float64 ones."""
    target = tiny("llama")
    models = [
        loaded(draft_folder(tmp_path / name, target, tmp_path / "target", hidden=True, own=name == "own"), dtype)
        for name in ("own", "targets")
    ]
    assert all(model.row_invariant for model in models)
    found = [logits(model, STATES) for model in models]
    assert torch.equal(*found)
    right = right_logits(target, TOKENS, states=STATES)
    assert float((found[0] - right).abs().mean() / right.std()) < {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.1}[dtype]


def test_through_transformers_modules(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a compiler."""
    monkeypatch.setattr("drafthouse.engine.loader._description", lambda *args: None)
    target = tiny("gemma2")
    model = loaded(draft_folder(tmp_path / "draft", target, tmp_path / "target", hidden=True))
    assert isinstance(model.runner.forward, StockForward)
    torch.testing.assert_close(logits(model, STATES), right_logits(target, TOKENS, states=STATES), rtol=1e-6, atol=2e-4)


def test_fewer_layers_on_a_paced_device(tmp_path: pathlib.Path) -> None:
    target = tiny("llama", layers=3)
    folder = draft_folder(tmp_path / "draft", target, tmp_path / "target", hidden=True, layers=1)
    model = loaded(folder, "bfloat16", device="paced", paced={"curve": "draft-0.5b"})
    assert isinstance(model.runner, PacedRunner)
    assert logits(model, STATES).shape == (20, len(IDS))
    assert model.runner.cache.data.shape[0] == 1


def test_what_identifies_it(tmp_path: pathlib.Path) -> None:
    """Its vocabulary is the target's, its tokenizer too; other embeddings make another draft."""
    target = tiny("llama")
    folder = draft_folder(tmp_path / "draft", target, tmp_path / "target")
    record = DraftFolder.read(folder)
    model = loaded(folder)
    assert record is not None
    assert model.vocabulary == record.vocabulary != ""
    assert json.loads(model.tokenizer())["model"]["vocab"] == byte_tokenizer().get_vocab()
    save("llama", tmp_path / "copy")
    assert loaded(folder, embeddings=str(tmp_path / "copy")).fingerprint == model.fingerprint
    tiny("llama", seed=1).save_pretrained(tmp_path / "copy")
    assert loaded(folder, embeddings=str(tmp_path / "copy")).fingerprint != model.fingerprint


def test_memory_counts_what_the_head_holds(tmp_path: pathlib.Path) -> None:
    target = tiny("llama")
    folder = draft_folder(tmp_path / "draft", target, tmp_path / "target")
    config = ModelConfig(path=str(folder), kv_tokens=100)
    need = memory_need(config, read_config(str(folder)), len(IDS))
    held = loaded(folder, "float32").runner.forward
    assert need.weights == 4 * held.parameters
    assert memory_need(config, read_config(str(folder))).weights - need.weights == 4 * 64 * (256 - len(IDS))


def test_a_target_that_moved_is_found_by_embeddings(tmp_path: pathlib.Path) -> None:
    folder = draft_folder(tmp_path / "draft", tiny("llama"), tmp_path / "target")
    (tmp_path / "target").rename(tmp_path / "moved")
    with pytest.raises(ConfigError) as error:
        loaded(folder)
    assert "embeddings: this draft was distilled for" in str(error.value)
    assert "write `embeddings: FOLDER` in this section" in str(error.value)
    with pytest.raises(ConfigError, match=r"embeddings: .*elsewhere: no such folder"):
        loaded(folder, embeddings=str(tmp_path / "elsewhere"))
    assert loaded(folder, embeddings=str(tmp_path / "moved")).head_ids is not None


def _tensors(**changes: torch.Tensor | None) -> Callable[[pathlib.Path], None]:
    named = {"ids": HEAD_IDS, "head": HEAD, "state": FUSE_STATE, "own": EMBEDDINGS, "norm": "model.norm.weight"}

    def change(base: pathlib.Path) -> None:
        tensors = {named[name]: each for name, each in changes.items()}
        draft_folder(base / "draft", tiny("llama"), base / "target", hidden=True, own="own" in changes, changes=tensors)

    return change


def _other_tokenizer(base: pathlib.Path) -> None:
    byte_tokenizer(swapped=5).save_pretrained(base / "target")


def _narrow_target(base: pathlib.Path) -> None:
    tiny("llama", hidden_size=32).save_pretrained(base / "target")


def _half_a_record(base: pathlib.Path) -> None:
    (base / "draft" / RECORD).write_text('{"format": 1, "target": "x"}')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_tensors(ids=torch.tensor([5, 4, 6], dtype=torch.int32), head=torch.zeros(3, 64)), "head_ids must rise, each token once"),
        (_tensors(ids=torch.tensor([5, 6, 6], dtype=torch.int32), head=torch.zeros(3, 64)), "head_ids must rise, each token once"),
        (_tensors(ids=torch.tensor([5, 256], dtype=torch.int32), head=torch.zeros(2, 64)), "head_ids go from 5 to 256"),
        (_tensors(ids=torch.tensor([-1, 25], dtype=torch.int32), head=torch.zeros(2, 64)), "head_ids go from -1 to 25"),
        (_tensors(ids=torch.tensor([1.0, 25.0]), head=torch.zeros(2, 64)), "head_ids are float32"),
        (_tensors(ids=None), "head_ids is missing"),
        (_tensors(head=None), "lm_head.weight is missing"),
        (_tensors(head=torch.zeros(9, 64)), f"lm_head.weight has shape [9, 64], and it must have [{len(IDS)}, 64]"),
        (_tensors(state=torch.zeros(64, 32)), "fuse.state.weight has shape [64, 32], and it must have [64, 64]"),
        (_tensors(own=None), "model.embed_tokens.weight is missing"),
        (_tensors(norm=None), "model.norm.weight is missing"),
        (_half_a_record, "draft.json: vocabulary is missing"),
        (_other_tokenizer, "has another vocabulary than the model that this draft was distilled for"),
        (_narrow_target, "have shape [256, 32], and the draft's config.json asks for [256, 64]"),
        (lambda base: change_config(base / "draft", hidden_size=48), "lm_head.weight has shape [127, 64], and it must have [127, 48]"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: pathlib.Path, change: Callable[[pathlib.Path], None], said: str) -> None:
    draft_folder(tmp_path / "draft", tiny("llama"), tmp_path / "target", hidden=True)
    change(tmp_path)
    with pytest.raises(DrafthouseError) as error:
        loaded(tmp_path / "draft")
    assert str(error.value).startswith(f"{tmp_path / 'draft'}: ")
    assert said in str(error.value)


def test_embeddings_are_for_distilled_drafts_alone(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="only a distilled draft"):
        check_fit(ModelConfig(path=str(save("llama", tmp_path / "model")), embeddings=str(tmp_path)))


def serving(base: pathlib.Path, target: str = "target") -> ServingConfig:
    draft = ModelConfig(path=str(base / "draft"))
    drafter = DrafterConfig(stages=(StageConfig(kind="model"),))
    return ServingConfig(target=ModelConfig(path=str(base / target)), draft=draft, drafter=drafter)


def test_before_anything_starts(tmp_path: pathlib.Path) -> None:
    """A draft is checked against the target that it is to serve."""
    draft_folder(tmp_path / "draft", tiny("llama"), tmp_path / "target", hidden=True)
    check_models(serving(tmp_path))
    with pytest.raises(ConfigError, match=r"target.path: .*: a draft, not a target"):
        check_models(serving(tmp_path, "draft"))
    save("llama", tmp_path / "other")
    byte_tokenizer(swapped=9).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="draft.path and target.path have different vocabularies"):
        check_models(serving(tmp_path, "other"))
    tiny("llama", hidden_size=32).save_pretrained(tmp_path / "narrow")
    byte_tokenizer().save_pretrained(tmp_path / "narrow")
    with pytest.raises(ModelError, match="reads hidden states of 64 numbers, and target.path has 32"):
        check_models(serving(tmp_path, "narrow"))


def test_a_verifier_takes_no_draft(tmp_path: pathlib.Path) -> None:
    model = loaded(draft_folder(tmp_path / "draft", tiny("llama"), tmp_path / "target"))
    with pytest.raises(ConfigError, match="a distilled draft, not a target"):
        VerifierEngine(model, Table((0.01,)), VerifierConfig(), TreeConfig())
