"""API keys over HTTP and gRPC: who gets in, what is refused how, and that no key is ever repeated."""

import asyncio
import logging
import os
import pathlib
import time
from collections.abc import Callable

import grpc
import httpx
import pytest
from pydantic import ValidationError

from controller.registry import Registry
from deployments.api.grpc.inference import InferenceApi
from deployments.api.openai.routes import build_http_app
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.key_refusals import KEPT_ADDRESSES, LINE_S, KeyRefusals
from deployments.gateway.request_planner import RequestPlanner
from deployments.gateway.verifier_link import VerifierLink
from drafthouse.config.security import ApiKeysConfig
from drafthouse.config.serving import ControllerConfig, GatewayConfig, ServingConfig
from drafthouse.errors import ConfigError, RequestError
from drafthouse.security import watched_files
from drafthouse.security.api_keys import ApiKeys, generate_key, hash_of, load_api_keys
from protos.inference_pb2 import GenerateResponse
from tests.unit.byte_tokenizer import codec, metadata
from tests.unit.grpc_gateway import Context
from tests.unit.openai_gateway import COMPLETION, IDS, TEXT, error_of, metrics_page, no_lifespan
from tests.unit.reports import gateway_report
from tests.unit.test_grpc_api import data, serve
from tests.unit.verifier_double import VerifierDouble, serving

KEY, OTHER = generate_key(), generate_key()
RIGHT = {"Authorization": f"Bearer {KEY}"}
IN_CONFIG = ApiKeysConfig(hashes=(hash_of(OTHER), hash_of(KEY)))


def calls(keys: ApiKeys | None, *requests: httpx.Request, refusals: KeyRefusals | None = None) -> list[httpx.Response]:
    """Answers of one gateway in front of a verifier that says TEXT, and of a real controller's registry."""

    async def run() -> list[httpx.Response]:
        async with serving(VerifierDouble("a", tokens=lambda request: IDS)) as routes:
            link = VerifierLink(patience_s=0.05)
            link.update(routes)
            service = InferenceService(RequestPlanner("demo", codec(), metadata()), link, 16)
            registry = Registry(ControllerConfig())

            async def snapshot() -> dict:
                registry.observe(gateway_report("g", service.running, service.totals()), now=1.0)
                return registry.snapshot(now=1.0)

            app = build_http_app(service, snapshot, no_lifespan, keys, GatewayConfig(), metrics_page, refusals or KeyRefusals())
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answers = [await client.send(request) for request in requests]
            await link.close()
            return answers

    return asyncio.run(run())


def get(path: str, headers: dict[str, str] | None = None) -> httpx.Request:
    return httpx.Request("GET", f"http://test{path}", headers=headers)


def post(headers: dict[str, str] | None = None, **more) -> httpx.Request:
    return httpx.Request("POST", "http://test/v1/completions", json=COMPLETION | more, headers=headers)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": KEY}, "missing_api_key"),
        ({"Authorization": f"Basic {KEY}"}, "missing_api_key"),
        ({"Authorization": "Bearer "}, "missing_api_key"),
        ({"X-Api-Key": KEY}, "missing_api_key"),
        ({"Authorization": f"Bearer {generate_key()}"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {hash_of(KEY)}"}, "invalid_api_key"),
        ({"Authorization": "Bearer \xe9"}, "invalid_api_key"),
    ],
)
def test_without_the_right_key_http_says_401(headers, code):
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for answer in calls(ApiKeys(IN_CONFIG), post(encoded), post(encoded, stream=True)):
        assert error_of(answer) == (401, "invalid_request_error", None, code)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_right_key_is_let_in():
    plain, streamed, lower = calls(ApiKeys(IN_CONFIG), post(RIGHT), post(RIGHT, stream=True), post({"authorization": f"bearer {KEY}"}))
    assert [answer.status_code for answer in (plain, streamed, lower)] == [200, 200, 200]
    assert plain.json()["choices"][0]["text"] == TEXT


