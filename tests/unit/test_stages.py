"""Each stage alone: what it proposes after which text, and how sure it is."""

import pathlib
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drafthouse.choose import Rows, rank, scores
from drafthouse.errors import ConfigError
from drafthouse.noise import gumbel, position_key
from drafthouse.sampling import SamplingParams
from drafthouse.stages import trigram_table
from drafthouse.stages.lookup import LONGEST, PLACES, LookupStage
from drafthouse.stages.match import children_of
from drafthouse.stages.stage import SessionFacts, Stage
from drafthouse.stages.suffix import SuffixStage, Traffic
from drafthouse.stages.suffix_automaton import START, SuffixAutomaton
from drafthouse.stages.token_noise import token_noise
from drafthouse.stages.trigram import TrigramStage
from drafthouse.stages.trigram_building import fitted

GREEDY = SamplingParams(0.0)
few = st.lists(st.integers(0, 2), max_size=40)
"""Few different tokens, so that much repeats."""


def facts(sampling: SamplingParams = GREEDY, key: str = "", vocab: int = 50) -> SessionFacts:
    return SessionFacts(sampling, 7, vocab, key)


def following(stage: Stage, tokens: Sequence[int]) -> Stage:
    stage.follow(tokens)
    return stage


def suffix(tokens: Sequence[int] = (), traffic: Traffic | None = None, key: str = "") -> Stage:
    return following(SuffixStage(facts(key=key), traffic or Traffic(0)), tokens)


@pytest.mark.parametrize("kind", [LookupStage, lambda f: SuffixStage(f, Traffic(0))])
def test_what_followed_the_longest_match_comes_first(kind: type[Stage]) -> None:
    stage = following(kind(facts()), [1, 2, 3, 10, 9, 3, 11, 8, 3, 11, 7, 2, 3])
    assert stage.children([], 4).tokens == [10, 11], "10 came after 2 3, and 11 twice after 3 alone"
    assert stage.children([10], 4).tokens == [9], "the drafted path goes on where the text did"
    assert stage.children([11], 1).tokens in ([8], [7])
    assert sorted(stage.children([11], 4).tokens) == [7, 8], "both continuations are siblings"
    assert stage.children([49], 4).tokens == [], "never seen"
    stage.follow([10, 9])
    assert stage.children([], 4).tokens == [3]


@pytest.mark.parametrize("kind", [LookupStage, lambda f: SuffixStage(f, Traffic(0))])
def test_a_longer_match_speaks_for_more(kind: type[Stage]) -> None:
    stage = following(kind(facts()), [1, 2, 3, 4, 5, 6, 7, 20, 1])
    margins = []
    for path in ([], [2], [2, 3], [2, 3, 4], [2, 3, 4, 5]):
        margins += stage.children(path, 4).margins
    assert margins == sorted(set(margins))
    assert margins[0] > 0


@pytest.mark.parametrize("kind", [LookupStage, lambda f: SuffixStage(f, Traffic(0))])
def test_nothing_is_proposed_of_no_text(kind: type[Stage]) -> None:
    assert kind(facts()).children([], 4).tokens == []
    assert following(kind(facts()), [5]).children([], 4).tokens == []


def test_lookup_looks_at_the_latest_places() -> None:
    stage = following(LookupStage(facts()), [1, 2] + [1, 3] * PLACES + [1])
    assert stage.children([], 4).tokens == [3]


def test_lookup_does_not_compare_beyond_its_longest_match() -> None:
    text = list(range(40)) * 3
    assert following(LookupStage(facts(vocab=60)), text).children([], 4).margins == children_of([(0, LONGEST, 1.0)], 4).margins


def test_equal_matches_share_the_margin_by_how_often_they_came() -> None:
    children = children_of([(5, 3, 1.0), (6, 3, 3.0), (7, 1, 9.0)], 3)
    assert children.tokens == [6, 5, 7]
    assert children.margins == pytest.approx([2.0 * 3 / 4, 2.0, 1.0]), "of what is left, 5 is the only one of its length"


def longest_matches(text: list[int], path: list[int]) -> tuple[int, dict[int, int]]:
    """The longest suffix of text and path that is followed by something in the text, and what followed it how often."""
    whole = text + path
    for length in range(len(whole), 0, -1):
        after = [text[i + length] for i in range(len(text) - length) if text[i : i + length] == whole[-length:]]
        if after:
            return length, {token: after.count(token) for token in after}
    return 0, {}


