"""What a second and what one more node is worth to a verifier, step by step.

Promises: `quote` is taken for the step at hand, so a change of load shows in the next step; the value
of a second is never below what plain decoding makes of it, whose steps take time beyond their run on the device too.
"""

from collections.abc import Sequence

from drafthouse.policy.goodput import GoodputMeter
from drafthouse.policy.latency import LatencyModel
from drafthouse.policy.selection import price

OVERHEAD_RATE = 0.05
"""Weight of the latest plain step in the moving average of what such a step takes beyond its run."""


class NodePricing:
    """`value_of_a_second` and `plain_goodput`, of plain steps at the load of now, in tokens per second; `price` in tokens per node;
    `price_floor` is the controller's, for what is asked of drafters. `mean_worth`: of a token, to the sequences of the step at hand;
    `even`: it is the same to all of them."""

    def __init__(self, latency: LatencyModel):
        self.latency = latency
        self.meter = GoodputMeter(1.0 / latency.seconds(1, 0))
        self.overhead_s = 0.0
        self._runs_s = self._expected_s = 0.0  # decayed, of runs as they were and as the model has them
        self.price_floor = 0.0
        self.mean_worth, self.even = 1.0, True
        self.quote(1, 0, 0)

    def quote(self, sequences: int, prompt_tokens: int, kv_tokens: int) -> None:
        """For a step in which so many sequences decode beside so many prompt tokens."""
        self._sequences = sequences
        self.plain_s = self.latency.seconds(sequences + prompt_tokens, kv_tokens)
        self.plain_goodput = self.plain_rate(sequences, kv_tokens)
        self.value_of_a_second = self.meter.value_of_a_second(self.plain_goodput)
        self.price = price(sequences + prompt_tokens, kv_tokens, self.value_of_a_second, self.latency)

    def plain_rate(self, sequences: int, kv_tokens: int) -> float:
        """Tokens per second of steps without drafts and prompts."""
        alone = max(1, sequences)
        return alone / (self.lateness * self.latency.seconds(alone, kv_tokens) + self.overhead_s)

    @property
    def plain_step_s(self) -> float:
        """Seconds of a step without drafts and prompts at the load of the last quote."""
        return max(1, self._sequences) / self.plain_goodput

    @property
    def lateness(self) -> float:
        """How much longer runs take than they should."""
        return self._runs_s / self._expected_s if self._expected_s else 1.0

    def set_price_floor(self, price_floor: float) -> None:
        """What the controller asks of drafts while drafters are short, in tokens per node."""
        self.price_floor = price_floor

    @property
    def quoted_price(self) -> float:
        """What a node must promise to be worth drafting; a node that is there already competes at the verifier's own price."""
        return max(self.price, self.price_floor)

    def weigh(self, worths: Sequence[float]) -> None:
        """What a token is worth to each sequence that decodes in the step; empty: 1 to all. A second is worth tokens of their mean."""
        self.even = not worths
        self.mean_worth = sum(worths) / len(worths) if worths else 1.0

    def relative(self, worth: float) -> float:
        """What a token of this worth is worth, in tokens of the step's mean."""
        return worth / self.mean_worth

    def price_for(self, worth: float) -> float:
        """The price in tokens of this worth."""
        return self.price if self.even else self.price * self.mean_worth / worth

    def quoted_for(self, worth: float, draft_price: float) -> float:
        """The same to a sequence whose tokens have this worth; its drafter's time for a node is worth `draft_price` weighted tokens."""
        own = self.quoted_price if self.even else self.quoted_price * self.mean_worth / worth
        return own + draft_price / worth

    @property
    def seconds_per_node(self) -> float:
        return self.price / self.value_of_a_second

    def observe_run(self, run_s: float, expected_s: float) -> None:
        """How long a run took and should have: a curve that is given may not be this device's."""
        self._runs_s = (1.0 - OVERHEAD_RATE) * self._runs_s + run_s
        self._expected_s = (1.0 - OVERHEAD_RATE) * self._expected_s + expected_s

    def observe(self, committed: int, sequences: int, kv_tokens: int, busy_s: float, plain_overhead_s: float | None) -> None:
        """A step without prompt tokens: seconds since the last step's end, and, if it was plain, those that it took beyond its run."""
        if plain_overhead_s is not None:
            self.overhead_s += OVERHEAD_RATE * (plain_overhead_s - self.overhead_s)
        self.meter.observe(committed, busy_s, self.plain_rate(sequences, kv_tokens))
