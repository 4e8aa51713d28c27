"""Training a draft: rows and their gradients against plain decoders, a whole run of seconds, and one that goes on after a kill."""

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from drafthouse.checkpoints.draft_folder import DraftFolder
from drafthouse.config.serving import ModelConfig
from drafthouse.distillation.agreement import measure_agreement
from drafthouse.distillation.attention import Span, Unrolling
from drafthouse.distillation.batches import PROMPT_TAIL, Packing
from drafthouse.distillation.checkpoint import read_checkpoint
from drafthouse.distillation.fuse_start import begin_fuse
from drafthouse.distillation.head_start import begin_head
from drafthouse.distillation.network import DraftNetwork, chosen_layers, target_modules
from drafthouse.distillation.options import DistillOptions
from drafthouse.distillation.schedule import Budget
from drafthouse.distillation.shards import Text
from drafthouse.distillation.text_folder import TextFolder
from drafthouse.distillation.trainer import Trainer, Training, state_distance
from drafthouse.distillation.training import WORK, train
from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.loader import load
from drafthouse.engine.segment import chunk
from drafthouse.errors import ConfigError
from tests.engine.distilled_texts import PROMPT, target_texts, write_texts
from tests.engine.tiny_models import tiny

VOCAB = 256
HEAD = np.arange(0, VOCAB, 2, dtype=np.int32)


