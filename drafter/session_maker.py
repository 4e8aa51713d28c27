"""Makes a session of what a verifier opens it with: its KV, its stages, its processors and its grammar.

Promises: no session waits for the grammar of another one; a grammar that is not known here yet is compiled in a thread of its own.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from drafter.calibration_store import CalibrationStore
from drafter.draft_model import DraftModel
from drafter.session import Session
from drafter.session_rules import SessionRules
from drafter.session_states import SessionStates
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.grammars.compiler import GrammarCompiler, Tokenizer
from drafthouse.grammars.matcher import GrammarMatcher
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.processors.late_grammar import LateGrammar
from drafthouse.processors.sequence_processors import SequenceProcessors, processors_of
from drafthouse.stages.build import StageMaker, forced_maker
from drafthouse.stages.session_stages import SessionStages
from drafthouse.stages.stage import SessionFacts
from drafthouse.stages.stage_totals import StageTotals
from drafthouse.wire.session_messages import Open
from drafthouse.wire.states import StatesWish


class SessionMaker:
    def __init__(
        self, draft: DraftModel | None, cache: KvCache, vocab_size: int, makers: Sequence[StageMaker], calibrations: CalibrationStore,
        totals: StageTotals, wish: StatesWish | None, tokenizer: Tokenizer, clock: Callable[[], float],
    ):  # fmt: skip
        """`makers` are of the stages beside the model; `wish` is for the states that the draft reads."""
        self.makers, self.grammars = makers, GrammarCompiler(tokenizer)
        self._draft, self._cache, self._vocab_size, self._calibrations = draft, cache, vocab_size, calibrations
        self._totals, self._wish, self._clock = totals, wish, clock
        self._compiling = ThreadPoolExecutor(1, "grammars")

    def session(self, peer: str, message: Open, rules: SessionRules) -> Session:
        """A session that `peer` opens, without a tree yet."""
        calibration, width = self._calibrations.of(message.target_fingerprint), message.width or rules.width
        vocab_size = min(self._vocab_size, message.vocab_size or self._vocab_size)  # noise is drawn by id: both know the lower ids
        facts = SessionFacts(message.sampling, message.seed, vocab_size, message.cache_key)
        begun = message.prompt_len or len(message.tokens)
        prompt, output = message.tokens[:begun], message.tokens[begun:]
        grammar = self._grammar(message, output)
        makers = [*self.makers] if grammar is None else [forced_maker(grammar.chain), *self.makers]
        stages = SessionStages(makers, facts, calibration, width, self._clock, self._totals)
        session = Session(peer, message, KvSequence(self._cache, message.cache_key), rules, calibration, stages, self._clock())
        session.vocab_size = vocab_size
        if self._draft is not None and (lookahead := self._draft.lookahead(facts, width, self._totals)) is not None:
            session.lookahead = lookahead
            lookahead.follow(message.tokens)
        if self._wish is not None:
            session.states = SessionStates(self._wish.size, len(message.tokens), message.states_to_come, self._cache.data.device)
        further = () if grammar is None else (grammar,)
        if self._draft is not None:
            session.processors = processors_of(message.sampling, prompt, output, message.stop_tokens, self._vocab_size, further)
        elif grammar is not None:
            session.processors = SequenceProcessors(further)
        return session

    def _grammar(self, message: Open, output: Sequence[int]) -> LateGrammar | None:
        """Compiled elsewhere where it is not known here yet."""
        if (grammar := message.sampling.grammar) is None:
            return None
        compiled = Future[GrammarMatcher]()
        if (known := self.grammars.known(grammar)) is not None:
            compiled.set_result(known)
        else:
            compiled = self._compiling.submit(self.grammars.matcher, grammar)

        def begin(matcher: GrammarMatcher, so_far: Sequence[int]) -> GrammarProcessor:
            return GrammarProcessor(matcher, grammar.thought, message.stop_tokens, so_far, self._vocab_size)

        return LateGrammar(compiled, begin, output)

    def close(self) -> None:
        """What still waits to be compiled is not."""
        self._compiling.shutdown(wait=False, cancel_futures=True)
