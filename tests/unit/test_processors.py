"""Processors of logits: against transformers' own, pure along paths, and the contract that a grammar plugs into."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from drafthouse.choose import Rows, choose, scores
from drafthouse.processors.edits import WORD_BITS, Edits
from drafthouse.processors.processor import PathProcessor
from drafthouse.processors.sequence_processors import processors_of
from drafthouse.sampling import SamplingParams, ThinkingBudget

VOCAB = 40
STOPS = (5, 6)
IDS = st.integers(0, VOCAB - 1)
TEXTS = st.lists(st.integers(0, 7), max_size=12)  # few ids, so that words and counts come together
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.just(0.0),
    repetition_penalty=st.sampled_from([0.6, 1.0, 1.7]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([-0.4, 0.0, 1.1]),
    min_tokens=st.integers(0, 12),
    logit_bias=st.dictionaries(IDS, st.floats(-100, 100, width=32), max_size=4).map(lambda bias: tuple(bias.items())),
    allowed_token_ids=st.one_of(st.just(()), st.sets(IDS, min_size=9).map(lambda ids: tuple(sorted(ids)))),
    bad_words=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple), max_size=4, unique=True).map(tuple),
)

THINKING = st.none() | st.builds(
    ThinkingBudget, tokens=st.integers(0, 6), opening=st.integers(0, 7), closing=st.integers(0, 7), inside=st.booleans()
)


def random_logits(seed: int, rows: int = 1) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def processed(logits: torch.Tensor, sampling: SamplingParams, prompt: Sequence[int], output: Sequence[int], paths=((),)) -> torch.Tensor:
    processors = processors_of(sampling, prompt, output, STOPS, VOCAB)
    return scores(logits, [Rows(sampling, 0, range(len(logits)), paths, processors)])


def by_transformers(logits: torch.Tensor, sampling: SamplingParams, prompt: list[int], output: list[int]) -> torch.Tensor:
    """In the order that `SamplingParams` states; OpenAI's penalties, which transformers has not, by their formula."""
    text, rows = torch.tensor([prompt + output], dtype=torch.int64), logits.clone()
    if sampling.allowed_token_ids:
        allowed = torch.zeros(VOCAB, dtype=torch.bool)
        allowed[list(sampling.allowed_token_ids)] = True
        rows = rows.masked_fill(~allowed, -torch.inf)
    steps = LogitsProcessorList()
    if sampling.logit_bias:
        steps.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in sampling.logit_bias]))
    if sampling.bad_words:
        steps.append(NoBadWordsLogitsProcessor([list(word) for word in sampling.bad_words]))
    steps.append(MinNewTokensLengthLogitsProcessor(len(prompt), sampling.min_tokens, list(STOPS)))
    rows = steps(text, rows)
    rows = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(text, rows)
    counts = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=VOCAB)
    return rows - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)


@settings(max_examples=200, deadline=None)
@given(SAMPLINGS, TEXTS.filter(len), TEXTS, st.integers(0, 10_000))
def test_equals_transformers(sampling: SamplingParams, prompt: list[int], output: list[int], seed: int) -> None:
    logits = random_logits(seed)
    expected = by_transformers(logits, sampling, prompt, output)
    if not bool(expected.isfinite().any()):
        return  # what then holds, `test_what_must_not_be_chosen_gives_way_where_nothing_else_is_left` says
    torch.testing.assert_close(processed(logits, sampling, prompt, output), expected, rtol=1e-6, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(SAMPLINGS, THINKING, TEXTS.filter(len), st.lists(TEXTS, min_size=1, max_size=5), TEXTS, st.integers(0, 10_000))
def test_a_row_knows_its_own_path_alone(
    sampling: SamplingParams, thinking: ThinkingBudget | None, prompt: list[int], paths: list[list[int]], output: list[int], seed: int
) -> None:
    """Drafted or committed, in whatever pieces, alone or beside other rows: the same bits."""
    sampling = replace(sampling, thinking=None if sampling.allowed_token_ids else thinking)
    logits = random_logits(seed, len(paths))
    together = processed(logits, sampling, prompt, output, paths)
    for row, path in enumerate(paths):
        alone = processed(logits[row : row + 1], sampling, prompt, output + path)
        assert torch.equal(together[row], alone[0])
        committed = processors_of(sampling, prompt, (), STOPS, VOCAB)
        if committed is not None:
            rng = random.Random(seed)
            left = output + path
            while left:
                committed.edit(Edits(), 0, [rng.sample(range(8), 2)])  # leaves no trace
                count = rng.randint(1, len(left))
                committed.commit(left[:count])
                left = left[count:]
            assert torch.equal(scores(logits[row : row + 1], [Rows(sampling, 0, [0], (), committed)])[0], together[row])


def test_openais_penalties_count_the_output_alone() -> None:
    logits = torch.zeros(1, VOCAB)
    found = processed(logits, SamplingParams(0.0, presence_penalty=0.5, frequency_penalty=0.25), [1, 1, 2], [3, 4, 4], [[4, 7]])
    wanted = torch.zeros(VOCAB)
    wanted[3], wanted[4], wanted[7] = -0.75, -1.25, -0.75
    assert torch.equal(found[0], wanted)


def test_min_tokens_counts_from_the_true_beginning() -> None:
    sampling, logits = SamplingParams(0.0, min_tokens=4), torch.zeros(3, VOCAB)
    found = processed(logits, sampling, [1, 2, 3], [7, 7], [[], [8], [8, 9]])
    assert found[:, STOPS[0]].tolist() == [-torch.inf, -torch.inf, 0.0]
    assert processors_of(sampling, [1], [7] * 4, STOPS, VOCAB) is None, "nothing is left to do"


OPENING, CLOSING = 20, 21


@pytest.mark.parametrize(
    ("inside", "tokens", "output", "path", "forced"),
    [
        (True, 2, [1], [], False),
        (True, 2, [1], [2], True),
        (True, 2, [1, 2, 3], [], True),  # a token that a draft put there, and that no walk reaches
        (True, 2, [1, CLOSING], [2, 3, 4], False),
        (True, 0, [], [], True),
        (False, 0, [], [], False),
        (False, 0, [OPENING], [], True),
        (False, 1, [1], [OPENING, 2], True),
        (False, 1, [1, 2, 3, 4, OPENING], [2, 3], False),  # an answer may name the tag
    ],
)
def test_a_thought_ends_when_its_budget_is_spent(inside: bool, tokens: int, output: list[int], path: list[int], forced: bool) -> None:
    sampling = SamplingParams(0.0, thinking=ThinkingBudget(tokens, OPENING, CLOSING, inside))
    found = processed(torch.zeros(1, VOCAB), sampling, [5], output, [path])
    assert (int(found.isfinite().sum()) == 1, bool(found[0, CLOSING].isfinite())) == (forced, True)


def test_what_must_not_be_chosen_gives_way_where_nothing_else_is_left() -> None:
    logits = random_logits(1, 2)
    sampling = SamplingParams(0.0, allowed_token_ids=STOPS, min_tokens=1)
    assert choose(logits, [Rows(sampling, 0, [0, 1], [[], [9]], processors_of(sampling, [1], [], STOPS, VOCAB))]) == [
        max(STOPS, key=lambda token: float(row[token])) for row in logits
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 20, VOCAB])
def test_few_allowed_tokens_and_many_are_the_only_ones_alike(count: int) -> None:
    """Two words hold a bit for each token: more ids than that go as a mask."""
    logits, allowed = random_logits(5, 3), random.Random(count).sample(range(VOCAB), count)
    found = processed(logits, SamplingParams(0.0, allowed_token_ids=tuple(allowed)), [], [], [[], [allowed[0]], [7]])
    kept = torch.zeros(VOCAB, dtype=torch.bool)
    kept[allowed] = True
    assert torch.equal(found, logits.masked_fill(~kept, -torch.inf))


