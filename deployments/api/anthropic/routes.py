"""/v1/messages and /v1/messages/count_tokens: Anthropic's Messages, served as chats.

FastAPI reads the annotations of these routes, so they must not be postponed here.
"""

from dataclasses import replace

from fastapi import FastAPI, Request
from fastapi.responses import Response

from deployments.api.answering import answer
from deployments.api.anthropic.answers import Message, TokenCount
from deployments.api.anthropic.chat_body import chat_request
from deployments.api.anthropic.errors import MessagesErrorBody
from deployments.api.anthropic.message_form import MessageForm
from deployments.api.anthropic.schema import CountTokensRequest, MessagesRequest, PromptBody
from deployments.api.openai.client_limit import arrival_of
from deployments.api.openai.openapi import errors_of, generation_responses, json_body
from deployments.api.openai.responses import count_of
from deployments.api.openai.text_routes import Read
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import RequestPlan, RequestPlanner

ERRORS = errors_of(400, 404, 408, 413, 415, 429, 500, kind=MessagesErrorBody)
EVENT = {"type": "object", "required": ["event", "data"], "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
RESPONSES = generation_responses(Message, EVENT, "the message", MessagesErrorBody)


def add_messages(app: FastAPI, service: InferenceService, read: Read, keep_alive_s: float) -> None:
    """`read` gives (bytes, validated body) of a request."""
    planner = service.planner

    @app.post("/v1/messages", responses=RESPONSES, openapi_extra=json_body(MessagesRequest))
    async def messages(request: Request) -> Response:
        """The next message, whole or as it is committed: Anthropic's form."""
        size, body = await read(request, MessagesRequest)
        plan, deltas = await arrival_of(request).begin(lambda: planned(planner, body), size)
        omit = body.thinking is not None and body.thinking.display == "omitted"
        form = MessageForm(plan, planner.model, count_of(plan), omit)
        return await answer(request, plan, deltas, form, bool(body.stream), keep_alive_s)

    @app.post("/v1/messages/count_tokens", responses=ERRORS, openapi_extra=json_body(CountTokensRequest))
    async def count_tokens(request: Request) -> TokenCount:
        """The tokens of the prompt that the same messages would make."""
        size, body = await read(request, CountTokensRequest)
        return TokenCount(input_tokens=await service.made(lambda: prompt_tokens(planner, body), size, arrival_of(request).cache_key))


def planned(planner: RequestPlanner, body: MessagesRequest) -> RequestPlan:
    """Raises RequestError under the client's own names."""
    chat, names = chat_request(body, planner.codec.chat_template.reads)
    with names.named():
        return replace(planner.chat(chat, kind="msg"), named=names.named)


def prompt_tokens(planner: RequestPlanner, body: PromptBody) -> int:
    """Raises RequestError under the client's own names."""
    chat, names = chat_request(body, planner.codec.chat_template.reads)
    with names.named():
        return len(planner.read_chat(chat)[0])