def test_health_alone_is_open():
    opened = ["/health", "/health/live", "/health/ready"]
    secret = ["/v1/models", "/v1/cluster", "/v1/nothing", "/", "/health/", "//health"]
    answers = calls(ApiKeys(IN_CONFIG), *map(get, [*opened, *secret]))
    healthy, closed = answers[: len(opened)], answers[len(opened) :]
    assert [answer.status_code for answer in healthy] == [200] * len(opened)
    assert [answer.status_code for answer in closed] == [401] * len(secret)


def test_metrics_are_for_operators_where_there_are_any():
    operators = ApiKeys(ApiKeysConfig(hashes=(hash_of(OTHER), hash_of(KEY)), operators=(hash_of(OTHER),)))
    mine, theirs = (get("/metrics", {"Authorization": f"Bearer {key}"}) for key in (OTHER, KEY))
    seen, refused = calls(operators, mine, theirs)
    assert (seen.status_code, seen.text) == (200, "ray_drafthouse_gateway_running 0.0\n")
    assert error_of(refused) == (403, "invalid_request_error", None, "not_an_operator")


def test_without_the_section_the_api_is_open():
    assert load_api_keys(ServingConfig().security.api_keys) is None
    assert calls(None, post())[0].status_code == 200


def test_a_refused_body_is_not_read():
    async def run():
        app = build_http_app(
            InferenceService(RequestPlanner("demo", codec(), metadata()), VerifierLink(5.0), 16),
            None,
            no_lifespan,
            ApiKeys(IN_CONFIG),
            GatewayConfig(),
            metrics_page,
            KeyRefusals(),
        )
        sent = []

        async def receive():
            raise AssertionError("the body was read")

        async def send(event):
            sent.append(event)

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
        await app(scope, receive, send)
        assert sent[0]["status"] == 401

    asyncio.run(run())


def test_pids_and_addresses_are_shown_to_operators_alone():
    keys = ApiKeys(ApiKeysConfig(hashes=(hash_of(OTHER), hash_of(KEY)), operators=(hash_of(KEY),)))
    operator, other = calls(keys, get("/v1/cluster", RIGHT), get("/v1/cluster", {"Authorization": f"Bearer {OTHER}"}))
    (whole,), (shown,) = operator.json()["pools"]["gateway"], other.json()["pools"]["gateway"]
    assert {name: value for name, value in whole.items() if name not in shown} == {
        "pid": 1, "address": "g:1", "node": "n", "ranks": []
    }  # fmt: skip
    assert "g:1" not in other.text
    assert other.json()["totals"] == operator.json()["totals"]
    (open_to_all,) = calls(None, get("/v1/cluster"))
    assert open_to_all.json()["pools"]["gateway"][0]["pid"] == 1


