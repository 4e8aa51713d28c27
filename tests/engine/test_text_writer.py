"""A target writes text for a draft: what is kept of it is what the stock model says, and no kill changes what is written."""

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.distillation.choices import choices, uniforms
from drafthouse.distillation.options import MAX_TEXT_TOKENS
from drafthouse.distillation.prompt_encoder import PromptEncoder
from drafthouse.distillation.prompts import BEGINNING, OWN, Prompts
from drafthouse.distillation.seeds import KINDS, shipped_seeds
from drafthouse.distillation.shards import Text
from drafthouse.distillation.text_folder import TextFolder
from drafthouse.distillation.text_stage import TextStage, Written
from drafthouse.distillation.text_writer import LEAST_NEW_TOKENS, TextWriter
from drafthouse.engine.loader import LoadedModel, load

TARGET = "demo:target"
SEQUENCES = 8
SHARD_TEXTS = 8
SHARDS = 4
PROMPTS = Prompts(shipped_seeds(), [], seed=3, chat=True)


@pytest.fixture(scope="module")
def target() -> Iterator[LoadedModel]:
    model = load(ModelConfig(path=TARGET, kv_tokens=SEQUENCES * MAX_TEXT_TOKENS, prefix_cache="off"))
    yield model
    model.runner.close()


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    tokenizer = AutoTokenizer.from_pretrained(model_path(TARGET))
    return PromptEncoder(
        tokenizer, lambda messages: str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)), [0]
    )


@pytest.fixture(scope="module")
def stock() -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model_path(TARGET), dtype=torch.float32)
    return model.eval()


class _Killed(Exception):
    pass


def _write(folder: pathlib.Path, target: LoadedModel, encoder: PromptEncoder, until: int, sequences: int, end: BaseException) -> TextFolder:
    """Goes on in `folder` until so many shards are whole; then the run ends as `end` ends it."""
    number = TextFolder(folder).next_number
    writer = TextWriter(target, encoder, PROMPTS, sequences, number, hidden=True)
    stage = TextStage(folder, writer, 3, SHARD_TEXTS)

    def progress(written: Written) -> None:
        if len(stage.folder.shards) >= until:
            raise end

    with pytest.raises(type(end)):
        stage.run(1e9, progress)
    return TextFolder(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, target: LoadedModel, encoder: PromptEncoder) -> TextFolder:
    folder = tmp_path_factory.mktemp("written")
    (folder / "text").mkdir()
    return _write(folder, target, encoder, SHARDS, SEQUENCES, _Killed())


