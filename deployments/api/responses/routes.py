"""/v1/responses: OpenAI's newer form of a chat, over the same path as /v1/chat/completions.

Promises: those of `answering`. FastAPI reads the annotations of this route, so they must not be postponed here.
"""

from dataclasses import replace
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import Response

from deployments.api.answering import answer
from deployments.api.openai.body import parse_body
from deployments.api.openai.chat_schema import ChatRequest
from deployments.api.openai.client_limit import arrival_of
from deployments.api.openai.openapi import RESPONSE_RESPONSES, json_body
from deployments.api.openai.text_routes import Read
from deployments.api.responses.chat_request import chat_request
from deployments.api.responses.form import ResponsesForm
from deployments.api.responses.schema import ResponsesRequest
from deployments.api.responses.truncation import plan_that_fits
from deployments.gateway.inference_service import InferenceService
from deployments.gateway.request_planner import RequestPlan, RequestPlanner


def add_responses(app: FastAPI, service: InferenceService, read: Read, keep_alive_s: float) -> None:
    """`read` gives (bytes, validated body) of a request."""
    planner = service.planner

    @app.post("/v1/responses", responses=RESPONSE_RESPONSES, openapi_extra=json_body(ResponsesRequest))
    async def responses(request: Request) -> Response:
        """The model's answer to an input, whole or as it is committed."""
        size, body = await read(request, ResponsesRequest)
        plan, deltas = await arrival_of(request).begin(lambda: plan_of(planner, body), size)
        form = ResponsesForm(body, plan, planner.model, planner.codec.token_bytes)
        return await answer(request, plan, deltas, form, bool(body.stream), keep_alive_s)


def plan_of(planner: RequestPlanner, body: ResponsesRequest) -> RequestPlan:
    """Raises RequestError under the names of `body`."""
    if body.truncation != "auto" or isinstance(body.input, str):
        return _planned(planner, body)
    return plan_that_fits(partial(_planned, planner, body), body.input, max(1, body.max_output_tokens or 1))


def _planned(planner: RequestPlanner, body: ResponsesRequest, left_out: int = 0) -> RequestPlan:
    chat, names = chat_request(body, left_out)
    with names.named():
        plan = planner.chat(parse_body(ChatRequest, chat, ignore_unknown=planner.api.unknown_fields == "ignore"), "resp")
    return replace(plan, notes=tuple(map(names.said, plan.notes)), named=names.named)
