"""/tokenize and /detokenize: the target's tokenizer over HTTP.

Promises: ids are those that the generation routes would make of the same prompt or messages; work runs off the event loop. FastAPI reads
the annotations of these routes, so they must not be postponed here.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from deployments.api.openai.client_limit import arrival_of
from deployments.api.openai.openapi import errors_of, json_body
from deployments.api.openai.text_schema import DetokenizeRequest, Text, TokenizeRequest, Tokens
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import RequestPlanner

Read = Callable[[Request, type[Any]], Awaitable[tuple[int, Any]]]

ERRORS = errors_of(400, 404, 408, 413, 415, 429, 500)


def add_text_routes(app: FastAPI, service: InferenceService, read: Read) -> None:
    """`read` gives (bytes, validated body) of a request."""
    planner = service.planner

    @app.post("/tokenize", responses={200: {"model": Tokens}, **ERRORS}, openapi_extra=json_body(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """The token ids of a prompt or of messages."""
        size, body = await read(request, TokenizeRequest)
        data = await service.made(lambda: tokens_of(planner, body).model_dump_json(), size, arrival_of(request).cache_key)
        return Response(data, media_type="application/json")

    @app.post("/detokenize", responses=ERRORS, openapi_extra=json_body(DetokenizeRequest))
    async def detokenize(request: Request) -> Text:
        """The text of token ids."""
        size, body = await read(request, DetokenizeRequest)
        return await service.made(lambda: text_of(planner, body), size, arrival_of(request).cache_key)


def text_of(planner: RequestPlanner, body: DetokenizeRequest) -> Text:
    """Raises RequestError."""
    planner.check_ids(body.tokens, "tokens")
    return Text(prompt=planner.codec.decode(body.tokens))


def tokens_of(planner: RequestPlanner, body: TokenizeRequest) -> Tokens:
    """Raises RequestError."""
    ids = _ids(planner, body)
    strings = planner.codec.token_strings(ids) if body.return_token_strs else None
    return Tokens(count=len(ids), max_model_len=planner.metadata.context_tokens, tokens=ids, token_strs=strings)


def _ids(planner: RequestPlanner, body: TokenizeRequest) -> list[int]:
    if body.messages is None:
        text = body.prompt or ""
        planner.check_chars(len(text), "prompt")
        return planner.codec.encode(text, body.add_special_tokens)
    planner.check_chars(sum(message.chars() for message in body.messages), "messages")
    return planner.codec.encode_chat([message.plain() for message in body.messages])
