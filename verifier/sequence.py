"""One request inside the verifier: its tokens, its KV, its draft session.

Promises: `kv` holds entries for the first `len(kv)` of `tokens` between steps. One counter catches
up with another: there is no prefill mode and no decode mode. The last token is the root, pending
until a step runs it.
"""

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.processors.grammar import GrammarProcessor
from drafthouse.processors.sequence_processors import SequenceProcessors, processors_of
from drafthouse.stop_tokens import cut_at_stop
from drafthouse.token_logprobs import TokenLogprob
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest, SpeculationUsage
from verifier.draft_session import DraftSession
from verifier.local_draft import LocalDraft
from verifier.sequence_span import SequenceSpan


class TraceCount:
    """How many steps of a traced request are told, and when the last one ended on the engine's clock; at first when it arrived."""

    def __init__(self, now: float):
        self.steps, self.last_end = 0, now

    def next_step(self, now: float) -> int:
        """The number of a step that ends now."""
        number, self.steps, self.last_end = self.steps, self.steps + 1, now
        return number


class Sequence:
    def __init__(self, request: GenerateRequest, kv: KvSequence, processors: SequenceProcessors | None, synthetic: bool = False):
        self.request, self.id = request, request.request_id
        mode = request.speculation.mode
        self.auto, self.speculates, self.waits = mode == "auto", mode != "off", request.speculation.waits
        self.tokens = [*request.prompt, *request.delivered]
        self.prompt_len = len(request.prompt)
        self.kv = kv
        self.processors, self.grammar = processors, processors.grammar if processors is not None else None
        self.unscored = request.unscored  # of the prompt's last tokens: their logprobs are still to be told
        self.draft_session: DraftSession | None = None
        self.local: LocalDraft | None = None
        self.synthetic = synthetic  # acceptance is drawn
        self.drafted = self.verified = self.accepted = self.steps = self.cached_tokens = 0
        self.predicted = self.predicted_accepted = 0
        self.tree_deadline: float | None = None  # of its wait for a tree of set size; None while it waits for none
        self.parked_rate: float | None = None  # tokens per second that time was worth when its session did not pay
        self.probed_at_step = -1
        self.worth = 1.0  # of its tokens, beside those of the others in a step
        self.arrived: float | None = None  # on the engine's clock; None once it has been in a step
        self.trace: TraceCount | None = None  # where its steps are to be told
        self.span: SequenceSpan | None = None  # where its gateway has one

    @property
    def pending(self) -> int:
        """Tokens without KV; 1 when only the root is."""
        return len(self.tokens) - len(self.kv)

    def begin(self) -> None:
        """Takes over what is cached of its tokens, which is at most all but the root, and no row whose logits are needed."""
        self.kv.adopt(self.tokens[: self.prompt_len - self.unscored] if self.unscored else self.tokens)

    def begun(self) -> None:
        """It is to step with what it has taken over. What it has taken from the prompt counts once, before its first step."""
        if self.arrived is not None:
            self.cached_tokens = min(len(self.kv), self.prompt_len)

    @property
    def output_len(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def max_draft_depth(self) -> int:
        """Drafted tokens that the next step may accept: one of those still allowed is the bonus token."""
        return self.request.max_tokens - self.output_len - 1

    @property
    def usage(self) -> SpeculationUsage:
        counts = (self.drafted, self.verified, self.accepted, self.steps, self.synthetic, self.cached_tokens)
        return SpeculationUsage(*counts, self.predicted, self.predicted_accepted, self.forced)

    @property
    def forced(self) -> int:
        """Committed tokens that a grammar left no choice."""
        return self.grammar.forced_tokens if self.grammar is not None else 0

    def count(
        self, drafted: int = 0, verified: int = 0, accepted: int = 0, steps: int = 0, predicted: int = 0, predicted_accepted: int = 0
    ) -> None:
        self.drafted += drafted
        self.verified += verified
        self.accepted += accepted
        self.steps += steps
        self.predicted += predicted
        self.predicted_accepted += predicted_accepted

    def score(self, logprobs: tuple[TokenLogprob, ...]) -> GenerateReply:
        """Of the next prompt tokens; says so to the gateway."""
        first = self.prompt_len - self.unscored
        self.unscored -= len(logprobs)
        return GenerateReply(
            self.id, self.request.attempt, self.output_len, (), usage=self.usage, first_prompt_index=first, prompt_logprobs=logprobs
        )

    def accept(self, tokens: list[int], stopped: bool, logprobs: tuple[TokenLogprob, ...] = ()) -> GenerateReply:
        """Commits what a walk gave, cut at max_tokens; says so to the gateway. `stopped`: the last of the tokens ends the text (`cut`).
        Where its grammar has passed the library's limits, nothing is committed, and it ends: "refused", by its own fault."""
        request, first = self.request, len(self.tokens) - self.prompt_len
        if self.grammar is not None and (fault := self.grammar.error):
            fault = f"the grammar cannot be followed any further: {fault}"
            return GenerateReply(self.id, request.attempt, first, (), "refused", fault, self.usage)
        left = request.max_tokens - first
        tokens, stopped = tokens[:left], stopped and len(tokens) <= left
        finish = "stop" if stopped else "length" if len(tokens) == left else ""
        self.tokens += tokens
        if self.processors is not None:
            self.processors.commit(tokens)
        return GenerateReply(self.id, request.attempt, first, tuple(tokens), finish, "", self.usage, logprobs[: len(tokens)])

    def cut(self, tokens: list[int]) -> tuple[list[int], bool]:
        """The next tokens up to the one that ends the text, and whether one does: a stop token, or the one behind which a grammar allows
        no other."""
        mine, stopped = cut_at_stop(tokens, self.request.stop_tokens)
        end = self.grammar.ends(mine) if self.grammar is not None else None
        return (mine, stopped) if end is None else (mine[:end], True)


def processors_for(request: GenerateRequest, vocab_size: int, grammar: GrammarProcessor | None = None) -> SequenceProcessors | None:
    """None where no row is to change. `grammar` has seen what is delivered."""
    further = () if grammar is None else (grammar,)
    return processors_of(request.sampling, request.prompt, request.delivered, request.stop_tokens, vocab_size, further)
