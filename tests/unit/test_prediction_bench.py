"""`drafthouse bench prediction`: what is edited, and what the report says."""

import difflib

import pytest
from rich.console import Console

from benchmarks.prediction import CONTESTANTS, ON, Report, edited, print_prediction

ANSWER = [i * 7 % 1000 for i in range(100)]


@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_the_tokens_is_edited(seed: int) -> None:
    prediction = edited(ANSWER, seed, 1000)
    assert prediction == edited(ANSWER, seed, 1000)
    changes = [c for c in difflib.SequenceMatcher(None, ANSWER, prediction, autojunk=False).get_opcodes() if c[0] != "equal"]
    changed = sum(max(a_end - a, b_end - b) for _, a, a_end, b, b_end in changes)
    assert 9 <= changed <= 11  # neighbours may be told as one change
    assert len(prediction) == len(ANSWER), "as many are put in as are left out"
    assert all(0 <= token < 1000 for token in prediction)


def test_different_texts_are_told() -> None:
    numbers = dict.fromkeys(CONTESTANTS, 2.0)
    ratio = {"value": 2.0, "low": 1.9, "high": 2.1}
    report: Report = {"settings": {"target": "t", "dtype": "float32", "threads": 1, "prompts": 1, "tokens": 8, "rounds": 1}}
    report |= {"tokens_per_second": numbers, "tokens_per_step": numbers, "ratio": ratio, "control": ratio, "texts": 3}
    report |= {"prediction_tokens": {"accepted": 5, "rejected": 6}, "texts_different": 1}
    console = Console(record=True, width=120)
    print_prediction(console, report)
    shown = console.export_text()
    assert ON in shown
    assert "5 accepted, 6 rejected" in shown
    assert "1 of 3 texts differ" in shown
