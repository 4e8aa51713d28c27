"""Logprobs, echo and continuous usage over HTTP and gRPC, in front of a verifier's double; and what becomes of them when one fails."""

import asyncio
from dataclasses import replace

import pytest

from deployments.api.grpc.inference import InferenceApi
from deployments.api.openai.logprobs import LEAST, name_of
from deployments.gateway.verifier_link import NoVerifierError
from drafthouse.token_logprobs import LogprobsWish
from drafthouse.wire.dialect import OURS
from protos import inference_pb2 as pb
from tests.unit.byte_tokenizer import END, codec
from tests.unit.grpc_gateway import Context
from tests.unit.linked import REQUEST, collect, linked
from tests.unit.openai_gateway import CHAT, COMPLETION, IDS, TEXT, events, gateway, request
from tests.unit.scoring_double import Scoring, logprob_of
from tests.unit.verifier_double import cut_at

PROMPT = tuple(codec().encode("hello"))
NAMES = [name_of(token, codec().token_bytes) for token in IDS]


def scoring(name: str = "a", **options) -> Scoring:
    return Scoring(name, tokens=lambda r: IDS[: r.max_tokens], says=OURS.metadata(), **options)


def post(path: str, body: dict) -> dict:
    response = request(path, body, verifier=scoring())
    assert response.status_code == 200, response.text
    return response.json()