@torch.inference_mode()
def _run(stock: PreTrainedModel, text: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and last hidden states after each token, of one teacher-forced pass."""
    output = stock(torch.from_numpy(text.tokens.astype(np.int64))[None], output_hidden_states=True)
    return output.logits[0].float(), output.hidden_states[-1][0]


def test_what_is_kept_is_what_the_stock_model_says(written: TextFolder, stock: PreTrainedModel) -> None:
    for text in written:
        logits, states = _run(stock, text)
        expected, rows = logits.log_softmax(-1), text.rows
        kept = torch.from_numpy(text.top_ids[rows].astype(np.int64))
        torch.testing.assert_close(
            torch.from_numpy(text.top_logprobs[rows].astype(np.float32)), expected[rows].gather(1, kept), atol=2e-2, rtol=0
        )
        best = expected[rows].topk(kept.shape[1]).values
        torch.testing.assert_close(expected[rows].gather(1, kept), best, atol=1e-3, rtol=0)
        assert not text.top_ids[: text.prompt_len - 1].any()
        assert not text.top_logprobs[-1].any()
        assert text.states is not None
        mine = torch.from_numpy(np.array(text.states)).view(torch.bfloat16).float()
        torch.testing.assert_close(mine[:-1], states[:-1].bfloat16().float(), atol=1e-3, rtol=2e-2)
        assert not mine[-1].any()


def test_tokens_are_chosen_at_the_texts_temperature(written: TextFolder, stock: PreTrainedModel) -> None:
    """What a task's own numbers choose from the stock model's logits; rounding may decide a near-tie here and there."""
    seen = set()
    for text in written:
        task = PROMPTS.task(text.number)
        if text.temperature and (text.kind == OWN or task.follow_up):
            continue  # their numbers go on from those of the turn before
        logits, rows = _run(stock, text)[0][text.rows], np.arange(text.rows.start, text.rows.stop)
        numbers = uniforms(np.full(len(rows), task.seed, dtype=np.uint64), rows.astype(np.uint64) + 1)
        expected = choices(logits, np.full(len(rows), text.temperature), numbers).tokens
        assert (expected == text.tokens[text.prompt_len :]).mean() > 0.97
        seen.add(round(text.temperature, 1))
    assert seen == {0.0, 0.7, 1.0}


def test_texts_are_of_all_kinds_and_end_where_they_may(written: TextFolder, encoder: PromptEncoder) -> None:
    assert {text.kind for text in written} >= {OWN, *KINDS}
    assert [text.number for text in written] == sorted({text.number for text in written})
    for text in written:
        assert MAX_TEXT_TOKENS - text.prompt_len >= LEAST_NEW_TOKENS
        assert len(text) <= MAX_TEXT_TOKENS
        assert not encoder.stop_tokens & set(text.tokens[text.prompt_len : -1].tolist())


def test_turns_of_its_own_stand_in_the_template(written: TextFolder, encoder: PromptEncoder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path(TARGET))
    own = [tokenizer.decode(text.tokens[: text.prompt_len]) for text in written if text.kind == OWN]
    assert len(own) > 4
    assert all(prompt.startswith("# user: ") and prompt.endswith("\n# assistant:\n") for prompt in own)


def test_a_killed_run_goes_on_with_the_same_texts(
    written: TextFolder, tmp_path: pathlib.Path, target: LoadedModel, encoder: PromptEncoder
) -> None:
    """Also with another number of texts side by side."""
    (tmp_path / "text").mkdir()
    for shards, sequences in ((1, SEQUENCES), (SHARDS - 2, 3)):
        found = _write(tmp_path, target, encoder, shards, sequences, _Killed())
    assert len(found.shards) >= SHARDS - 2
    for text, expected in zip(found, written, strict=False):
        assert (text.number, text.prompt_len) == (expected.number, expected.prompt_len)
        for name in ("tokens", "top_ids", "top_logprobs", "states"):
            np.testing.assert_array_equal(getattr(text, name), getattr(expected, name))


def test_what_has_ended_is_kept_at_ctrl_c(tmp_path: pathlib.Path, target: LoadedModel, encoder: PromptEncoder) -> None:
    (tmp_path / "text").mkdir()
    found = _write(tmp_path, target, encoder, 1, SEQUENCES, KeyboardInterrupt())
    assert len(found.shards) == 2
    assert found.next_number > found[len(found) - 1].number >= SHARD_TEXTS
    assert target.runner.cache.allocator.free_count == target.runner.cache.allocator.count


def test_a_target_without_a_template_goes_on_with_texts(target: LoadedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path(TARGET))
    encoder, prompts = PromptEncoder(tokenizer, None, [0]), Prompts(shipped_seeds(), [], seed=3, chat=False)
    writer = TextWriter(target, encoder, prompts, SEQUENCES, 0, hidden=False)
    ended: dict[int, Text | None] = {}
    while len(ended) < SEQUENCES:
        ended |= dict(writer.step())
    writer.close()
    texts = [text for text in ended.values() if text is not None]
    assert {text.kind for text in texts} == {OWN, BEGINNING}
    assert all(text.states is None for text in texts)
    for text in texts:
        asked = prompts.task(text.number).beginning
        assert asked is not None
        assert text.tokens[: text.prompt_len].tolist() == encoder.beginning(asked)
