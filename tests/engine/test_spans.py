"""Spans: those of one request over gateway, verifier and drafter are one tree at a collector; where none are asked for there are none."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from deployments.api.grpc.inference import InferenceApi
from drafthouse.errors import ConfigError
from drafthouse.telemetry.spans import FIRST_STEPS, Spans, is_sampled, spans_from_environment
from drafthouse.wire.fields import traceparent_of
from drafthouse.wire.membership import Role
from protos import inference_pb2 as pb
from tests.engine.driven_verifier import Setting
from tests.engine.otlp_collector import GRPC, HTTP, Collector, Seen, collecting
from tests.engine.pairs import prompts, request
from tests.engine.servers import run, start_drafter, start_routed, until
from tests.engine.test_drafter_engine import opening, scripted
from tests.unit.grpc_gateway import Context
from tests.unit.openai_gateway import COMPLETION, IDS, gateway
from tests.unit.verifier_double import VerifierDouble

CLIENT_TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01", f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-00"
GEN_AI = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_") and isinstance(value, str)}
TOKENS = 60
SLACK_NS = 5_000_000
"""Processes set their clocks by the wall clock, each for itself."""

FIXED = {"mode": "fixed", "nodes": 8, "depth": 4}


@pytest.fixture(params=[HTTP, GRPC])
def collector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting(request.param) as (found, endpoint):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield found


@pytest.fixture
def http_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting(HTTP) as (found, endpoint):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{endpoint}/v1/traces")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield found


def spans(role: Role) -> Spans:
    found = spans_from_environment(role, f"{role}-0", time.monotonic if role == "gateway" else time.perf_counter)
    assert found is not None
    return found


@asynccontextmanager
async def all_roles() -> AsyncIterator[tuple[httpx.AsyncClient, InferenceApi, list[Spans]]]:
    """A gateway, a verifier and a drafter, with real gRPC between them."""
    made = [spans(role) for role in ("gateway", "verifier", "drafter")]
    drafter, route = await start_drafter(0.02, "drafter")
    verifier, address = await start_routed("verifier")
    verifier.loop.engine.spans, drafter.loop.engine.spans = made[1:]
    verifier.set_drafters([route])
    await until(lambda: bool(verifier.loop.engine.draft_sessions.drafters), "connected")
    async with gateway(context_tokens=256) as (app, service):
        service.spans = made[0]
        service.link.update((address,))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield client, InferenceApi(service), made
    await verifier.stop()
    await drafter.stop()


async def ended(collector: Collector, made: list[Spans], *names: str) -> None:
    await asyncio.to_thread(collector.wait_for, *names)
    for each in made:
        await asyncio.to_thread(each.close)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompts(1)[0], "max_tokens": TOKENS, "ignore_eos": True, "speculation": FIXED} | more


def only(collector: Collector, name: str) -> Seen:
    (span,) = collector.named(name)
    return span


def below(collector: Collector, parent: Seen) -> set[str]:
    return {span.name for span in collector.spans if span.parent == parent.id}


def test_the_spans_of_a_request_are_one_tree(collector: Collector) -> None:
    """Below the client's own span, which its traceparent names."""

    async def test() -> None:
        async with all_roles() as (client, _, made):
            answer = await client.post("/v1/completions", json=body(), headers={"traceparent": SAMPLED, "tracestate": "vendor=1"})
            usage = answer.json()["usage"]
            await ended(collector, made, "text_completion demo", "verify", "draft")
        assert {span.trace for span in collector.spans} == {CLIENT_TRACE}
        asked, verify, draft = (only(collector, name) for name in ("text_completion demo", "verify", "draft"))
        assert (asked.parent, verify.parent, draft.parent) == (CLIENT_SPAN, asked.id, verify.id)
        assert [span.service for span in (asked, verify, draft)] == ["drafthouse-gateway", "drafthouse-verifier", "drafthouse-drafter"]
        assert below(collector, asked) == {"plan", "verify"}
        assert below(collector, verify) == {"queue", "prefill", "verify step", "draft"}
        assert below(collector, draft) == {"draft prefill", "draft pass"}
        assert not any(span.failed for span in collector.spans)
        _check_times(collector)
        steps = collector.named("verify step")
        assert [step.attributes["drafthouse.step"] for step in steps] == [
            i for i in range(usage["speculation"]["steps"] - 1) if is_sampled(i)
        ]
        assert asked.attributes["gen_ai.usage.output_tokens"] == verify.attributes["drafthouse.output_tokens"] == TOKENS
        for name, counted in (("drafthouse.accepted_tokens", "accepted"), ("drafthouse.verified_tokens", "verified")):
            assert asked.attributes[name] == verify.attributes[name] == usage["speculation"][counted] > 0
        assert draft.attributes["drafthouse.committed_tokens"] > 0

    run(test)