def test_completions_form():
    (choice,) = post("/v1/completions", COMPLETION | {"logprobs": 2})["choices"]
    found = choice["logprobs"]
    assert choice["text"] == TEXT
    assert found["tokens"] == NAMES
    assert found["token_logprobs"] == [-token - 0.5 for token in IDS]
    assert found["top_logprobs"][0] == {name_of(7, codec().token_bytes): -IDS[0] - 0.25, NAMES[0]: -IDS[0] - 0.5}
    for i, offset in enumerate(found["text_offset"]):
        assert TEXT[:offset] == codec()._backend.decode(IDS[:i]).rstrip("\ufffd")
    (choice,) = post("/v1/completions", COMPLETION | {"logprobs": 0})["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{name: -token - 0.5} for name, token in zip(NAMES, IDS, strict=True)]
    assert post("/v1/completions", COMPLETION)["choices"][0]["logprobs"] is None


def test_chat_form():
    (choice,) = post("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 3})["choices"]
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert b"".join(bytes(each["bytes"]) for each in content).decode() == TEXT
    assert [(each["token"], each["logprob"]) for each in content] == [(n, -t - 0.5) for n, t in zip(NAMES, IDS, strict=True)]
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-IDS[0] - 0.25 * (i + 1) for i in range(3)]
    (choice,) = post("/v1/chat/completions", CHAT | {"logprobs": True})["choices"]
    assert all(each["top_logprobs"] == [] for each in choice["logprobs"]["content"])


@pytest.mark.parametrize("stop", [None, "return"])
def test_streams_tell_the_same_logprobs(stop):
    chat = CHAT | {"logprobs": True, "top_logprobs": 1, "stop": stop}
    whole = post("/v1/chat/completions", chat)["choices"][0]["logprobs"]["content"]
    found = events(request("/v1/chat/completions", chat | {"stream": True}, verifier=scoring()))
    pieces = [event["choices"][0]["logprobs"] for event in found]
    assert [each for piece in pieces if piece for each in piece["content"]] == whole
    plain = COMPLETION | {"logprobs": 1, "stop": stop, "echo": True}
    whole = post("/v1/completions", plain)["choices"][0]
    found = [event["choices"][0] for event in events(request("/v1/completions", plain | {"stream": True}, verifier=scoring()))]
    assert "".join(choice["text"] for choice in found) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [value for choice in found for value in choice["logprobs"][name]] == values


def test_echo():
    body = COMPLETION | {"max_tokens": 3, "echo": True}
    (choice,) = post("/v1/completions", body)["choices"]
    assert choice["text"] == "hello" + codec().text_of(IDS[:3])
    (choice,) = post("/v1/completions", body | {"logprobs": 1, "n": 1})["choices"]
    found = choice["logprobs"]
    assert len(found["tokens"]) == len(PROMPT) + 3
    assert found["token_logprobs"] == [None, *(-token - 0.5 for token in (*PROMPT[1:], *IDS[:3]))]
    assert found["top_logprobs"][0] is None
    assert found["text_offset"][len(PROMPT)] == len("hello")
    assert "prompt_logprobs" not in choice
    choices = post("/v1/completions", body | {"prompt": ["hello", "a"], "n": 2})["choices"]
    assert [choice["text"][:2] for choice in choices] == ["he", "he", "ad", "ad"]


def test_what_lm_eval_sends_and_reads():
    """Of its `local-completions`: token ids with all of them scored, of which it cuts off the context and the one token that comes."""
    ids, context = list(PROMPT), 2
    body = {"model": "demo", "prompt": [ids], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    (choice,) = post("/v1/completions", body)["choices"]
    values, top = (choice["logprobs"][name][context:-1] for name in ("token_logprobs", "top_logprobs"))
    assert values == [-token - 0.5 for token in ids[context:]]
    assert [max(each.values()) for each in top] == [-token - 0.25 for token in ids[context:]]
    stop = ["\n", END]  # it adds the tokenizer's end-of-text token to the task's own
    generation = {"model": "demo", "prompt": [ids], "max_tokens": 16, "temperature": 0, "stop": stop, "seed": 1234}
    (choice,) = post("/v1/completions", generation)["choices"]
    assert choice["text"] == TEXT.split("\n")[0]


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
def test_prompt_logprobs_as_vllm_tells_them(path, body):
    verifier = scoring()
    whole = request(path, body | {"prompt_logprobs": 2}, verifier=verifier).json()
    prompt = verifier.seen[0].prompt
    found = (whole if "chat" in path else whole["choices"][0])["prompt_logprobs"]
    assert found[0] is None
    assert len(found) == len(prompt)
    for token, each in zip(prompt[1:], found[1:], strict=True):
        assert each[str(token)] == {"logprob": -token - 0.5, "rank": 2, "decoded_token": name_of(token, codec().token_bytes)}
        assert each["7"]["rank"] == 1 or token == 7


def test_a_token_that_could_not_be_chosen_is_a_number_in_json():
    class Never(Scoring):
        def reply(self, r, index, output):
            plain = super().reply(r, index, output)
            return replace(plain, logprobs=tuple(replace(each, logprob=float("-inf")) for each in plain.logprobs))

    verifier = Never("a", tokens=lambda r: IDS, says=OURS.metadata())
    whole = request("/v1/completions", COMPLETION | {"logprobs": 0, "logprobs_mode": "processed_logprobs"}, verifier=verifier)
    assert set(whole.json()["choices"][0]["logprobs"]["token_logprobs"]) == {LEAST}


def test_names_of_tokens_differ():
    size = codec()._backend.get_vocab_size()
    names = {name_of(token, codec().token_bytes) for token in range(size)}
    assert len(names) == size
    assert END in names
    assert any(name.startswith("bytes:\\x") for name in names)


def test_continuous_usage():
    body = COMPLETION | {"stream": True, "n": 2, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    found = events(request("/v1/completions", body, verifier=scoring()))
    counts = [event["usage"]["completion_tokens"] for event in found]
    assert counts == sorted(counts)
    assert counts[-1] == 2 * len(IDS) > counts[0] > 0
    assert found[-1]["choices"] == []
    assert all(event["usage"]["prompt_tokens"] == len(PROMPT) for event in found)


def test_over_grpc():
    async def call(message):
        async with gateway(scoring()) as (_, service):
            api, data = InferenceApi(service), message.SerializeToString()
            return await api.generate(data, Context()), [chunk async for chunk in api.stream(data, Context())]

    message = pb.GenerateRequest(model="demo", prompt="hello", max_tokens=4, logprobs=2, prompt_logprobs=1, echo=True)
    whole, chunks = asyncio.run(call(message))
    assert whole.text == "hello" + codec().text_of(IDS[:4]) == "".join(chunk.text for chunk in chunks)
    assert [(each.token, each.logprob, each.rank, list(each.top_tokens)) for each in whole.logprobs] == [
        (token, -token - 0.5, 2, [7, token]) for token in IDS[:4]
    ]
    assert [(each.token, each.logprob) for each in whole.prompt_logprobs] == [(token, -token - 0.5) for token in PROMPT[1:]]
    assert [each for chunk in chunks for each in chunk.logprobs] == list(whole.logprobs)
    assert [each for chunk in chunks for each in chunk.prompt_logprobs] == list(whole.prompt_logprobs)


LONG = tuple(codec().encode("hello (a, b)!"))
ASKED = replace(REQUEST, prompt=LONG, max_tokens=9, logprobs=LogprobsWish(1, 2))


@pytest.mark.parametrize("cut", [0, 4])
def test_after_a_failover_each_logprob_is_told_once(cut):
    async def run():
        first, second = scoring("first", before=cut_at(cut)), scoring("second", load=5)
        async with linked(first, second) as link:
            replies = await collect(link, ASKED)
        return replies, first.seen, second.seen

    replies, _, [resumed] = asyncio.run(run())
    assert (len(resumed.delivered), resumed.scored) == (cut, len(LONG))
    assert [each for reply in replies for each in reply.logprobs] == [logprob_of(token, 1) for token in IDS[:9]]
    assert [each for reply in replies for each in reply.prompt_logprobs] == [logprob_of(token, 2) for token in LONG[1:]]


def test_a_failover_in_the_middle_of_the_prompt():
    class Half(Scoring):
        async def _serve(self, r, served) -> None:
            await served.write(self.pieces(r)[0])
            await served.cut()

    async def run():
        first = Half("first", says=OURS.metadata())
        second = scoring("second", load=5)
        async with linked(first, second) as link:
            return await collect(link, ASKED), second.seen

    replies, [resumed] = asyncio.run(run())
    assert resumed.scored == 3
    assert [each for reply in replies for each in reply.prompt_logprobs] == [logprob_of(token, 2) for token in LONG[1:]]


@pytest.mark.parametrize("lacking", ["logprobs", "prompt_logprobs"])
def test_a_verifier_that_leaves_logprobs_out_is_left(lacking):
    class Lacking(Scoring):
        def pieces(self, r):
            return super().pieces(r) if lacking == "logprobs" else []

        def reply(self, r, index, output):
            return replace(super().reply(r, index, output), logprobs=()) if lacking == "logprobs" else super().reply(r, index, output)

    async def run():
        async with linked(Lacking("a", tokens=lambda r: IDS, says=OURS.metadata())) as link:
            await collect(link, ASKED)

    with pytest.raises(NoVerifierError, match="logprobs"):
        asyncio.run(run())
