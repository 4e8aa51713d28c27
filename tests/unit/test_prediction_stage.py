"""The stage that drafts a predicted output: how much of an edited text it gets right."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drafthouse.sampling import SamplingParams
from drafthouse.stages.prediction import PredictionStage
from drafthouse.stages.stage import SessionFacts

WIDTH = 3


def stage(prediction: list[int], output: list[int] = []) -> PredictionStage:  # noqa: B006
    made = PredictionStage(SessionFacts(SamplingParams(), 1, 1000, prediction=tuple(prediction)))
    made.follow([7, 7, 7])
    if output:
        made.follow(output)
    return made


def first(made: PredictionStage, path: list[int] = []) -> list[int]:  # noqa: B006
    return made.children(path, WIDTH).tokens


def test_the_prediction_is_drafted_from_its_beginning() -> None:
    made = stage([1, 2, 3])
    assert first(made) == [1]
    assert first(made, [1]) == [2]
    assert first(made, [1, 2]) == [3]
    assert first(made, [1, 2, 3]) == []


@pytest.mark.parametrize(
    ("output", "due"),
    [
        ([1, 2, 99], 4),  # one for another
        ([1, 2, 98, 99], 5),
        ([1, 2, 99, 3], 4),  # something put in
        ([1, 2, 5, 6], 7),  # something left out
        ([99, 2], 3),
        ([99, 98, 97, 3, 4], 5),
    ],
)
def test_the_output_is_found_again_behind_an_edit(output: list[int], due: int) -> None:
    assert first(stage([1, 2, 3, 4, 5, 6, 7, 8], output))[0] == due
    assert first(stage([1, 2, 3, 4, 5, 6, 7, 8]), output)[0] == due, "drafted tokens count as committed ones"


def test_right_behind_an_edit_all_ways_back_are_drafted() -> None:
    assert set(first(stage([1, 2, 3, 4, 5], [1, 2, 99]))) == {4, 3}
    assert set(first(stage([1, 2, 3, 4, 5, 6, 7], [1, 2, 5]))) == {4, 3, 6}


def test_of_places_alike_the_nearest_counts() -> None:
    prediction = [1, 2, 3, 10, *range(100, 140), 1, 2, 3, 20]
    assert first(stage(prediction, [*prediction[:40], 1, 2, 3]))[0] == 20


def test_a_stage_without_output_that_agrees_says_what_it_can() -> None:
    assert first(stage([1, 2, 3], [50, 51, 52, 53])) == [1]
    assert first(stage([], [50])) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 80), st.integers(1, 60))
def test_children_are_different_tokens_of_the_prediction(seed: int, length: int, vocabulary: int) -> None:
    draw = random.Random(seed)
    prediction = [draw.randrange(vocabulary) for _ in range(length)]
    made = stage(prediction)
    for _ in range(40):
        path = [draw.randrange(vocabulary) for _ in range(draw.randrange(4))]
        children = made.children(path, WIDTH)
        assert len(children.tokens) == len(set(children.tokens)) == len(children.margins) <= WIDTH
        assert set(children.tokens) <= set(prediction)
        assert all(margin >= 0 for margin in children.margins)
        made.follow([draw.choice([*prediction, *range(vocabulary)]) for _ in range(draw.randrange(1, 4))])


def test_of_a_text_with_a_tenth_edited_most_tokens_are_drafted_right() -> None:
    draw = random.Random(3)
    answer = [draw.randrange(400) for _ in range(600)]
    prediction = [draw.randrange(400) if draw.random() < 0.1 else token for token in answer]
    made, right = stage(prediction), 0
    for token in answer:
        right += token in first(made)
        made.follow([token])
    assert right >= 0.85 * len(answer)


@pytest.mark.parametrize("period", [1, 2, 3, 10])
@pytest.mark.parametrize("edit", [[], [99], [99, 98], [99, 1]])
def test_in_a_text_that_repeats_itself_an_edit_is_met_once(period: int, edit: list[int]) -> None:
    answer = [*range(1, period + 1)] * (80 // period)
    made, right = stage([*answer[:41], *edit, *answer[42:]]), 0
    for token in answer:
        right += token in first(made)
        made.follow([token])
    assert right >= len(answer) - 3


def test_an_output_that_goes_on_behind_the_end_is_found_where_it_agrees() -> None:
    assert first(stage([1, 2, 3, 4, 5, 1, 2], [1, 2, 3, 4, 5, 1, 2])) == [3]
    assert first(stage([1, 2, 3], [1, 2, 3])) == []
