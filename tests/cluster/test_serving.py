"""One real cluster with the demo pair: official clients, bad input, a drafter that dies. Short enough for `make test`."""

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import grpc
import httpx
import openai
import pytest
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cluster.serving import Serving

pytestmark = pytest.mark.cluster
PROMPT = "def fibonacci(n):\n"
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(serving: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0)


def test_openai_client_plain_and_streaming_agree(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="demo", prompt=PROMPT, max_tokens=48, temperature=0)
    chunks = list(
        client.completions.create(
            model="demo", prompt=PROMPT, max_tokens=48, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == plain.choices[0].text
    assert sum(bool(c.choices and c.choices[0].text) for c in chunks) > 3, "text comes in pieces"
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens == 48
    assert plain.choices[0].finish_reason == "length"


def test_a_trace_tells_where_each_token_of_a_stream_came_from(serving: Serving, client: openai.OpenAI) -> None:
    """By the draft model in another process for some of them. The same steps are to be had by the request's id."""
    wanted: Any = {"include_trace": True}
    stream = client.completions.create(model="demo", prompt=PROMPT, max_tokens=48, temperature=0, stream=True, stream_options=wanted)
    chunks = [chunk.model_dump() for chunk in stream]
    steps = [step for chunk in chunks for choice in chunk["choices"] for step in choice.get("trace") or []]
    tokens = [token for step in steps for token in step["tokens"]]
    assert "".join(token["text"] for token in tokens) == "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert len(tokens) == 48
    assert {"model", "target"} <= {token["source"] for token in tokens}
    told = httpx.get(f"{serving.url}/v1/requests/{chunks[0]['id']}/trace").raise_for_status().json()
    assert told["choices"][0]["steps"] == steps
    assert all(step["timings"]["device_s"] > 0 for step in steps)


def test_openai_client_chat_plain_and_streaming_agree(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "write a loop"}]
    plain = client.chat.completions.create(model="demo", messages=messages, max_completion_tokens=24, seed=5)
    stream = client.chat.completions.create(model="demo", messages=messages, max_completion_tokens=24, seed=5, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == plain.choices[0].message.content
    assert [m.id for m in client.models.list()] == ["demo"]


def test_openai_client_responses_say_what_chats_say(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "write a loop"}]
    chat = client.chat.completions.create(model="demo", messages=messages, max_completion_tokens=24, seed=5)
    *_, last = client.responses.create(
        model="demo", input="write a loop", max_output_tokens=24, stream=True, extra_body={"seed": 5}, text={"format": {"type": "text"}}
    )
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.output_text == chat.choices[0].message.content


def test_speculation_is_used_and_reported(serving: Serving) -> None:
    on = serving.complete(prompt=PROMPT, max_tokens=64, temperature=0, speculation={"mode": "fixed", "nodes": 8, "depth": 4})
    usage = on["usage"]["speculation"]
    assert usage["drafted"] >= usage["verified"] > 0
    assert usage["accepted"] > 0
    assert usage["steps"] + usage["accepted"] >= 64
    off = serving.complete(prompt=PROMPT, max_tokens=64, temperature=0, speculation={"mode": "off"})
    assert off["usage"]["speculation"] == {"drafted": 0, "verified": 0, "accepted": 0, "steps": 64, "attempts": 1}


def test_stop_strings_and_lists_of_prompts(serving: Serving) -> None:
    whole = serving.complete(prompt=PROMPT, max_tokens=60, temperature=0)["choices"][0]["text"]
    stop = whole[20:24]
    cut = serving.complete(prompt=PROMPT, max_tokens=60, temperature=0, stop=[stop])["choices"][0]
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"
    several = serving.complete(prompt=[PROMPT, "import os\n"], max_tokens=8, temperature=0)["choices"]
    assert [choice["index"] for choice in several] == [0, 1]
    assert several[0]["text"] == whole[: len(several[0]["text"])]


def test_grpc_client_made_from_the_published_proto(serving: Serving, tmp_path: pathlib.Path) -> None:
    """The stubs are compiled here from protos/inference.proto, as a user would."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*command, "protos/inference.proto"], check=True)
    script = tmp_path / "client.py"
    script.write_text(
        f"""
import grpc
from protos import inference_pb2 as pb, inference_pb2_grpc as rpc
assert pb.__file__.startswith({str(tmp_path)!r}), pb.__file__
stub = rpc.InferenceStub(grpc.insecure_channel("127.0.0.1:{serving.grpc_port}"))
request = pb.GenerateRequest(model="demo", prompt={PROMPT!r}, max_tokens=32, temperature=0)
whole = stub.Generate(request, timeout=60)
chunks = list(stub.GenerateStream(request, timeout=60))
assert "".join(c.text for c in chunks) == whole.text, (whole.text, chunks)
assert [t for c in chunks for t in c.tokens] == list(whole.tokens) and len(whole.tokens) == 32
assert chunks[-1].finish_reason == whole.finish_reason == "length" and len(chunks) > 3
print("agreed")
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout == "agreed\n", done.stderr


def test_grpc_errors_and_reflection(serving: Serving) -> None:
    from protos import inference_pb2 as pb
    from protos import inference_pb2_grpc as rpc

    with grpc.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        stub = rpc.InferenceStub(channel)
        cases = [
            (pb.GenerateRequest(model="other", prompt="x"), grpc.StatusCode.NOT_FOUND, "other"),
            (pb.GenerateRequest(model="demo", prompt=""), grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
            (pb.GenerateRequest(model="demo", prompt="x", top_p=7), grpc.StatusCode.INVALID_ARGUMENT, "top_p"),
        ]
        for bad, code, words in cases:
            with pytest.raises(grpc.RpcError) as caught:
                stub.Generate(bad, timeout=30)
            assert caught.value.code() == code
            assert words in caught.value.details()
            rich = Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
            assert (rich.code, rich.message) == (code.value[0], caught.value.details())


def test_further_methods_over_grpc_and_health_pass_serves_ingress(serving: Serving) -> None:
    from protos import inference_pb2 as pb
    from protos import inference_pb2_grpc as rpc

    with grpc.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        stub, health = rpc.InferenceStub(channel), health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING
        ids = stub.Tokenize(pb.TokenizeRequest(prompt=PROMPT), timeout=30).tokens
        assert stub.Detokenize(pb.DetokenizeRequest(tokens=ids), timeout=30).prompt.endswith(PROMPT)
        assert [card.id for card in stub.ListModels(pb.ListModelsRequest(), timeout=30).data] == ["demo"]


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({"model": "nope", "prompt": "x"}, 404, "model", "nope"),
        ({"prompt": ""}, 400, "prompt", "empty"),
        ({"prompt": "x", "max_tokens": -5}, 400, "max_tokens", ""),
        ({"prompt": "x", "temperature": "hot"}, 400, "temperature", ""),
        ({"prompt": "x", "temperature": -1}, 400, "temperature", "-1"),
        ({"prompt": "x", "top_p": 1.5}, 400, "top_p", "1.5"),
        ({"prompt": "x", "speculation": {"mode": "sometimes"}}, 400, "speculation.mode", "'fixed'"),
        ({"prompt": "x", "surprise": 1}, 400, "surprise", ""),
        ({"prompt": [99999]}, 400, "prompt", "99999"),
    ],
)
def test_bad_input_is_named_and_nothing_else_breaks(serving: Serving, body: dict[str, Any], status: int, param: str, words: str) -> None:
    answer = httpx.post(f"{serving.url}/v1/completions", json={"model": "demo", **body}, timeout=30)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert serving.complete(prompt=PROMPT, max_tokens=4, temperature=0)["usage"]["completion_tokens"] == 4


