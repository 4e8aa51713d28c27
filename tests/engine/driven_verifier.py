"""A verifier's engine on a scripted model, step by step, whose drafter is the test itself."""

from collections.abc import Sequence

from drafthouse.config.serving import TreeConfig, VerifierConfig
from drafthouse.token_tree import TokenTree
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.session_messages import Grow, Open, ToDrafterMessage
from tests.engine.pairs import FLAT
from tests.engine.scripted import ScriptedRunner, target_logits
from verifier.engine import VerifierEngine
from verifier.step import Wait
from verifier.step_loop import run_step


class Setting:
    """An engine whose drafter is the test itself. A run takes 5 ms; `broken` makes it raise."""

    def __init__(self, slots: int = 200, max_sequences: int = 4, max_queue: int = 256, step_tokens: int = 512):
        self.now, self.broken = 1.0, False
        model = ScriptedRunner(target_logits, slots, self.tick).as_loaded()
        config = VerifierConfig(max_sequences=max_sequences, max_queue=max_queue, step_tokens=step_tokens)
        self.engine = VerifierEngine(model, FLAT, config, TreeConfig(), lambda: self.now)
        self.outputs: dict[str, list[int]] = {}

    def tick(self) -> None:
        self.now += 0.005
        if self.broken:
            raise RuntimeError("out of memory")

    def submit(self, r: GenerateRequest) -> None:
        self.engine.submit(r)
        self.outputs[r.request_id] = list(r.delivered)

    def step(self) -> list[GenerateReply]:
        replies = run_step(self.engine) or []
        assert not isinstance(replies, Wait)
        for reply in replies:
            assert reply.first_token_index == len(self.outputs[reply.request_id])
            self.outputs[reply.request_id] += reply.tokens
        return replies

    def wait(self) -> float:
        """Until when it waits instead of a step."""
        outcome = self.engine.begin_step()
        assert isinstance(outcome, Wait)
        return outcome.until

    def finish(self) -> list[GenerateReply]:
        """Runs all requests to their ends; the last reply of each."""
        last = []
        while self.engine.sequences:
            last += [reply for reply in self.step() if reply.finish_reason]
        allocator = self.engine.scheduler.allocator
        assert allocator.free_count == allocator.count, "KV slots leaked"
        return last

    def sent(self) -> list[ToDrafterMessage]:
        return self.engine.draft_sessions.take_outbox().get("d", [])

    def open(self, r: GenerateRequest) -> Open:
        """Submits it with a drafter at hand; its Open."""
        self.engine.draft_sessions.add_drafter("d")
        self.submit(r)
        [message] = self.sent()
        assert isinstance(message, Open)
        return message

    def grow(self, session: str, tokens: Sequence[int], next_pass_eta_us: int = 1000, late: int = 0) -> None:
        """The drafter's whole tree is the chain `tokens`, below a text that is `late` tokens behind."""
        s = self.engine.sequences[session]
        assert s.draft_session is not None
        n = len(tokens)
        chain = TokenTree(list(tokens), list(range(-1, n - 1)), [0.9] * n, [0] * n)
        self.engine.receive("d", Grow(session, s.draft_session.epoch, len(s.tokens) - late, 0, chain, next_pass_eta_us, 0.5))