@given(few, st.lists(st.integers(0, 3), max_size=5))
def test_the_automaton_finds_what_a_search_finds(text: list[int], path: list[int]) -> None:
    automaton = SuffixAutomaton()
    for token in text:
        automaton.append(token)
    state, length = automaton.text_end
    for token in path:
        state, length = automaton.step(state, length, token)
    found = list(automaton.followers(state, length))
    longest, counts = longest_matches(text, path)
    assert {token: count for token, at, count in found if at == longest} == counts
    assert [at for _, at, _ in found] == sorted((at for _, at, _ in found), reverse=True)


@given(st.lists(few, max_size=5))
def test_texts_of_one_automaton_do_not_run_into_each_other(texts: list[list[int]]) -> None:
    automaton = SuffixAutomaton()
    for text in texts:
        automaton.end_text()
        for token in text:
            automaton.append(token)
    for a in range(3):
        for b in range(3):
            state, length = automaton.step(*automaton.step(START, 0, a), b)
            wanted = sum(text[i : i + 2] == [a, b] for text in texts for i in range(len(text)))
            assert (length == 2) == (wanted > 0)
            if wanted:
                followed = {t: c for t, at, c in automaton.followers(state, length) if at == 2}
                for c in range(3):
                    assert followed.get(c, 0) == sum(text[i : i + 3] == [a, b, c] for text in texts for i in range(len(text)))


def test_traffic_of_a_key_is_for_that_key() -> None:
    traffic = Traffic(100)
    suffix([1, 2, 3, 4], traffic, "mine").close(finished=True)
    assert suffix([9, 1, 2], traffic, "mine").children([], 4).tokens == [3]
    assert suffix([9, 1, 2], traffic, "other").children([], 4).tokens == []
    assert suffix([9, 1, 2], traffic).children([], 4).tokens == []


def test_nothing_is_remembered_without_a_key_or_a_size() -> None:
    for traffic, key in ((Traffic(100), ""), (Traffic(0), "mine")):
        suffix([1, 2, 3, 4], traffic, key).close(finished=True)
        assert traffic.tokens == 0
        assert suffix([9, 1, 2], traffic, key).children([], 4).tokens == []


def test_what_did_not_finish_is_not_remembered() -> None:
    traffic = Traffic(100)
    suffix([1, 2, 3, 4], traffic, "mine").close(finished=False)
    assert traffic.tokens == 0


def test_traffic_keeps_its_bound_and_the_latest_texts() -> None:
    traffic, rng = Traffic(60), random.Random(0)
    for i in range(40):
        suffix([rng.randrange(40) for _ in range(rng.randrange(1, 90))], traffic, f"key {i % 3}").close(finished=True)
        assert traffic.tokens <= 60
    suffix([41, 42, 43], traffic, "key 0").close(finished=True)
    assert suffix([41, 42], traffic, "key 0").children([], 4).tokens[0] == 43


def test_a_session_goes_on_while_its_key_is_forgotten() -> None:
    traffic = Traffic(8)
    suffix([1, 2, 3], traffic, "mine").close(finished=True)
    session = suffix([1], traffic, "mine")
    for i in range(5):
        suffix([30, 31, 32, 33, 34], traffic, f"{i}").close(finished=True)
    session.follow([2])
    assert session.children([], 4).tokens == [3]


def test_noise_of_some_tokens_is_the_shared_noise() -> None:
    for seed, position in ((0, 0), (7, 12345), ((1 << 63) - 1, 99)):
        whole = gumbel(torch.tensor([position_key(seed, position)]), 300)[0].numpy()
        assert token_noise(seed, position, range(300)) == pytest.approx(whole, rel=1e-6)
        assert token_noise(seed, position, [250, 3]) == pytest.approx(whole[[250, 3]], rel=1e-6)


def text_of(count: int, length: int, vocab: int = 40, seed: int = 0) -> np.ndarray:
    """Texts in which a few continuations are likely."""
    rng = np.random.default_rng(seed)
    out = rng.integers(0, vocab, (count, length))
    for i in range(1, length):
        out[:, i] = np.where(rng.random(count) < 0.7, (out[:, i - 1] * 3 + rng.integers(0, 2, count)) % vocab, out[:, i])
    return out * 2 + 5


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> trigram_table.TrigramTable:
    path = tmp_path_factory.mktemp("trigram") / "trigram.npz"
    path.write_bytes(trigram_table.packed(trigram_table.counted(text_of(60, 50), 2)))
    return trigram_table.load(path, 90)