def test_cluster_page_and_dashboard_show_all_roles(serving: Serving) -> None:
    pools = serving.cluster()["pools"]
    assert {role: len(pools[role]) for role in ("gateway", "verifier", "drafter")} == {"gateway": 1, "verifier": 1, "drafter": 1}
    pids = {replica["pid"] for pool in pools.values() for replica in pool}
    assert len(pids) == 3, "each role is its own process"
    applications = httpx.get(f"{serving.dashboard_url}/api/serve/applications/", timeout=30).json()["applications"]
    assert set(applications["drafthouse"]["deployments"]) == {"Gateway", "VerifierReplica", "DrafterReplica", "ControllerReplica"}


def test_client_that_goes_away_frees_everything(serving: Serving) -> None:
    with httpx.stream(
        "POST", f"{serving.url}/v1/completions", json={"model": "demo", "prompt": PROMPT, "max_tokens": 900, "stream": True}, timeout=60
    ) as answer:
        next(answer.iter_lines())
    gauge = lambda role, name: serving.cluster()["pools"][role][0]["gauges"][name]  # noqa: E731
    serving.until(lambda: gauge("verifier", "kv_slots_used") == 0, "KV slots of the verifier are free", 20)
    serving.until(lambda: gauge("drafter", "kv_slots_used") == 0, "KV slots of the drafter are free", 20)


def test_drafter_killed_while_it_serves_costs_nothing_but_speed(serving: Serving) -> None:
    """Last in this module: the drafter that Serve starts instead has another process id."""
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 600, "temperature": 0, "stream": True, "stop": ["\x00never"]}
    want = serving.complete(**{**body, "stream": False})["choices"][0]["text"]
    before = serving.pids("drafter")
    text, killed = "", False
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none").completions.create(**body) as stream:  # type: ignore[call-overload]
        for chunk in stream:
            text += chunk.choices[0].text if chunk.choices else ""
            if not killed and len(text) > 50:
                os.kill(before[0], signal.SIGKILL)
                killed = True
    assert killed
    assert text == want
    serving.until(lambda: len(serving.pids("drafter")) == 1 and serving.pids("drafter") != before, "a new drafter", 90)
    again = lambda: serving.complete(prompt=PROMPT, max_tokens=64, temperature=0)["usage"]["speculation"]["accepted"]  # noqa: E731
    serving.until(lambda: again() > 0, "drafts are accepted again", 30)
