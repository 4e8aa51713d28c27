"""The proxy that is started is HAProxy without splice() and with our additions, on a machine as in the image."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tomllib

import grpc
import pytest
import yaml

from deployments.cli import haproxy
from deployments.cli.haproxy import BINARY
from deployments.cli.ray_environment import local_environment
from drafthouse.config.serving import ServingConfig
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.manifests.embed import ROOT
from tests.unit.proxied import proxied, said, write_config


def test_the_proxy_of_a_local_cluster_is_haproxy(tmp_path: pathlib.Path) -> None:
    environment = local_environment(tmp_path, 4 << 20)
    said = subprocess.run([environment[BINARY], "-v"], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("HAProxy version"), said


def test_it_does_not_splice(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "haproxy.cfg").write_text("defaults\n")
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append((path, arguments)))
    monkeypatch.setattr(sys, "argv", ["drafthouse-haproxy", "-f", str(tmp_path / "haproxy.cfg"), "-sf", "7"])
    monkeypatch.setenv(BINARY, "/this/very/command")
    haproxy.main()
    [(path, arguments)] = started
    assert arguments[:3] + arguments[4:] == [path, "-dS", "-f", "-sf", "7"]
    assert pathlib.Path(path).name == "haproxy"


def test_the_pods_start_it_too() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    environment = yaml.safe_load((ROOT / "k8s" / "base" / "ray-environment.yaml").read_text(encoding="utf-8"))["data"]
    assert pathlib.Path(environment[BINARY]).name in scripts
    assert pathlib.Path(environment[BINARY]).parent == pathlib.Path("/usr/local/bin"), "where the image has its commands"


def test_pods_and_local_clusters_have_the_same_limits(tmp_path: pathlib.Path) -> None:
    pods = yaml.safe_load((ROOT / "k8s" / "base" / "ray-environment.yaml").read_text(encoding="utf-8"))["data"]
    ours = local_environment(tmp_path, ServingConfig().gateway.max_body_bytes)
    limits = [name for name in pods if "_H2_" in name or "MESSAGE_SIZE" in name or "HARD_STOP" in name]
    assert len(limits) == 4
    assert {name: pods[name] for name in limits} == {name: ours[name] for name in limits}


def echoed(folder: pathlib.Path, *requests: bytes) -> list[bytes]:
    """What a server behind the proxy gets of each request."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(head) + head)
        await writer.drain()
        writer.close()

    async def run() -> list[bytes]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server, proxied(folder, server.sockets[0].getsockname()[1]) as (http, _):
            return [await said(http, request) for request in requests]

    return asyncio.run(run())


def with_header(header: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\nX-Other: 1\r\n" + header + b"\r\nConnection: close\r\n\r\n"


def test_headers_that_switch_off_cancellation_or_break_serve_go_no_further(tmp_path: pathlib.Path) -> None:
    stripped = [
        b"x-request-disconnect-disabled: ?1", b"X-Request-Timeout-Seconds: 0", b"serve-multiplexed_model_id: \xff", b"X-Session-Id: \xff",
        b"x-request-id: \xff\xfe", b"x-request-id: " + b"a" * 129, b"x-request-id: a\r\nx-request-id: \xff",
    ]  # fmt: skip
    kept = b"x-request-id: " + b"a" * 128
    *heads, last = echoed(tmp_path, *map(with_header, [*stripped, kept]))
    for header, head in zip(stripped, heads, strict=True):
        assert b"x-other: 1" in head, header
        assert header.partition(b":")[0].lower() not in head, header
    assert kept in last


def test_errors_of_the_proxy_itself_have_openais_shape(tmp_path: pathlib.Path) -> None:
    async def run() -> list[bytes]:
        answers = []
        for name, port in (("gone", 1), ("none", None)):
            (tmp_path / name).mkdir()
            async with proxied(tmp_path / name, port) as (http, _):
                answers.append(await said(http, with_header(b"a: b")))
        return answers

    for answer in asyncio.run(run()):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in head
        error = json.loads(body)["error"]
        assert (error["type"], error["param"], error["code"]) == ("unavailable_error", None, "no_gateway")


def test_a_client_has_seconds_for_its_headers(tmp_path: pathlib.Path) -> None:
    """HAProxy's own timer; what it does with it is not ours to test."""
    file, _, _ = write_config(tmp_path, 1, 2)
    assert "timeout http-request" not in file.read_text(encoding="utf-8")
    [_, name] = haproxy.amended_arguments(["-f", str(file)])
    assert f"timeout http-request {haproxy.HEADER_TIMEOUT_S}s" in pathlib.Path(name).read_text(encoding="utf-8")


def test_a_thousand_grpc_streams_fit_on_one_connection(tmp_path: pathlib.Path) -> None:
    """Each stays open until all have their first chunk."""

    class Server(rpc.InferenceServicer):
        def __init__(self) -> None:
            self.begun, self.all_have = 0, asyncio.Event()

        async def GenerateStream(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext):  # type: ignore[no-untyped-def]
            self.begun += 1
            if self.begun == 1000:
                self.all_have.set()
            yield pb.GenerateChunk(text="first")
            await self.all_have.wait()

    async def run() -> int:
        server = grpc.aio.server()
        rpc.add_InferenceServicer_to_server(Server(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with proxied(tmp_path, port, port) as (_, front), grpc.aio.insecure_channel(f"127.0.0.1:{front}") as channel:
                calls = [rpc.InferenceStub(channel).GenerateStream(pb.GenerateRequest(), timeout=120) for _ in range(1000)]
                texts = await asyncio.gather(*(call.read() for call in calls))
                return sum(chunk.text == "first" for chunk in texts)
        finally:
            await server.stop(0)

    assert asyncio.run(run()) == 1000
