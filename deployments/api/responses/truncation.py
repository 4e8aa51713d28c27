"""`truncation: auto`: an input that does not fit the context loses its oldest turns.

Promises: as few items as possible are left out, by bisection; what is left begins with a user's message, and messages of the system stay.
The client is told. An input of which even the last turn does not fit is refused as without truncation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from deployments.api.responses.input_items import Item, MessageItem
from deployments.gateway.request_planner import RequestPlan
from drafthouse.errors import RequestError

TOO_LONG = "context_length_exceeded"

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
    if not cuts or _fits(make, 0, wanted):
        return make(0)
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high) // 2
        if _fits(make, cuts[middle], wanted):
            high = middle
        else:
            low = middle + 1
    plan = make(cuts[low])
    gone = sum(not stays(item) for item in items[: cuts[low]])
    return replace(plan, notes=(*plan.notes, f"input: the first {gone} items were left out, so that the rest fits the context"))


def _fits(make: Make, left_out: int, wanted: int) -> bool:
    try:
        return make(left_out).max_tokens >= wanted
    except RequestError as error:
        if error.code != TOO_LONG:
            raise
        return False
