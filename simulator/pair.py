"""A verifier and what drafts for it in one process, turn by turn: what all such pairs can do."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from verifier.engine import VerifierEngine


class Pair(ABC):
    def __init__(self, verifier: VerifierEngine, drafters: Iterable[str]):
        self.verifier = verifier
        verifier.draft_sessions.set_drafters(drafters)

    @abstractmethod
    def turn(self) -> list[GenerateReply]:
        """One step of the verifier if it is willing, and what happens beside it."""

    def generate(self, requests: Iterable[GenerateRequest]) -> dict[str, list[int]]:
        """Runs the requests together to their ends; output tokens by request id."""
        outputs: dict[str, list[int]] = {}
        for request in requests:
            outputs[request.request_id] = list(request.delivered)
            self.verifier.submit(request)
        open_requests = set(outputs)
        while open_requests:
            for reply in self.turn():
                assert reply.first_token_index == len(outputs[reply.request_id]), "replies come in order"
                outputs[reply.request_id] += reply.tokens
                if reply.finish_reason:
                    open_requests.discard(reply.request_id)
        return outputs