def test_probabilities_of_every_context_sum_to_one(table: trigram_table.TrigramTable) -> None:
    for context in ([], [5], [6], [5, 7], [7, 5], [9, 11], [83, 5], [1, 2]):
        assert np.exp(table.log_probabilities(context).astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5), context


def test_a_kept_triple_has_its_discounted_share() -> None:
    texts = np.array([[1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2, 3, 9, 9]])
    table = trigram_table.TrigramTable(trigram_table.counted(texts, 1))
    after = dict(zip(table.tokens.tolist(), np.exp(table.log_probabilities([1, 2])).tolist(), strict=True))
    assert after[3] == pytest.approx((3 - trigram_table.DISCOUNT) / 4)
    assert after[4] == pytest.approx((1 - trigram_table.DISCOUNT) / 4)
    assert after[9] > 0, "what was never seen here has what is left"


@pytest.mark.parametrize("few", [2, trigram_table.FEW])
def test_the_likeliest_are_those_of_the_whole_distribution(
    table: trigram_table.TrigramTable, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trigram_table, "FEW", few)
    for context in ([], [5], [5, 7], [5, 7, 9], [27, 81]):
        whole = table.log_probabilities(context)
        for count in (1, 5, len(whole), 0):
            index, found = table.best(context, count)
            assert found.tolist() == whole[index].tolist()
            assert sorted(found.tolist()) == sorted(whole.tolist())[-count:]
            assert len(set(index.tolist())) == len(found)


def test_backing_off_keeps_the_shorter_contexts_order(table: trigram_table.TrigramTable) -> None:
    unseen, shorter = table.log_probabilities([6, 25]), table.log_probabilities([25])
    assert unseen == pytest.approx(shorter), "a token that the table has not is no context"


def perturbed(logits: torch.Tensor, sampling: SamplingParams, position: int) -> np.ndarray:
    result: np.ndarray = scores(logits[None], [Rows(sampling, 7, [position])])[0].numpy()
    return result


@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(1.0), SamplingParams(0.7, top_k=5), SamplingParams(1.2, top_p=0.8, min_p=0.05)]
)
def test_trigram_ranks_as_the_target_chooses(table: trigram_table.TrigramTable, sampling: SamplingParams) -> None:
    """Were the table the target, its first child would be the target's token: same filters, same noise, same margins."""
    stage = following(TrigramStage(facts(sampling, vocab=90), table), [5, 7, 9])
    for path in ([], [5], [27, 81], [1, 2, 3]):
        logits = torch.full((1, 90), -60.0)
        logits[0, table.tokens.tolist()] = torch.from_numpy(table.log_probabilities([7, 9, *path]))
        [tokens], [margins] = rank(logits, [Rows(sampling, 7, [3 + len(path)])], 4)
        got = stage.children(path, 4)
        wanted = perturbed(logits[0], sampling, 3 + len(path))
        assert wanted[got.tokens] == pytest.approx(wanted[tokens]), "equal scores may come in any order"
        assert got.margins == pytest.approx(margins, rel=1e-3, abs=1e-4)


def test_the_table_fits_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drafthouse.stages.trigram_building.MAX_BYTES", 3000)
    texts = text_of(60, 50)
    assert 1500 < len(fitted(texts)) <= 3000 < len(trigram_table.packed(trigram_table.counted(texts, 1)))


def test_texts_of_several_lengths_are_counted_each_by_itself() -> None:
    counts = trigram_table.counted([np.array([1, 2, 1, 2]), np.array([7]), np.array([2, 1])], 1)
    assert (counts.tokens.tolist(), counts.singles.tolist()) == ([1, 2, 7], [3, 3, 1])
    assert (counts.pairs.T.tolist(), counts.pair_counts.tolist()) == ([[0, 1], [1, 0]], [2, 2]), "no pair with 7"
    assert (counts.triples.T.tolist(), counts.triple_counts.tolist()) == ([[0, 1, 0], [1, 0, 1]], [1, 1])


def test_a_table_of_another_vocabulary_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.npz").write_bytes(trigram_table.packed(trigram_table.counted(np.array([[1, 2, 9]]), 1)))
    assert trigram_table.load(tmp_path / "x.npz", 10).tokens.tolist() == [1, 2, 9]
    with pytest.raises(ConfigError, match=r"x\.npz: holds token 9, outside the vocabulary of 9"):
        trigram_table.load(tmp_path / "x.npz", 9)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_table_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.npz: no trigram table"):
        trigram_table.load(tmp_path / "x.npz", 90)
