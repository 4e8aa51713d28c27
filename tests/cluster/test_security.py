"""A cluster with everything that docs/security.md can switch on: who gets in by which door, and who does not."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from drafthouse.config.security import DataPlaneConfig
from drafthouse.security.api_keys import generate_key, hash_of
from drafthouse.security.client_key import API_KEY
from drafthouse.wire.tls_identity import PEER_NAME
from protos import dataplane_pb2 as plane
from protos import dataplane_pb2_grpc as plane_rpc
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.cluster.serving import Serving
from tests.unit.certificates import TOKEN, Authority

pytestmark = pytest.mark.cluster_long
KEY, REVOKED, UNKNOWN = generate_key(), generate_key(), generate_key()
OURS, FOREIGN = Authority("ours"), Authority("ours")
COMPLETION = {"model": "demo", "prompt": "def f(", "max_tokens": 8, "temperature": 0}
BEARER = (("authorization", f"Bearer {TOKEN}"),)


@dataclass
class Secured:
    serving: Serving
    keys: pathlib.Path
    home: pathlib.Path
    strangers: DataPlaneConfig

    def address(self, role: str) -> str:
        address: str = self.serving.cluster()["pools"][role][0]["address"]
        return address


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """`drafthouse serve` as a user starts it, but in a home of its own, where Ray makes its token."""
    folder = tmp_path_factory.mktemp("secured")
    home, keys = folder / "home", folder / "keys"
    home.mkdir()
    keys.write_text(f"{hash_of(KEY)}\n{hash_of(REVOKED)}\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | {"HOME": str(home)}
    files = OURS.issue().write(folder / "tls")
    security = {"api_keys": {"file": str(keys), "operators": [hash_of(KEY)]}, "data_plane": files.model_dump(mode="json")}
    serving = Serving(folder, environment, security=security)
    serving.headers = {"Authorization": f"Bearer {KEY}"}
    try:
        yield Secured(serving.wait_ready(), keys, home, FOREIGN.issue().write(folder / "foreign"))
    finally:
        if serving.process.poll() is None:
            serving.stop()


def test_http_answers_known_keys_alone(secured: Secured) -> None:
    url = secured.serving.url
    for headers, code in (({}, "missing_api_key"), ({"Authorization": f"Bearer {UNKNOWN}"}, "invalid_api_key")):
        for path in ("/v1/completions", "/v1/chat/completions"):
            answer = httpx.post(url + path, json=COMPLETION, headers=headers, timeout=30)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
        for path in ("/v1/models", "/v1/cluster"):
            assert httpx.get(url + path, headers=headers, timeout=30).status_code == 401
    assert httpx.get(f"{url}/health/ready", timeout=30).status_code == 200
    assert secured.serving.complete(**COMPLETION)["usage"]["completion_tokens"] == 8


def test_grpc_answers_known_keys_alone(secured: Secured) -> None:
    request = pb.GenerateRequest(model="demo", prompt="def f(", max_tokens=8, temperature=0)
    with grpc.insecure_channel(f"127.0.0.1:{secured.serving.grpc_port}") as channel:
        stub = rpc.InferenceStub(channel)
        for metadata in ((), (("authorization", f"Bearer {UNKNOWN}"),)):
            with pytest.raises(grpc.RpcError) as plain:
                stub.Generate(request, metadata=metadata, timeout=30)
            with pytest.raises(grpc.RpcError) as streamed:
                list(stub.GenerateStream(request, metadata=metadata, timeout=30))
            assert plain.value.code() is streamed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        known = (("authorization", f"Bearer {KEY}"),)
        assert len(stub.Generate(request, metadata=known, timeout=60).tokens) == 8


def _logged(secured: Secured) -> list[dict[str, Any]]:
    told = _drafthouse("logs", "--port", str(secured.serving.http_port), "--json", key=None)
    return [json.loads(line) for line in told.stdout.splitlines()]


def test_grpc_that_is_refused_leaves_no_trace(secured: Secured) -> None:
    """Through HAProxy and Serve's own servers: one status, one line of the log each."""
    before, known = len(_logged(secured)), (("authorization", f"Bearer {KEY}"),)
    wrong = pb.GenerateRequest(model="demo", prompt="def f(", top_p=2.0).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{secured.serving.grpc_port}") as channel:
        for kind, method in ((channel.unary_unary, "Generate"), (channel.unary_stream, "GenerateStream")):
            for data, words in ((b"\xff\xff\xff", "no protobuf message"), (wrong, "top_p")):
                call = kind(f"/drafthouse.v1.Inference/{method}", request_serializer=None, response_deserializer=None)
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(data, metadata=known, timeout=30))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert words in caught.value.details()
    secured.serving.until(lambda: len(_logged(secured)) >= before + 4, "four lines of the log")
    lines = _logged(secured)[before:]
    assert [line["fields"]["outcome"] for line in lines if line.get("fields", {}).get("event") == "request"] == ["rejected"] * 4
    assert not [line for line in lines if "exc_text" in line]