def _check_times(collector: Collector) -> None:
    """A part lies within what it is a part of, unless another process began it."""
    by_id = {span.id: span for span in collector.spans}
    for span in collector.spans:
        assert span.began_ns <= span.ended_ns
        assert abs(span.began_ns - time.time_ns()) < 120e9
        if (above := by_id.get(span.parent)) is not None:
            assert above.began_ns - SLACK_NS <= span.began_ns, span
            assert above.service != span.service or span.ended_ns <= above.ended_ns, span


def test_attributes_are_those_of_the_genai_conventions(http_collector: Collector) -> None:
    async def test() -> None:
        async with all_roles() as (client, _, made):
            sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 11, "n": 2, "presence_penalty": 0.25}
            answer = (await client.post("/v1/completions", json=body(**sampling))).json()
            await ended(http_collector, made, "text_completion demo")
        asked = only(http_collector, "text_completion demo")
        expected = {
            "gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "drafthouse", "gen_ai.request.model": "demo",
            "gen_ai.response.model": "demo", "gen_ai.response.id": answer["id"], "gen_ai.request.max_tokens": TOKENS,
            "gen_ai.request.temperature": 0.5, "gen_ai.request.top_p": 0.9, "gen_ai.request.top_k": 7, "gen_ai.request.seed": 11,
            "gen_ai.request.choice.count": 2, "gen_ai.request.presence_penalty": 0.25, "gen_ai.request.frequency_penalty": 0.0,
            "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"], "gen_ai.usage.output_tokens": 2 * TOKENS,
            "gen_ai.response.finish_reasons": ["length", "length"], "drafthouse.outcome": "served", "drafthouse.attempts": 1,
        }  # fmt: skip
        assert expected.items() <= asked.attributes.items()
        assert 0 < asked.attributes["gen_ai.response.time_to_first_chunk"] < (asked.ended_ns - asked.began_ns) / 1e9
        assert asked.parent == "", "without a traceparent it is the root"
        assert len(http_collector.named("verify")) == 2, "each choice has its own"
        used = {(span.name, name) for span in http_collector.spans for name in span.attributes if name.startswith("gen_ai.")}
        assert used <= {(asked.name, name) for name in GEN_AI}, "tokens count once"

    run(test)


def test_grpc_takes_the_clients_span_from_its_metadata(http_collector: Collector) -> None:
    async def test() -> None:
        async with all_roles() as (_, api, made):
            wanted = pb.GenerateRequest(model="demo", prompt_tokens=pb.TokenIds(ids=[1, 2, 3]), max_tokens=5)
            context = Context([("traceparent", SAMPLED)])
            assert (await api.generate(wanted.SerializeToString(), context)).tokens
            await ended(http_collector, made, "text_completion demo", "verify")
        asked = only(http_collector, "text_completion demo")
        assert (asked.trace, asked.parent) == (CLIENT_TRACE, CLIENT_SPAN)
        assert only(http_collector, "verify").parent == asked.id

    run(test)


@pytest.mark.parametrize(("header", "sampler"), [(UNSAMPLED, ""), ("", "always_off")], ids=["by the client", "by the sampler"])
def test_what_is_not_sampled_has_no_span_in_any_role(
    http_collector: Collector, monkeypatch: pytest.MonkeyPatch, header: str, sampler: str
) -> None:
    if sampler:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)

    async def test() -> None:
        async with all_roles() as (client, _, made):
            answer = await client.post("/v1/completions", json=body(), headers={"traceparent": header} if header else {})
            assert answer.status_code == 200
            await ended(http_collector, made)
        assert http_collector.spans == []

    run(test)


