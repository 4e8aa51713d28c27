"""A verifier's double that scores: with logprobs of prompts and tokens, each to be told apart from every other."""

from dataclasses import replace

from drafthouse.token_logprobs import TokenLogprob
from drafthouse.wire.generation_messages import GenerateReply, GenerateRequest
from tests.unit.verifier_double import VerifierDouble


def logprob_of(token: int, top: int) -> TokenLogprob:
    """One that is the second likeliest, after token 7; what can be told apart from every other token's."""
    ids = (7, token, *range(8, 30))[:top]
    return TokenLogprob(-float(token) - 0.5, 2, ids, tuple(-float(token) - 0.25 * (i + 1) for i in range(top)))


class Scoring(VerifierDouble):
    """Sends logprobs of the prompt in pieces of two tokens, then tokens with theirs."""

    def pieces(self, r: GenerateRequest) -> list[GenerateReply]:
        if r.logprobs.prompt_top is None:
            return []
        first = max(1, r.scored)
        known = [logprob_of(token, r.logprobs.prompt_top) for token in r.prompt]
        return [
            GenerateReply(r.request_id, r.attempt, 0, (), first_prompt_index=i, prompt_logprobs=tuple(known[i : i + 2]))
            for i in range(first, len(r.prompt), 2)
        ]

    async def _serve(self, r, served) -> None:
        for reply in self.pieces(r):
            await served.write(reply)
        await super()._serve(r, served)

    def reply(self, r, index, output):
        plain = super().reply(r, index, output)
        top = r.logprobs.top
        return plain if top is None else replace(plain, logprobs=tuple(logprob_of(token, top) for token in plain.tokens))