def test_a_vocabulary_may_lack_what_a_request_names() -> None:
    sampling = SamplingParams(
        0.0, logit_bias=((VOCAB, 5.0), (3, 50.0)), allowed_token_ids=(VOCAB + 1,), bad_words=((VOCAB,), (1, VOCAB)), min_tokens=3
    )
    assert choose(random_logits(2), [Rows(sampling, 0, [0], (), processors_of(sampling, [1], [], (VOCAB,), VOCAB))]) == [3]


def test_rows_of_others_keep_their_bits() -> None:
    logits = random_logits(3, 4)
    sampling = SamplingParams(0.0, frequency_penalty=1.0, bad_words=((2,),), logit_bias=((1, 3.0),), allowed_token_ids=tuple(range(9)))
    mine = Rows(sampling, 0, [3, 4], [[], [1]], processors_of(sampling, [1], [2], STOPS, VOCAB))
    plain = Rows(SamplingParams(0.0), 0, [0])
    found = scores(logits, [plain, mine, plain])
    assert torch.equal(found[[0, 3]], logits[[0, 3]])
    assert torch.equal(found[1:3], scores(logits[1:3], [mine]))


class Alternating(PathProcessor):
    """A grammar of two states: an even token after an odd one and the other way round. A token that is not allowed leads nowhere."""

    def __init__(self, tokens: Sequence[int]):
        self.moves: list[int] = []
        self.longest = 0
        self.commit(tokens)

    def advance(self, token: int) -> None:
        self.moves.append(token)
        self.longest += 1

    def rollback(self, count: int) -> None:
        del self.moves[len(self.moves) - count :]

    def edit_row(self, edits: Edits, row: int) -> None:
        allowed = np.arange(VOCAB) % 2 != self.moves[-1] % 2
        bits = np.zeros(-(-VOCAB // WORD_BITS) * WORD_BITS, dtype=bool)
        bits[:VOCAB] = allowed
        edits.mask(np.array([row]), np.packbits(bits, bitorder="little").view("<u4")[None])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_plugs_in(temperature: float) -> None:
    """As masks of whole rows, moved along the paths of a tree and back, beside the other processors."""
    sampling = SamplingParams(temperature, logit_bias=((4, 2.0),), frequency_penalty=1.0)
    paths = [[], [2], [2, 5], [2, 7], [3], [2, 5, 8]]
    grammar = Alternating([9])
    processors = processors_of(sampling, [9], [], STOPS, VOCAB, further=[grammar])
    logits = random_logits(4, len(paths))
    found = scores(logits, [Rows(sampling, 7, range(len(paths)), paths, processors)])
    assert grammar.moves == [9], "no trace is left"
    assert grammar.longest == 1 + 1 + 1 + 1 + 1 + 3, "from row to row only what differs"
    without = scores(logits, [Rows(sampling, 7, range(len(paths)), paths, processors_of(sampling, [9], [], STOPS, VOCAB))])
    for row, path in enumerate(paths):
        allowed = torch.arange(VOCAB) % 2 != [9, *path][-1] % 2
        assert torch.equal(found[row].isfinite(), allowed)
        assert torch.equal(found[row][allowed], without[row][allowed])