def test_errors_mark_the_gateways_span(http_collector: Collector) -> None:
    async def test() -> None:
        async with all_roles() as (client, _, made):
            assert (await client.post("/v1/completions", json=body(prompt=[99_999]))).status_code == 400
            await ended(http_collector, made, "request")
        asked = only(http_collector, "request")
        assert asked.failed
        assert "prompt" in asked.message
        assert (asked.attributes["error.type"], asked.attributes["drafthouse.outcome"]) == ("RequestError", "error")

    run(test)


def test_a_request_that_another_verifier_takes_over_stays_in_its_trace(http_collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    """Which its line of the log names."""
    caplog.set_level("INFO")

    async def cut(index: int, served: Any) -> None:
        if index and served.request.attempt == 1:
            await served.cut()

    async def test() -> None:
        verifier, made = VerifierDouble("a", tokens=lambda request: IDS, before=cut), spans("gateway")
        async with gateway(verifier, patience_s=10.0) as (app, service):
            service.spans = made
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200
        await ended(http_collector, [made], "text_completion demo")
        asked = only(http_collector, "text_completion demo")
        assert [r.traceparent for r in verifier.seen] == [verifier.seen[0].traceparent] * 2
        assert verifier.seen[0].traceparent.startswith(f"00-{asked.trace}-{asked.id}-")
        assert asked.attributes["drafthouse.attempts"] == 2
        [line] = [record for record in caplog.records if getattr(record, "fields", {}).get("event") == "request"]
        assert line.__dict__["fields"]["trace_id"] == asked.trace
        assert not asked.failed

    run(test)


def test_a_step_that_fails_and_a_session_that_is_dropped_are_marked(http_collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is sent when a replica ends."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    it, draft_engine, made = Setting(), scripted(), [spans("verifier"), spans("drafter")]
    it.engine.spans, draft_engine.spans = made
    it.submit(replace(request("a", (1, 2, 3), 9, mode="off"), traceparent=SAMPLED))
    it.engine.begin_step()
    assert it.engine.recover("the device is gone")[-1].finish_reason == "error"
    draft_engine.handle("v", replace(opening("s", (1, 2, 3)), traceparent=SAMPLED))
    draft_engine.drain()
    for each in made:
        each.close()
    verify, draft = only(http_collector, "verify"), only(http_collector, "draft")
    assert (verify.failed, verify.message, verify.attributes["drafthouse.ended"]) == (True, "the device is gone", "error")
    assert (draft.failed, draft.message) == (True, "this drafter drains")
    assert verify.parent == draft.parent == CLIENT_SPAN


def test_a_long_request_has_few_steps() -> None:
    assert [step for step in range(100) if is_sampled(step)] == [*range(FIRST_STEPS), 8, 16, 32, 64]
    assert sum(map(is_sampled, range(1 << 17))) < 30


def test_without_an_endpoint_there_are_none_and_nothing_is_loaded() -> None:
    code = (
        "import sys, time; from drafthouse.telemetry.spans import spans_from_environment as made\n"
        "assert made('gateway', 'g', time.monotonic) is None; assert not any(m.startswith('opentelemetry') for m in sys.modules)"
    )
    for said in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
                 {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}):  # fmt: skip
        subprocess.run([sys.executable, "-c", code], env=said, check=True)


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_TRACES_EXPORTER", "console")], ids=["protocol", "exporter"]
)
def test_what_cannot_be_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable} is '{value}'"):
        spans_from_environment("drafter", "d", time.monotonic)


@pytest.mark.parametrize("said", ["", "00-zz", SAMPLED + "-more", SAMPLED.upper(), "x" * 10_000])
def test_a_traceparent_that_is_none_counts_as_nothing(said: str) -> None:
    assert traceparent_of(said) == ""
    assert traceparent_of(SAMPLED) == SAMPLED
