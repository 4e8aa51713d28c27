"""One request by each way into the server, down to how it ended.

Promises: every call comes back as an `Outcome`, whatever the server does; being cancelled closes its connection or call.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import httpx

from benchmarks.cancel.traffic import Call
from drafthouse.wire.settings import retry_after_s
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc

Ending = Literal["finished", "cancelled", "refused", "failed", "no reply"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`retry_after_s` is what a refusal said, None if nothing; `words` are those of a failure."""

    ending: Ending
    retry_after_s: float | None = None
    words: str = ""


FINISHED = Outcome("finished")


class Clients:
    """`headers`: who each client is, one set for each number that a call may name."""

    def __init__(self, http: httpx.AsyncClient, channel: grpc.aio.Channel, model: str, headers: Sequence[Mapping[str, str]]):
        self._http, self._model, self._headers = http, model, headers
        self._stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]  # generated

    async def send(self, call: Call, prompt: str, timeout_s: float | None) -> Outcome:
        """`timeout_s` is the deadline that a gRPC call is given."""
        try:
            if call.way.startswith("grpc"):
                return await self._grpc(call, prompt, timeout_s)
            body = {
                "model": self._model, "prompt": prompt, "max_tokens": call.tokens, "seed": call.seed, "stream": call.way == "http stream",
                "speculation": {"mode": call.speculation},
            }  # fmt: skip
            headers = self._headers[call.client]
            return await (self._http_stream(body, headers) if body["stream"] else self._http_whole(body, headers))
        except (httpx.HTTPError, json.JSONDecodeError, LookupError) as error:
            return Outcome("no reply", words=f"{type(error).__name__}: {error}")

    async def _http_whole(self, body: dict[str, Any], headers: Mapping[str, str]) -> Outcome:
        answer = await self._http.post("/v1/completions", json=body, headers=headers)
        if answer.status_code != 200:
            return _refusal(answer)
        return FINISHED if answer.json()["choices"][0]["finish_reason"] else Outcome("no reply", words="no finish_reason")

    async def _http_stream(self, body: dict[str, Any], headers: Mapping[str, str]) -> Outcome:
        reason, done = None, False
        async with self._http.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return _refusal(answer)
            async for line in answer.aiter_lines():
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    done = True
                elif data:
                    event = json.loads(data)
                    if "error" in event:
                        return Outcome("failed", words=str(event["error"]["message"]))
                    reason = event["choices"][0]["finish_reason"] or reason
        return FINISHED if reason and done else Outcome("no reply", words="the stream ended without finish_reason or [DONE]")

    async def _grpc(self, call: Call, prompt: str, timeout_s: float | None) -> Outcome:
        speculation = pb.Speculation(mode=call.speculation)
        request = pb.GenerateRequest(model=self._model, prompt=prompt, max_tokens=call.tokens, seed=call.seed, speculation=speculation)
        metadata = tuple((name.lower(), value) for name, value in self._headers[call.client].items())
        try:
            if call.way == "grpc":
                reason = (await self._stub.Generate(request, timeout=timeout_s, metadata=metadata)).finish_reason
            else:
                reason = ""
                async for chunk in self._stub.GenerateStream(request, timeout=timeout_s, metadata=metadata):
                    reason = chunk.finish_reason
        except grpc.aio.AioRpcError as error:
            return _status(error)
        return FINISHED if reason else Outcome("no reply", words="no finish_reason")


def _refusal(answer: httpx.Response) -> Outcome:
    """Of any status but 200, which must have the shape of OpenAI's errors."""
    message = str(answer.json()["error"]["message"])
    if answer.status_code != 429:
        return Outcome("failed", words=f"{answer.status_code}: {message}")
    seconds = answer.headers.get("retry-after", "")
    return Outcome("refused", float(seconds) if seconds.isdecimal() else None, message)


def _status(error: grpc.aio.AioRpcError) -> Outcome:
    words = f"{error.code().name}: {error.details()}"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Outcome("cancelled", words=words)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Outcome("refused", retry_after_s(error.trailing_metadata() or ()), words)
    return Outcome("failed", words=words)


async def cut_after(sending: "asyncio.Task[Outcome]", seconds: float) -> Outcome:
    """What comes of the task if its client goes away after `seconds`."""
    done, _ = await asyncio.wait({sending}, timeout=seconds)
    if not done:
        sending.cancel()
        await asyncio.wait({sending})
    return Outcome("cancelled") if sending.cancelled() else sending.result()
