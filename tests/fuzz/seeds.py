"""Valid messages of each port, from which others are made."""

from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest

from protos import dataplane_pb2 as data
from protos import inference_pb2 as public

PROMPT = "def add(a, b):\n"
IDS = (5, 6, 7, 8, 9)
MOST_TOKENS = 4
LONG = 400
"""Tokens of a request whose stream ends before it does."""

SAMPLING = data.Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.1)
GREEDY = data.Sampling(temperature=0.0, top_p=1.0, repetition_penalty=1.0)
NAMES = ("a", "b", "c")
"""Few, so that messages meet each other's requests and sessions."""


def by_method(model: str) -> Mapping[str, Sequence[Message]]:
    """For the gateway's gRPC port."""
    tokenize = [
        public.TokenizeRequest(model=model, prompt=PROMPT, add_special_tokens=True, return_token_strs=True),
        public.TokenizeRequest(model=model, messages=chats(model)[0].messages),
    ]
    methods: dict[str, Sequence[Message]] = {
        "Generate": generations(model), "GenerateStream": generations(model), "Tokenize": tokenize,
        "Detokenize": [public.DetokenizeRequest(model=model, tokens=IDS)], "ListModels": [public.ListModelsRequest()],
    }  # fmt: skip
    health = [HealthCheckRequest(), HealthCheckRequest(service="drafthouse.v1.Inference")]
    return {f"/drafthouse.v1.Inference/{name}": seeds for name, seeds in methods.items()} | {"/grpc.health.v1.Health/Check": health}


def chats(model: str) -> list[public.GenerateRequest]:
    call = public.ToolCall(id="c1", function=public.CalledFunction(name="weather", arguments='{"city": "Bonn"}'))
    messages = [
        public.ChatMessage(role="user", name="ann", parts=[public.TextPart(text="hello"), public.TextPart(text="you")]),
        public.ChatMessage(role="assistant", content="I look.", reasoning_content="Hm.", tool_calls=[call]),
        public.ChatMessage(role="tool", tool_call_id="c1", content="rain"),
    ]
    schema = '{"type": "object", "properties": {"city": {"type": "string"}}}'
    tools = [public.Tool(function=public.FunctionDefinition(name="weather", description="of a city", parameters=schema, strict=True))]
    form = public.ResponseFormat(type="json_schema", json_schema=public.JsonSchema(name="a", schema='{"type": "integer"}'))
    hello = public.ChatMessage(role="user", content="hello")
    plain = public.GenerateRequest(model=model, messages=[hello], max_tokens=2, response_format=form)
    calling = public.GenerateRequest(
        model=model, messages=messages, tools=tools, tool_choice=public.ToolChoice(mode="none"), parallel_tool_calls=False,
        add_generation_prompt=True, chat_template_kwargs="{}", max_tokens=2, prediction=public.Prediction(content="rain"), verbosity="low",
    )  # fmt: skip
    named = public.ToolChoice(function=public.NamedFunction(name="weather"))
    wishing = public.GenerateRequest(
        model=model, messages=messages[:1], tools=tools, tool_choice=named, reasoning_effort="low", thinking_token_budget=2,
        continue_final_message=True, logprobs=1, structured_outputs=public.StructuredOutputs(choice=["a", "b"]),
    )  # fmt: skip
    return [plain, calling, wishing]


def generations(model: str) -> list[public.GenerateRequest]:
    full = public.GenerateRequest(
        model=model, prompt=PROMPT, max_tokens=MOST_TOKENS, temperature=0.8, top_p=0.9, top_k=5, min_p=0.01, repetition_penalty=1.1,
        seed=7, stop=["\n\n", "x"], speculation=public.Speculation(mode="fixed", nodes=8, depth=4, width=2), ignore_eos=True,
    )  # fmt: skip
    ids = public.GenerateRequest(
        model=model, prompt_tokens=public.TokenIds(ids=IDS), max_tokens=2, speculation=public.Speculation(mode="off")
    )
    return [public.GenerateRequest(model=model, prompt=PROMPT, max_tokens=1), full, ids, *chats(model)]


def from_gateways() -> list[data.FromGateway]:
    """For a verifier's port."""
    starts = [
        data.GenerateRequest(
            request_id=name, attempt=attempt, prompt=IDS, delivered=IDS[:attempt], sampling=sampling, seed=3,
            max_tokens=LONG if attempt else MOST_TOKENS,
            stop_tokens=[0], speculation=data.Speculation(mode=mode, nodes=8, depth=4), cache_key=name, resumed=attempt > 0,
        )
        for name, attempt, sampling, mode in (("a", 0, GREEDY, "auto"), ("b", 1, SAMPLING, "fixed"), ("c", 2, GREEDY, "off"))
    ]  # fmt: skip
    cancels = [data.Cancel(request_id=start.request_id, attempt=start.attempt) for start in starts]
    return [
        data.FromGateway(),
        *(data.FromGateway(starts=[start]) for start in starts),
        data.FromGateway(starts=starts, cancels=cancels[:1]),
        data.FromGateway(cancels=cancels),
    ]


def from_verifiers(vocab_size: int) -> list[data.ToDrafter]:
    """For a drafter's port."""
    opens = [
        data.Open(
            session_id=name, epoch=1, tokens=IDS, sampling=sampling, seed=3, noise_version=1, target_fingerprint="f", max_nodes=8,
            max_depth=4, min_confidence=0.01, vocab_size=vocab_size, width=2, cache_key=name,
        )
        for name, sampling in (("a", GREEDY), ("b", SAMPLING), ("c", GREEDY))
    ]  # fmt: skip
    commits = [data.Commit(session_id=name, epoch=1, base_len=len(IDS), tokens=[9, 8], min_confidence=0.02) for name in NAMES]
    commits.append(data.Commit(session_id="a", epoch=1, base_len=len(IDS) + 2, tokens=[7], states=bytes(64)))
    closes = [data.Close(session_id=name, epoch=1, finished=name == "a") for name in NAMES]
    holds = [data.Hold(session_id=name, epoch=1) for name in NAMES]
    return [
        data.ToDrafter(verifier="v", echo_us=1),
        *(data.ToDrafter(verifier="v", messages=[data.DrafterMessage(open=opened)]) for opened in opens),
        *(data.ToDrafter(verifier="v", messages=[data.DrafterMessage(commit=commit)]) for commit in commits),
        data.ToDrafter(messages=[data.DrafterMessage(hold=hold) for hold in holds]),
        data.ToDrafter(messages=[data.DrafterMessage(open=opened) for opened in opens] + [data.DrafterMessage(commit=commits[0])]),
        data.ToDrafter(messages=[data.DrafterMessage(close=close) for close in closes]),
    ]