def test_callers_without_a_key_stand_in_the_log(secured: Secured) -> None:
    httpx.get(f"{secured.serving.url}/v1/models", headers={"Authorization": f"Bearer {UNKNOWN}"}, timeout=30)
    lines = [line for line in _logged(secured) if line.get("fields", {}).get("event") == "unauthorized"]
    assert [line["levelname"] for line in lines] == ["WARNING"], "one a minute"
    assert lines[0]["fields"]["address"] == "127.0.0.1"
    assert UNKNOWN not in json.dumps(lines)


def test_a_key_that_is_taken_out_is_refused_at_once(secured: Secured) -> None:
    url, headers = f"{secured.serving.url}/v1/models", {"Authorization": f"Bearer {REVOKED}"}
    assert httpx.get(url, headers=headers, timeout=30).status_code == 200
    secured.keys.write_text(f"{hash_of(KEY)}\n", encoding="utf-8")
    assert httpx.get(url, headers=headers, timeout=30).status_code == 401


def _drafthouse(*arguments: str, key: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != API_KEY} | ({API_KEY: key} if key else {})
    command = [sys.executable, "-c", "from deployments.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)


def test_our_own_clients_send_the_key(secured: Secured) -> None:
    bench = ("bench", "http", "--url", secured.serving.url, "--prompts", "1", "--tokens", "4")
    refused = _drafthouse(*bench, key=None)
    assert (refused.returncode, API_KEY in refused.stderr) == (1, True), refused.stderr
    done = _drafthouse(*bench, key=KEY)
    assert done.returncode == 0, done.stderr
    status = _drafthouse("status", "--url", secured.serving.url, key=KEY)
    assert status.returncode == 0, status.stderr


def test_drafters_help_over_mutual_tls(secured: Secured) -> None:
    serving = secured.serving
    body = {"prompt": "class Queue:\n", "max_tokens": 48, "temperature": 0, "speculation": {"mode": "fixed", "nodes": 8, "depth": 4}}

    def connected() -> bool:
        usage = serving.complete(**body)["usage"]["speculation"]
        return usage["accepted"] > 0 and serving.totals("drafter")["sessions"] > 0

    serving.until(connected, "accepted drafts of a drafter", 60)


def _status(channel: grpc.Channel, role: str, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    """Of a call to a verifier or a drafter."""
    with channel:
        if role == "verifier":
            call = plane_rpc.VerifierStub(channel).Connect(iter([plane.FromGateway()]), metadata=metadata, timeout=20)
        else:
            call = plane_rpc.DrafterStub(channel).Connect(iter([plane.ToDrafter()]), metadata=metadata, timeout=20)
        try:
            list(call)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def _tls(address: str, files: Mapping[str, bytes] | None) -> grpc.Channel:
    """`files` are a client's key and certificate; None shows none. Every one trusts the servers' own authority."""
    credentials = grpc.ssl_channel_credentials(OURS.certificate, *((files["key"], files["certificate"]) if files else ()))
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", PEER_NAME)])


@pytest.mark.parametrize("role", ["verifier", "drafter"])
def test_the_data_plane_takes_our_certificates_with_the_token_alone(secured: Secured, role: str) -> None:
    address = secured.address(role)
    foreign = {"key": secured.strangers.key.read_bytes(), "certificate": secured.strangers.certificate.read_bytes()}
    leaf = OURS.issue()
    own = {"key": leaf.key, "certificate": leaf.certificate}
    refused, unknown = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED
    assert _status(grpc.insecure_channel(address), role, BEARER) is refused, "plaintext"
    assert _status(_tls(address, None), role, BEARER) is refused, "no certificate"
    assert _status(_tls(address, foreign), role, BEARER) is refused, "another authority"
    assert _status(_tls(address, own), role, ()) is unknown, "no token"
    assert _status(_tls(address, own), role, (("authorization", "Bearer another-token-of-twenty-characters"),)) is unknown
    assert _status(_tls(address, own), role, BEARER) is grpc.StatusCode.OK


def test_rays_dashboard_and_jobs_ask_for_rays_token(secured: Secured) -> None:
    token = (secured.home / ".ray" / "auth_token").read_text(encoding="utf-8").strip()
    applications, jobs = (f"{secured.serving.dashboard_url}/api/{path}/" for path in ("serve/applications", "jobs"))
    for headers in ({}, {"Authorization": f"Bearer {UNKNOWN}"}):
        assert httpx.get(applications, headers=headers, timeout=30).status_code in (401, 403)
        assert httpx.post(jobs, headers=headers, json={"entrypoint": "true"}, timeout=30).status_code in (401, 403)
    for url in (applications, jobs):
        assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code == 200


def test_no_secret_is_in_what_the_server_said(secured: Secured) -> None:
    said = "".join(secured.serving.lines)
    assert "get-auth-token" in said, "how to find Ray's token is said"
    for secret in (KEY, REVOKED, UNKNOWN, TOKEN, (secured.home / ".ray" / "auth_token").read_text(encoding="utf-8").strip()):
        assert secret not in said
