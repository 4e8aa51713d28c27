"""Which sessions a drafter takes, and the KV slots that are promised to them.

Promises: a refusal says why and for how long that holds, so that what can never work is not tried again. The
slots that open sessions have come to need are kept from those who come later.
"""

from collections.abc import Sequence

from drafter.session import Session
from drafthouse.config.serving import DrafterConfig, TreeConfig
from drafthouse.engine.kv_cache import KvCache
from drafthouse.noise import NOISE_VERSION
from drafthouse.policy.vocabularies import agree
from drafthouse.wire.session_messages import Open, Refused, Scope


class SessionAdmission:
    def __init__(self, config: DrafterConfig, tree: TreeConfig, cache: KvCache | None, context: int, vocab_size: int, vocabulary: str):
        """`cache`: the draft model's, where there is one; `vocabulary` as in `Open`."""
        self.config, self.tree, self.context = config, tree, context
        self.slots = cache.allocator if cache is not None else None
        self.vocab_size, self.vocabulary = vocab_size, vocabulary
        self.reserved_slots = 0  # for all sessions together: each one's `reserved_slots`

    def refusal(self, message: Open, sessions: int) -> Refused | None:
        """`sessions`: how many are open."""
        if never := self._never(message):
            reason, scope = never
            return Refused(message.session_id, message.epoch, reason, scope)
        if reason := self._not_now(message, sessions):
            return Refused(message.session_id, message.epoch, reason)
        return None

    def _never(self, message: Open) -> tuple[str, Scope] | None:
        if message.noise_version != NOISE_VERSION:
            return f"noise version {message.noise_version}, this drafter has {NOISE_VERSION}", Scope.PAIR
        if not agree(message.vocabulary, self.vocabulary):
            return "the target's tokenizer names other tokens than the draft's, so no draft could be right", Scope.PAIR
        if reason := self.unknown(message.tokens) or self.too_long(len(message.tokens)):
            return reason, Scope.SEQUENCE
        if self.slots is not None and (needed := self.needed(len(message.tokens))) > self.slots.count:
            return f"{needed} KV slots needed, this drafter has {self.slots.count}", Scope.SEQUENCE
        return None

    def _not_now(self, message: Open, sessions: int) -> str:
        if sessions >= self.config.max_sessions:
            return f"{sessions} sessions, the limit is {self.config.max_sessions}"
        needed = self.needed(len(message.tokens))
        if self.slots is not None and (needed + self.reserved_slots > self.slots.count or needed > self.slots.free_count):
            return "no KV slots left"
        return ""

    def unknown(self, tokens: Sequence[int]) -> str:
        """Why the draft cannot run on these tokens; empty where it can. A target's output layer may have more rows than a draft's."""
        if max(tokens) < self.vocab_size:
            return ""
        return f"token {max(tokens)} is none of this draft's, whose vocabulary has {self.vocab_size}"

    def too_long(self, length: int) -> str:
        """Why nothing can be drafted after so many tokens; empty where it can."""
        return f"{length} tokens, the draft's context is {self.context}" if length >= self.context else ""

    def reserve(self, session: Session) -> None:
        """Keeps the slots that its tokens need by now."""
        needed = self.needed(len(session.tokens))
        self.reserved_slots += needed - session.reserved_slots
        session.reserved_slots = needed

    def release(self, session: Session) -> None:
        self.reserved_slots -= session.reserved_slots
        session.reserved_slots = 0

    def needed(self, tokens: int) -> int:
        """KV slots of a session with so many committed tokens, whatever its tree comes to."""
        if self.slots is None:
            return 0
        if (window := self.config.window) is not None:
            tokens = min(tokens, window.sinks + window.recent + self.config.prefill_tokens)
        return tokens + self.tree.max_nodes
