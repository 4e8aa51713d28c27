"""A verifier and what drafts for it in one process, turn by turn: what all such pairs can do."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping

from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from drafthouse.wire.states import StatesWish
from verifier.engine import VerifierEngine


class Pair(ABC):
    def __init__(self, verifier: VerifierEngine, drafters: Mapping[str, StatesWish | None]):
        """`drafters`: by name, the hidden states that each asks for."""
        self.verifier = verifier
        for name, wish in drafters.items():
            verifier.draft_sessions.add_drafter(name, wish)

    @abstractmethod
    def turn(self) -> list[GenerateReply]:
        """One step of the verifier if it is willing, and what happens beside it."""

    def generate(self, requests: Iterable[GenerateRequest]) -> dict[str, list[int]]:
        """Runs the requests together to their ends; output tokens by request id."""
        requests = list(requests)
        outputs = {request.request_id: list(request.delivered) for request in requests}
        for reply in self.replies(requests):
            assert reply.first_token_index == len(outputs[reply.request_id]), "replies come in order"
            outputs[reply.request_id] += reply.tokens
        return outputs

    def replies(self, requests: Iterable[GenerateRequest]) -> Iterator[GenerateReply]:
        """Runs the requests together to their ends, as `generate`."""
        running = set()
        for request in requests:
            running.add(request.request_id)
            self.verifier.submit(request)
        while running:
            for reply in self.turn():
                yield reply
                if reply.finish_reason:
                    running.discard(reply.request_id)
