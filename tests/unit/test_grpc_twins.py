"""Every field of the HTTP API has its twin over gRPC, or stands here with the reason."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from pydantic import BaseModel

from deployments.api.openai import answers, status
from deployments.api.openai.body import models_in
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.schema import CompletionRequest
from deployments.api.openai.text_schema import DetokenizeRequest, Text, TokenizeRequest, Tokens
from protos import inference_pb2 as pb

ONE_VALUE = "has one value"
NOT_SERVED = "is refused over HTTP, unless it asks for nothing"
BY_RPC = "there is a method for it"
ONE_OUTPUT = "a call has one output: calls share their connection, and a client can give each its seed"
NOTHING = "is taken over HTTP since OpenAI's clients send it, and does nothing"
IDS = "over gRPC tokens are ids; Detokenize has their text"
CHOICES = "the one choice is the reply itself"

REQUESTS = {
    "n": ONE_OUTPUT, "best_of": ONE_OUTPUT,
    "stream": BY_RPC,
    "stream_options": "usage is always in the last chunk",
    "stream_options.include_usage": "the same",
    "stream_options.continuous_usage_stats": "each chunk has its tokens, which a client can count",
    "stream_options.include_trace": "speculation.trace",
    "stream_options.include_obfuscation": NOTHING,
    "user": NOTHING, "metadata": NOTHING, "store": NOTHING, "service_tier": NOTHING, "safety_identifier": NOTHING,
    "prompt_cache_key": NOTHING,
    "suffix": NOT_SERVED, "functions": NOT_SERVED, "function_call": NOT_SERVED, "modalities": NOT_SERVED,
    "audio": NOT_SERVED, "web_search_options": NOT_SERVED,
    "messages.refusal": NOT_SERVED, "messages.function_call": NOT_SERVED, "messages.annotations": NOT_SERVED, "messages.audio": NOT_SERVED,
    "messages.content.type": ONE_VALUE, "messages.tool_calls.type": ONE_VALUE, "tools.type": ONE_VALUE, "tool_choice.type": ONE_VALUE,
    "prediction.type": ONE_VALUE, "prediction.content.type": ONE_VALUE,
    "messages.content.text": "messages.parts.text",
    "prediction.content.text": "a prediction is one text",
    "max_completion_tokens": "max_tokens",
    "top_logprobs": "logprobs is a number",
} | {
    f"{where}.cache_control{field}": NOTHING
    for where in ("messages", "messages.content", "tools", "prediction.content")
    for field in ("", ".type", ".scope", ".ttl")
}  # fmt: skip
"""Paths of HTTP's fields: where the twin is, or why there is none."""

ANSWERS = {
    "object": ONE_VALUE, "created": "a client has a clock", "model": "the request has it", "role": ONE_VALUE, "type": ONE_VALUE,
    "owned_by": ONE_VALUE, "context_length": "max_model_len",
    "choices": CHOICES, "index": CHOICES, "message": CHOICES, "delta": CHOICES, "content": "text",
    "metrics": "usage.acceptance_histogram, and what follows from it",
    "usage.prompt_tokens_details": "its fields stand in usage", "usage.completion_tokens_details": "its fields stand in usage",
    "usage.speculation": "its fields stand in usage",
    "bytes": IDS, "text_offset": IDS, "token_logprobs": "logprobs", "tokens": "logprobs", "decoded_token": IDS,
}  # fmt: skip


def paths(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        yield before + name
        for inner in models_in(field.annotation):
            yield from paths(inner, f"{before}{name}.")


def message_paths(message: Descriptor, before: str = "") -> Iterator[str]:
    for field in message.fields:
        yield before + field.name
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            yield from message_paths(field.message_type, f"{before}{field.name}.")


def lacking(message: Any, *models: type[BaseModel]) -> set[str]:
    return {path for model in models for path in paths(model)} - set(message_paths(message.DESCRIPTOR))


def test_every_field_of_a_generation_has_a_twin_or_a_reason():
    assert lacking(pb.GenerateRequest, CompletionRequest, ChatRequest) == set(REQUESTS)


@pytest.mark.parametrize(("message", "model"), [(pb.TokenizeRequest, TokenizeRequest), (pb.DetokenizeRequest, DetokenizeRequest)])
def test_every_field_of_the_tokenizers_routes_has_a_twin_or_a_reason(message, model):
    assert lacking(message, model) <= set(REQUESTS)


@pytest.mark.parametrize(
    ("message", "model"),
    [
        (pb.TokenizeResponse, Tokens),
        (pb.DetokenizeResponse, Text),
        (pb.ListModelsResponse, status.ModelList),
        (pb.ModelCard, status.ModelCard),
        (pb.Usage, answers.SpeculationCounts),
        (pb.Usage, answers.PromptTokensDetails),
        (pb.Usage, answers.CompletionTokensDetails),
        (pb.ToolCall, answers.ToolCall),
    ],
)
def test_every_field_of_an_answer_has_a_twin(message, model):
    assert {path for path in lacking(message, model) if path.rpartition(".")[2] not in ANSWERS} == set()


@pytest.mark.parametrize("message", [pb.GenerateResponse, pb.GenerateChunk])
def test_every_field_of_a_generations_answer_has_a_twin(message):
    names = {field.name for field in message.DESCRIPTOR.fields}
    usage = {f"usage.{name}" for name in message_paths(pb.Usage.DESCRIPTOR)}
    for model in (answers.Response, answers.CompletionChoice, answers.ChatChoice, answers.Message):
        own = set(model.model_fields) - names
        assert own <= set(ANSWERS), model
    assert {f"usage.{name}" for name in answers.Usage.model_fields} - usage <= set(ANSWERS)
