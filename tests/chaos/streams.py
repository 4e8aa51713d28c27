"""The clients: requests streamed over gRPC, each token logged when it arrives, with the position and attempt that came with it.

Promises: every request started has exactly one `end` in the log, with the server's reason or with the error that the client
saw; a stream that is silent for SILENCE_S counts as broken. Nothing is tried again here: failover is the server's.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc

from drafthouse.security.client_key import call_metadata
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.chaos.event_log import EventLog
from tests.chaos.work import Work

SILENCE_S = 120
"""Longer than the server itself waits for a verifier, so that its own error comes first."""


@dataclass(slots=True, eq=False)
class Stream:
    """One request as far as it has come; `tokens` in the order of arrival."""

    request: str
    attempt: int = 1
    tokens: list[int] = field(default_factory=list)
    reason: str = ""
    error: str = ""


class Streams:
    """`channel` is the caller's. `running` are those whose first token has come and whose end has not."""

    def __init__(self, channel: grpc.aio.Channel, model: str, log: EventLog):
        self._stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]  # generated
        self._model, self._log, self._metadata = model, log, call_metadata()
        self.running: set[Stream] = set()

    async def one(self, request: str, work: Work, reference: str | None) -> Stream:
        """From start to end. Cancelling it ends the log's line of it too, as an error."""
        self._log.write("start", request=request, attempt=1, reference=reference, **work.as_json())
        stream, said = Stream(request), 0
        try:
            said = await self._read(stream, self._stub.GenerateStream(_message(self._model, work), metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            stream.error = f"{error.code().name}: {error.details()}"
        except TimeoutError:
            stream.error = f"silent for {SILENCE_S} s"
        except asyncio.CancelledError:
            stream.error = "cancelled"
            raise
        finally:
            self.running.discard(stream)
            if not stream.reason:
                stream.reason, stream.error = "error", stream.error or "the stream ended without a finish reason"
            why = {"error": stream.error} if stream.error else {}
            self._log.write("end", request=request, attempt=stream.attempt, position=said, reason=stream.reason, **why)
        return stream

    async def _read(self, stream: Stream, call: Any) -> int:
        """The number of tokens that the server says it sent."""
        said = 0
        try:
            while (chunk := await _next(call)) is not grpc.aio.EOF:
                stream.attempt, stream.reason = chunk.attempt, chunk.finish_reason
                said = chunk.usage.completion_tokens
                for i, token in enumerate(chunk.tokens):
                    self._log.write(
                        "token", request=stream.request, attempt=chunk.attempt, position=chunk.first_token_index + i, token=token
                    )
                stream.tokens += chunk.tokens
                if stream.tokens:
                    self.running.add(stream)
        finally:
            call.cancel()
        return said


async def _next(call: Any) -> Any:
    """Raises TimeoutError. Seconds are counted one by one: those in which this process did not run itself are nobody's silence."""
    reading = asyncio.ensure_future(call.read())
    for _ in range(SILENCE_S):
        if (await asyncio.wait({reading}, timeout=1.0))[0]:
            return reading.result()
    raise TimeoutError


def _message(model: str, work: Work) -> pb.GenerateRequest:
    s, wish = work.sampling, work.speculation
    return pb.GenerateRequest(
        model=model, prompt_tokens=pb.TokenIds(ids=work.prompt), max_tokens=work.max_tokens, seed=work.seed,
        temperature=s.temperature, top_p=s.top_p, top_k=s.top_k, min_p=s.min_p, repetition_penalty=s.repetition_penalty,
        speculation=pb.Speculation(mode=wish.mode, nodes=wish.nodes, depth=wish.depth),
    )  # fmt: skip
