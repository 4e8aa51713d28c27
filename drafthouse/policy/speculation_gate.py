"""When a verifier has draft sessions at all (docs/design.md 5: N = 0 is plain decoding, and costs nothing).

Promises: the gate closes once nodes have cost more than the best that drafts offer for HOLD_S, and
opens below REOPEN_SHARE of it; what speculation itself does to the price, by raising goodput, lies
between the two. A session is worth having while what it brings exceeds what its messages cost.
Whoever has none is probed for at most PROBE_SHARE of all steps. Designs weighed: docs/goodput.md.
"""

HOLD_S = 0.5
"""The price stands above the best edge so long before the gate closes: some bursts are over sooner, and sessions cost a prefill each."""

REOPEN_SHARE = 0.8
"""The gate opens below this share of the best edge. Near the best edge only few nodes pay, and goodput gains less than the rest."""

FIRST_BEST_EDGE = 0.95
"""The best edge assumed before any was seen."""

BEST_EDGE_FADE = 0.02
"""How fast the best edge sinks to what is offered, a step; it rises at once."""

FORGET_S = 600.0
"""What drafts offered is trusted for this long where no drafter is left to offer better. Else none would be asked for ever again."""

PROBE_SHARE, PROBE_STEPS = 0.01, 8.0
"""Steps that probes may take of all, and those saved up for one: a draft's prefill takes some before anything is seen."""

RETRY_RATE = 0.5
"""A session that did not pay is tried again once time is worth less than this share of what it was: the load has fallen."""

WORTH_RATE, FIRST_WORTH = 1 / 16, 0.5
"""Moving average of a session's tokens per step; at first it is trusted for some forty steps."""

HANDLING_S = 4e-5
"""What a session costs the verifier's process each step, in messages and in keeping a tree, whether or not it is used."""


class SpeculationGate:
    """`best_edge`: the best trusted edge lately offered, in tokens; what it is compared with is the price of a node."""

    def __init__(self) -> None:
        self.open = True
        self.best_edge = FIRST_BEST_EDGE
        self._dear_since: float | None = None
        self._alone_since: float | None = None

    def drafters(self, known: int, now: float) -> None:
        """How many drafters could offer anything: after FORGET_S without one the best edge is the first again."""
        if known:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since >= FORGET_S:
            self.best_edge = FIRST_BEST_EDGE

    def observe_edge(self, confidence: float) -> None:
        """The best trusted path confidence of any node at hand in a step."""
        self.best_edge = max(confidence, self.best_edge + BEST_EDGE_FADE * (confidence - self.best_edge))

    def observe(self, price: float, now: float) -> None:
        """The price of a node in the step that comes (tokens)."""
        if not self.open:
            self.open = price < REOPEN_SHARE * self.best_edge
            self._dear_since = None
        elif price <= self.best_edge:
            self._dear_since = None
        elif self._dear_since is None:
            self._dear_since = now
        elif now - self._dear_since >= HOLD_S:
            self.open = False


class ProbeBudget:
    """Saves up PROBE_SHARE of each step, PROBE_STEPS at most."""

    def __init__(self) -> None:
        self._saved = PROBE_STEPS

    def step(self, probing: bool) -> None:
        self._saved = min(PROBE_STEPS, self._saved + PROBE_SHARE) - probing

    @property
    def full(self) -> bool:
        return self._saved >= PROBE_STEPS

    @property
    def spent(self) -> bool:
        return self._saved < 1.0


class SessionWorth:
    """Tokens that one session's verified nodes promised, as far as it is trusted, less their price, per step.

    Promised, not accepted: the luck of some steps would end many a good session, and trust follows what was accepted.
    """

    def __init__(self) -> None:
        self.tokens = FIRST_WORTH

    def observe(self, tokens: float) -> None:
        self.tokens += WORTH_RATE * (tokens - self.tokens)

    def pays(self, value_of_a_second: float) -> bool:
        """`value_of_a_second`: tokens that a second of the verifier's time is worth."""
        return self.tokens > HANDLING_S * value_of_a_second