def network(family: str, hidden: bool, layers: int = 1) -> DraftNetwork:
    target = tiny(family, dtype=torch.float32, layers=3)
    made = DraftNetwork(target, layers, torch.from_numpy(HEAD), hidden)
    if hidden:
        with torch.no_grad():
            made.fuse_state.copy_(torch.randn(made.fuse_state.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
            made.no_state.normal_(generator=torch.Generator().manual_seed(2))
    return made


def texts(family: str, count: int = 3) -> list[Text]:
    return [
        cut(text, 9 + 5 * i) for i, text in enumerate(target_texts(tiny(family, dtype=torch.float32, layers=3), count, 22, states=True))
    ]


def cut(text: Text, length: int) -> Text:
    return Text(
        text.number, text.kind, text.temperature, text.prompt_len, text.tokens[:length], text.top_ids[:length],
        text.top_logprobs[:length], text.states[:length],
    )  # fmt: skip


def alone(draft: DraftNetwork, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The last state of one path, run as one text of committed tokens."""
    rows = torch.stack(list(inputs))
    return draft.step(rows, torch.arange(len(rows)), Unrolling([Span(len(rows), 0)]))[-1]


def expected(draft: DraftNetwork, text: Text, row: int, step: int) -> torch.Tensor:
    """State of `row` where the last `step` rows of its path read the draft's own states."""
    batch = Packing(HEAD, VOCAB, True).batch([text])
    inputs = list(draft.inputs(batch.tokens, batch.states, batch.known)[: row - step + 1])
    for at in range(row - step + 1, row + 1):
        inputs.append(draft.inputs(batch.tokens[at : at + 1], alone(draft, inputs)[None], None)[0])
    return alone(draft, inputs)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "granite", "mistral"])
@torch.no_grad()
def test_unrolled_rows_see_true_states_before_their_path_and_own_ones_on_it(family: str) -> None:
    draft, packed = network(family, hidden=True, layers=2), texts(family)
    batch = Packing(HEAD, VOCAB, True).batch(packed)
    steps = list(draft(batch, 2))
    assert len(steps) == 3
    for step, (states, wanted) in enumerate(steps):
        assert len(states) == len(wanted) == sum(len(text) - PROMPT - step for text in packed)
        at = 0
        for text in packed:
            for row in range(text.rows.start + step, text.rows.stop):
                torch.testing.assert_close(states[at], expected(draft, text, row, step), rtol=1e-3, atol=1e-3)
                at += 1


def test_a_batch_leaves_states_out_now_and_then_but_no_others_than_a_prompts_beginning_when_it_measures() -> None:
    long = [Text(i, "chat", 0.0, 300, np.zeros(310, np.int32), np.zeros((310, 32), np.int32), np.zeros((310, 32), np.float16),
                 np.zeros((310, 64), np.int16)) for i in range(200)]  # fmt: skip
    packing = Packing(HEAD, VOCAB, True)
    known = packing.batch(long).known
    assert known is not None
    assert known.view(200, 310).sum(1).unique().tolist() == [310 - (300 - PROMPT_TAIL)]
    known = packing.batch(long, np.random.default_rng(0)).known
    assert known is not None
    counts = known.view(200, 310).sum(1)
    assert 5 < (counts == 0).sum() < 40
    assert 15 < ((counts > 0) & (counts < 310 - (300 - PROMPT_TAIL))).sum() < 80


def options(folder: pathlib.Path, seconds: float, **changes: Any) -> DistillOptions:
    minutes = 2 * seconds / 60
    return DistillOptions(target="demo:target", output=folder, minutes=minutes, text_share=0.5, layers=1, head_tokens=512, **changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with text of the demo target."""
    folder = tmp_path_factory.mktemp("text")
    write_texts(folder, target_texts(target_modules("demo:target"), 40, 40))
    return folder


def test_a_run_of_seconds_lowers_the_loss_and_goes_on_from_where_it_was_killed(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "draft"
    shutil.copytree(written, folder)
    seen: list[Training] = []

    def killed(training: Training) -> None:
        seen.append(training)
        if training.agreement is not None and len(seen) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options(folder, 6), TextFolder(folder), killed)
    first = read_checkpoint(folder / WORK)
    assert first is not None
    assert 0 < first.spent_s <= seen[-1].budget.spent

    again: list[Training] = []
    result = train(options(folder, 6), TextFolder(folder), again.append)
    assert again[0].budget.spent >= first.spent_s
    assert again[0].rows > first.learned_rows
    assert again[-1].budget.left == 0.0
    assert result.seconds == pytest.approx(again[-1].budget.spent)
    assert result.agreement.loss < 0.8 * seen[0].loss

    card = (folder / "REPORT.md").read_text()
    assert f"| 1 | greedy | {result.agreement.first:.3f} |" in card
    assert "| greedy | cores of its own |" in card

    record = DraftFolder.read(folder)
    assert record is not None
    assert (record.target, record.embeddings, record.hidden) == ("demo:target", "target", False)
    tensors = load_file(folder / "model.safetensors")
    assert tensors["lm_head.weight"].shape == (len(tensors["head_ids"]), 256)
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert not any("embed" in name or "layers.1" in name or "fuse" in name for name in tensors)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1


def test_the_draft_that_serves_computes_what_was_learned(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "draft"
    shutil.copytree(written, folder)
    exported = tmp_path / "exported"
    result = train(options(folder, 1, export_llama=exported), TextFolder(folder), lambda training: None)
    model = load(ModelConfig(path=str(folder), kv_tokens=256))
    try:
        assert model.head_ids is not None
        assert len(model.head_ids) == result.head_tokens
        hits = count = 0
        for text in TextFolder(folder).held_out():
            kv = KvSequence(model.runner.cache)
            logits = model.runner.run([chunk(kv, text.tokens.tolist(), 0, True, of_all=True)]).logits[text.rows]
            kv.release()
            hits += int((model.head_ids[logits.argmax(-1)] == torch.from_numpy(text.top_ids[text.rows, 0].astype(np.int64))).sum())
            count += len(logits)
        assert count == result.agreement.levels[0].rows
        assert hits / count == pytest.approx(result.agreement.first, abs=0.03)  # the folder is in bfloat16
        tokens = next(TextFolder(folder).held_out()).tokens.astype(np.int64)
        kv = KvSequence(model.runner.cache)
        ours = model.runner.run([chunk(kv, tokens.tolist(), 0, True, of_all=True)]).logits
        plain = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
        with torch.no_grad():
            theirs = plain(torch.from_numpy(tokens[None])).logits[0]
        torch.testing.assert_close(theirs[:, model.head_ids], ours, rtol=1e-3, atol=1e-3)
        assert len(AutoTokenizer.from_pretrained(exported)) == theirs.shape[1] == 4096
    finally:
        model.runner.close()


def test_a_draft_that_reads_states_begins_with_a_guess_of_the_next_one_and_learns(tmp_path: pathlib.Path) -> None:
    target = target_modules("demo:target")
    written = target_texts(target, 48, 40, states=True)
    held, learned = written[:8], written[8:]
    head = np.arange(512, dtype=np.int32)
    draft = DraftNetwork(target, 1, torch.from_numpy(head), hidden=True)
    trainer = Trainer(draft, Packing(head, 4096, True), learned, held, seed=0)
    identity = _state_error(draft, held)
    begin_fuse(draft, learned)
    assert _state_error(draft, held) < 0.7 < identity
    before = trainer.measure(held)
    trainer.run(Budget(4.0), lambda training: None, lambda budget: None)
    after = trainer.measure(held)
    assert len(after.levels) == 3
    assert after.loss < before.loss
    assert not torch.equal(draft.no_state, torch.zeros_like(draft.no_state))


def test_a_draft_of_tokens_begins_better_with_a_head_for_its_own_states() -> None:
    target = target_modules("demo:target")
    written = target_texts(target, 48, 40, states=True)
    head = np.arange(512, dtype=np.int32)
    draft, packing = DraftNetwork(target, 1, torch.from_numpy(head), hidden=False), Packing(head, 4096, False)
    before = measure_agreement(draft, packing, written[:8], 1)
    begin_head(draft, packing, written[8:])
    assert measure_agreement(draft, packing, written[:8], 1).loss < 0.7 * before.loss


def _state_error(draft: DraftNetwork, held: list[Text]) -> float:
    """Of what the fuse makes, once the final norm is over it."""
    batch = Packing(np.arange(512, dtype=np.int32), 4096, True).batch(held)
    assert batch.states is not None
    with torch.no_grad():
        guessed = draft.base.norm(draft.inputs(batch.tokens, batch.states, batch.known))
    return float(state_distance(guessed[batch.rows], batch.states[batch.rows + 1]))


def test_a_run_of_another_kind_is_refused(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "draft"
    shutil.copytree(written, folder)
    train(options(folder, 0.5), TextFolder(folder), lambda training: None)
    with pytest.raises(ConfigError, match="name another folder for --output"):
        train(options(folder, 0.5).model_copy(update={"layers": 2}), TextFolder(folder), lambda training: None)
    with pytest.raises(ConfigError, match="other engines send no hidden states"):
        train(options(folder, 0.5, hidden=True, export_llama=tmp_path), TextFolder(folder), lambda training: None)
    with pytest.raises(ConfigError, match="without hidden states"):
        train(options(folder, 0.5, hidden=True), TextFolder(folder), lambda training: None)


def test_layers_are_spread_over_the_targets_and_a_single_one_fits_what_it_reads() -> None:
    assert [chosen_layers(30, count, hidden=False) for count in (1, 2, 4)] == [[0], [0, 29], [0, 10, 19, 29]]
    assert chosen_layers(30, 1, hidden=True) == [29]