def test_keys_are_neither_logged_nor_shown(caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    wrong = generate_key()
    keys = ApiKeys(ApiKeysConfig(file=write(tmp_path / "keys", hash_of(KEY))))
    refused, answered, cluster = calls(keys, post({"Authorization": f"Bearer {wrong}"}), post(RIGHT), get("/v1/cluster", RIGHT))
    write(tmp_path / "keys", OTHER)  # a key in place of its hash
    keys.check(RIGHT["Authorization"])
    assert cluster.json()["pools"]["gateway"]
    everything = caplog.text + refused.text + answered.text + cluster.text
    assert "line 1" in everything
    for secret in (wrong, KEY, OTHER, hash_of(KEY)):
        assert secret not in everything


@pytest.mark.parametrize("metadata", [[], [("authorization", f"Bearer {OTHER}x")], [("x-api-key", KEY)], [("authorization", b"\xff")]])
def test_without_the_right_key_grpc_says_unauthenticated(metadata):
    context = Context(metadata=metadata)
    assert serve(lambda service: InferenceApi(service, ApiKeys(IN_CONFIG)).generate(data(), context)) == GenerateResponse()
    assert context.set["set_code"] is grpc.StatusCode.UNAUTHENTICATED
    assert "API key" in context.set["set_details"]
    assert OTHER not in context.set["set_details"]


def test_the_right_key_is_let_in_by_grpc():
    context = Context(metadata=[("user-agent", "x"), ("authorization", f"Bearer {KEY}")])
    assert serve(lambda service: InferenceApi(service, ApiKeys(IN_CONFIG)).generate(data(), context)).text
    assert context.set == {}


def refusals_of(requests: list[httpx.Request], now: Callable[[], float], capture: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """The fields of what is logged of requests to a gateway with keys."""
    refusals = KeyRefusals(lambda: "r1", now)
    capture.set_level(logging.INFO)
    calls(ApiKeys(IN_CONFIG), *requests, refusals=refusals)
    return [record.fields for record in capture.records if getattr(record, "fields", {}).get("event") == "unauthorized"]


def test_a_caller_without_a_key_has_one_line_a_minute_at_level_warning(caplog):
    times = iter([0.0, 1.0, 59.0, 60.0, 61.0])
    wrong = {"Authorization": f"Bearer {OTHER}x"}
    found = refusals_of([post(), post(wrong), post(wrong), post(wrong), post()], lambda: next(times), caplog)
    assert [(fields["code"], fields["calls"]) for fields in found] == [("missing_api_key", 1), ("invalid_api_key", 3)]
    assert {(fields["address"], fields["request_id"]) for fields in found} == {("127.0.0.1", "r1")}
    assert {record.levelname for record in caplog.records if hasattr(record, "fields")} == {"WARNING"}
    assert OTHER not in caplog.text


def test_refused_over_grpc_it_has_a_line_too(caplog):
    context = Context(metadata=[("authorization", f"Bearer {OTHER}x")], peer="ipv4:10.0.0.7:55")
    serve(lambda service: InferenceApi(service, ApiKeys(IN_CONFIG)).generate(data(), context))
    [line] = [record for record in caplog.records if hasattr(record, "fields")]
    assert (line.levelname, line.fields["event"], line.fields["address"]) == ("WARNING", "unauthorized", "10.0.0.7")
    assert OTHER not in caplog.text


def test_many_addresses_have_a_bounded_number_of_lines(caplog):
    now = 0.0
    refusals = KeyRefusals(clock=lambda: now)
    error = RequestError("no", code="missing_api_key", status=401)
    for i in range(3 * KEPT_ADDRESSES):
        refusals.refused(f"10.0.{i // 256}.{i % 256}", error)
    assert len(caplog.records) == KEPT_ADDRESSES + 1
    now = LINE_S
    refusals.refused("10.9.9.9", error)
    assert caplog.records[-1].fields["address"] == "10.9.9.9", "there is room again"


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    """Replaces the file as a mounted secret's is, in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
    return path


def accepts(keys: ApiKeys, key: str) -> bool:
    try:
        keys.check(f"Bearer {key}")
    except RequestError:
        return False
    return True


def test_the_file_is_read_again_when_it_changes(tmp_path):
    path = write(tmp_path / "keys", f"# ours\n\n{hash_of(KEY)}  # alice\n")
    keys = ApiKeys(ApiKeysConfig(file=path))
    assert (accepts(keys, KEY), accepts(keys, OTHER)) == (True, False)
    write(path, f"{hash_of(KEY)}\n{hash_of(OTHER)}\n")
    assert (accepts(keys, KEY), accepts(keys, OTHER)) == (True, True)
    write(path, hash_of(OTHER))
    assert (accepts(keys, KEY), accepts(keys, OTHER)) == (False, True)
    write(path, "")
    assert (accepts(keys, KEY), accepts(keys, OTHER)) == (False, False)


@pytest.mark.parametrize(
    "spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff\xfe"), lambda path: write(path, "sha256:12")]
)
def test_a_file_that_goes_bad_changes_nothing(tmp_path, caplog, spoil):
    path = write(tmp_path / "keys", hash_of(KEY))
    keys = ApiKeys(ApiKeysConfig(file=path))
    spoil(path)
    assert [(accepts(keys, KEY), accepts(keys, OTHER)) for _ in range(3)] == [(True, False)] * 3
    assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1
    write(path, hash_of(OTHER))
    assert (accepts(keys, KEY), accepts(keys, OTHER)) == (False, True)


def test_what_could_not_be_read_once_is_tried_again(tmp_path, monkeypatch):
    """The same file may be good a moment later: a read that failed, a certificate whose time has come."""
    monkeypatch.setattr(watched_files, "RETRY_S", 0.05)
    path, good, tries = write(tmp_path / "file", "one"), [True], []

    def parse() -> str:
        tries.append(path.read_text())
        if not good[0]:
            raise ConfigError("not now")
        return tries[-1]

    watched = watched_files.WatchedFiles((path,), parse)
    good[0] = False
    write(path, "two")
    assert [watched.current() for _ in range(3)] == ["one"] * 3
    assert len(tries) == 2
    good[0] = True
    time.sleep(0.06)
    assert watched.current() == watched.current() == "two"
    assert len(tries) == 3


@pytest.mark.parametrize("text", ["", "# nobody\n", "sha256:12", KEY, f"{hash_of(KEY)} alice", hash_of(KEY).upper(), hash_of(KEY) + "0"])
def test_a_bad_file_at_start_is_an_error_without_its_content(tmp_path, text):
    path = write(tmp_path / "keys", text)
    with pytest.raises(ConfigError) as caught:
        load_api_keys(ApiKeysConfig(file=path))
    assert "security.api_keys.file" in str(caught.value)
    assert str(path) in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"security\.api_keys\.file: .*nowhere: No such file"):
        load_api_keys(ApiKeysConfig(file=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"api_keys": {}}, "either file or hashes"),
        ({"api_keys": {"file": "/x", "hashes": [hash_of(KEY)]}}, "either file or hashes"),
        ({"api_keys": {"file": "keys"}}, "security.api_keys.file"),
        ({"api_keys": {"hashes": [KEY]}}, "security.api_keys.hashes.0"),
        ({"api_keys": {"keys": [KEY]}}, "security.api_keys.keys"),
        ({"data_plane": {"certificate": "/c", "key": "/k", "authority": "/a"}}, "security.data_plane.token_file"),
        ({"data_plane": {"certificate": "c", "key": "/k", "authority": "/a", "token_file": "/t"}}, "security.data_plane.certificate"),
    ],
)
def test_faults_of_the_configuration_name_the_key_and_repeat_none(section, named):
    with pytest.raises(ValidationError) as caught:
        ServingConfig.model_validate({"security": section})
    assert named in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_key_may_have_limits_of_its_own(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{hash_of(KEY)} streams=4 tokens_per_minute=none # alice\n{hash_of(OTHER)}\n", encoding="utf-8")
    keys = ApiKeys(ApiKeysConfig(file=path))
    assert keys.limits_of(hash_of(KEY)) == {"streams": 4, "tokens_per_minute": None}
    assert keys.limits_of(hash_of(OTHER)) == keys.limits_of("10.0.0.1") == {}
    path.write_text(f"{hash_of(KEY)} streams=5\n", encoding="utf-8")
    assert keys.limits_of(hash_of(KEY)) == {"streams": 5}


@pytest.mark.parametrize("limit", ["streams=0", "streams=", "streams=-1", "stream=4", "streams", "proxy_hops=1"])
def test_a_limit_that_cannot_be_read_is_named_by_its_line(tmp_path, limit):
    path = tmp_path / "keys"
    path.write_text(f"{hash_of(OTHER)}\n{hash_of(KEY)} {limit}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2 is not a hash.* with settings such as streams=4"):
        ApiKeys(ApiKeysConfig(file=path))
