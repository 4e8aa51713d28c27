"""`truncation: auto`: an input that does not fit the context loses its oldest turns.

Promises: as few items as possible are left out, by bisection; what is left begins with a user's message, and messages of the system stay.
The client is told. An input of which even the last turn does not fit is refused as without truncation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from deployments.api.responses.input_items import Item, MessageItem
from deployments.gateway.request_planner import RequestPlan
from drafthouse.errors import CONTEXT_EXCEEDED, RequestError

Make = Callable[[int], RequestPlan]
"""The plan without the items before this one. Raises RequestError."""


def stays(item: Item) -> bool:
    """Also where items before and behind it are left out."""
    return isinstance(item, MessageItem) and item.role in ("system", "developer")


def turns(items: Sequence[Item]) -> list[int]:
    """Where turns begin, but for the first."""
    return [i for i, item in enumerate(items) if i and isinstance(item, MessageItem) and item.role == "user"]


def plan_that_fits(make: Make, items: Sequence[Item], wanted: int) -> RequestPlan:
    """Leaves room for `wanted` tokens, or, where no turn left out would make it, for one. Raises RequestError."""
    cuts = turns(items)
    if not cuts:
        return make(0)
    if (whole := _fitting(make, 0, wanted)) is not None:
        return whole
    low, high, found = 0, len(cuts) - 1, None  # `found`: the plan of `high`, once one has fitted
    while low < high:
        middle = (low + high) // 2
        if (plan := _fitting(make, cuts[middle], wanted)) is not None:
            high, found = middle, plan
        else:
            low = middle + 1
    plan = found or make(cuts[low])
    gone = sum(not stays(item) for item in items[: cuts[low]])
    return replace(plan, notes=(*plan.notes, f"input: the first {gone} items were left out, so that the rest fits the context"))


def _fitting(make: Make, left_out: int, wanted: int) -> RequestPlan | None:
    try:
        plan = make(left_out)
    except RequestError as error:
        if error.code != CONTEXT_EXCEEDED:
            raise
        return None
    return plan if plan.max_tokens >= wanted else None
