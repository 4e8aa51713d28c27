"""What the two ends of a data-plane stream understand, said by both when it opens.

Each end sends `drafthouse-wire: OLDEST-NEWEST FEATURE FEATURE ...` in its metadata: the versions of the wire that it speaks, and what
else it knows. A version rises only for what no peer can do without; peers without a common one do not talk. Everything else is a
feature, and a side uses only what the other one knows.

To add a field or a message:
- a sampling parameter: a line in `Feature` and one in `SAMPLING`. A request that sets it goes to verifiers that know it, or to none.
  A drafter that does not know it drafts worse; the text is the target's all the same.
- a value that older drafters refuse: a line in `Feature`, and in `Dialect.worded` what they are sent in its place.
- another field of a request that must not be ignored: a line in `Feature` and one in `needed_by`.
- a message between verifier and drafter: a line in `Feature` and one in `MESSAGES`. It is not sent to a drafter without the feature.
- a message between gateway and verifier: a line in `Feature`; the sender looks for it in the `features` of the stream's `peer`.
- what one side asks of the other when the stream opens: metadata of its own and a line in `Feature`, as with `drafthouse.wire.states`.
- what a peer may as well ignore, such as a hint or a count, needs nothing: protobuf leaves it aside.

Promises: a peer that says nothing is from before this was said, and knows BEFORE. Names that are not known here are kept and mean nothing.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from drafthouse.errors import DrafthouseError
from drafthouse.sampling import SamplingParams
from drafthouse.wire.generation_messages import GenerateRequest
from drafthouse.wire.session_messages import Hold, Open, ToDrafterMessage

WIRE_METADATA = "drafthouse-wire"

OLDEST, NEWEST = 1, 1
"""Versions of the wire that this side speaks."""

MAX_SAID_CHARS = 4096

LEAST_TOP_P = 1e-9
"""Keeps the best token alone, as 0 does, which older drafters refuse: no vocabulary is so large that the best has less."""


class IncompatibleError(DrafthouseError, ConnectionError):
    """The peer speaks no version of the wire that this side speaks."""


class Feature(StrEnum):
    """What a peer may lack. Its value stands on the wire: lower case, digits and underscores."""

    HOLD = "hold"
    REPETITION_PENALTY = "repetition_penalty"
    GIVE_BACK = "give_back"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    MIN_TOKENS = "min_tokens"
    LOGIT_BIAS = "logit_bias"
    ALLOWED_TOKEN_IDS = "allowed_token_ids"
    BAD_WORDS = "bad_words"
    THINKING_BUDGET = "thinking_budget"
    LOGPROBS = "logprobs"
    PROMPT_LOGPROBS = "prompt_logprobs"
    TOP_P_0 = "top_p_0"
    GRAMMAR = "grammar"
    STATES = "states"


BEFORE = frozenset({Feature.HOLD, Feature.REPETITION_PENALTY})
"""What peers knew before they said so. Nothing is ever added."""

SAMPLING: Mapping[str, Feature] = {
    "repetition_penalty": Feature.REPETITION_PENALTY,
    "presence_penalty": Feature.PRESENCE_PENALTY,
    "frequency_penalty": Feature.FREQUENCY_PENALTY,
    "min_tokens": Feature.MIN_TOKENS,
    "logit_bias": Feature.LOGIT_BIAS,
    "allowed_token_ids": Feature.ALLOWED_TOKEN_IDS,
    "bad_words": Feature.BAD_WORDS,
    "thinking": Feature.THINKING_BUDGET,
    "grammar": Feature.GRAMMAR,
}
"""Fields of `SamplingParams` that a verifier must know when they are not at their default."""

MESSAGES: Mapping[type[ToDrafterMessage], Feature] = {
    Hold: Feature.HOLD,
}
"""Messages that a drafter must know to be sent them."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one side speaks."""

    oldest: int = OLDEST
    newest: int = NEWEST
    features: frozenset[str] = frozenset(Feature)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((WIRE_METADATA, " ".join([f"{self.oldest}-{self.newest}", *sorted(self.features)])),)

    def check(self, peer: "Dialect", name: str) -> None:
        """Raises IncompatibleError when `peer`, which is a `name`, has no version in common with this side."""
        if peer.newest < self.oldest or self.newest < peer.oldest:
            raise IncompatibleError(
                f"the {name} speaks versions {peer.oldest} to {peer.newest} of the wire, this side {self.oldest} to {self.newest}: "
                f"upgrade the {name if peer.newest < self.oldest else 'other side'} first"
            )

    def worded(self, message: ToDrafterMessage) -> ToDrafterMessage:
        """With values that a drafter of this dialect takes and that mean the same to it."""
        if not isinstance(message, Open) or message.sampling.top_p > 0.0 or Feature.TOP_P_0 in self.features:
            return message
        return replace(message, sampling=replace(message.sampling, top_p=LEAST_TOP_P))

    def understands(self, message: ToDrafterMessage) -> bool:
        return type(message) not in MESSAGES or MESSAGES[type(message)] in self.features


OURS = Dialect()


def said_in(metadata: Iterable[tuple[str, str | bytes]]) -> Dialect:
    """What the peer that sent this metadata speaks. Raises IncompatibleError where that cannot be read."""
    said = next((value for name, value in metadata if name == WIRE_METADATA), None)
    if said is None:
        return Dialect(1, 1, BEFORE)
    words = str(said)[: MAX_SAID_CHARS + 1].split()
    versions = re.fullmatch(r"(\d{1,6})-(\d{1,6})", words[0]) if words else None
    if versions is None or len(said) > MAX_SAID_CHARS:
        raise IncompatibleError(f"what the peer says in {WIRE_METADATA} cannot be read: it must be OLDEST-NEWEST and names of features")
    return Dialect(int(versions[1]), int(versions[2]), frozenset(words[1:]))


def needed_by(request: GenerateRequest) -> frozenset[Feature]:
    """What a verifier must know to give this request its own text."""
    needed = {SAMPLING[name] for name, default in _SAMPLING_DEFAULTS.items() if getattr(request.sampling, name) != default}
    others = {
        Feature.TOP_P_0: request.sampling.top_p == 0.0,  # was out of range
        Feature.LOGPROBS: request.logprobs.top is not None,
        Feature.PROMPT_LOGPROBS: request.logprobs.prompt_top is not None,
    }
    return frozenset(needed | {feature for feature, wanted in others.items() if wanted})


_SAMPLING_DEFAULTS = {field.name: field.default for field in fields(SamplingParams) if field.name in SAMPLING}
