"""Many gRPC streams at once, each token with the time at which the client saw it."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc


@dataclass
class Stream:
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    end: str = ""  # the finish reason, or the error

    def longest_pause_s(self) -> float:
        return max((b - a for a, b in zip(self.times, self.times[1:], strict=False)), default=0.0)


class Streams:
    """One stream for each prompt, all sampled and with one seed, and of exactly `tokens` tokens."""

    def __init__(self, grpc_port: int, prompts: Sequence[str], tokens: int):
        self.streams = [Stream() for _ in prompts]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}")
        settings = {"model": "demo", "max_tokens": tokens, "seed": 7, "temperature": 0.8, "ignore_eos": True}
        requests = [pb.GenerateRequest(prompt=prompt, **settings) for prompt in prompts]
        self._threads = [threading.Thread(target=self._read, args=pair) for pair in zip(self.streams, requests, strict=True)]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: Stream, request: pb.GenerateRequest) -> None:
        try:
            for chunk in rpc.InferenceStub(self._channel).GenerateStream(request):
                stream.tokens += chunk.tokens
                stream.times += [time.monotonic()] * len(chunk.tokens)
                stream.end = chunk.finish_reason or stream.end
        except grpc.RpcError as error:
            stream.end = f"{error.code()}: {error.details()}"

    @property
    def running(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def all_have(self, tokens: int) -> bool:
        return all(len(stream.tokens) >= tokens for stream in self.streams)

    def finish(self) -> list[list[int]]:
        """Output tokens of all; every stream must have ended well."""
        for thread in self._threads:
            thread.join()
        self._channel.close()
        assert {stream.end for stream in self.streams} == {"length"}, [stream.end for stream in self.streams]
        return [stream.tokens for stream in self.streams]

    def longest_pause_s(self) -> float:
        return max(stream.longest_pause_s() for stream in self.streams)
