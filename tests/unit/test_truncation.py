"""Which turns of an input are left out, and that no input is planned twice."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from deployments.api.responses.input_items import MessageItem
from deployments.api.responses.truncation import plan_that_fits
from drafthouse.errors import CONTEXT_EXCEEDED, RequestError

ITEMS = [MessageItem(role="user", content=str(i)) for i in range(8)]


@dataclass(frozen=True)
class Plan:
    max_tokens: int
    notes: tuple[str, ...] = ()


@pytest.mark.parametrize("least", range(9))
def test_as_few_turns_as_possible_are_left_out_and_no_input_is_planned_twice(least):
    """With `least` items left out the rest fits."""
    asked = []

    def make(left_out: int) -> Any:
        asked.append(left_out)
        if left_out < least:
            raise RequestError("too long", "input", code=CONTEXT_EXCEEDED)
        return Plan(10 + left_out)

    if least > 7:
        with pytest.raises(RequestError, match="too long"):
            plan_that_fits(make, ITEMS, 1)
    else:
        plan = cast(Plan, plan_that_fits(make, ITEMS, 1))
        assert plan.max_tokens == 10 + least
        assert len(plan.notes) == (least > 0)
    assert len(asked) == len(set(asked))
