"""What Generate and GenerateStream answer, made from a plan and its deltas.

Promises: the chunks of a stream add up to the whole answer; usage and calls are counted and named as over HTTP.
"""

from collections.abc import Iterable, Sequence

from deployments.api.openai.responses import Output, UsageCount, count_of
from deployments.api.trace_form import TraceForm
from deployments.gateway.request_planner import RequestPlan
from deployments.gateway.text_stream import TextDelta
from deployments.parsers.parsed import CallDelta, join_calls
from drafthouse.token_logprobs import TokenLogprob
from drafthouse.wire.step_trace import StepTrace
from protos import inference_pb2 as pb

DETAILS = ("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens", "forced_tokens")


class Replies:
    """To one request, whose one output its deltas are."""

    def __init__(self, plan: RequestPlan) -> None:
        self._plan = plan
        self._count: UsageCount = count_of(plan)
        self._scored = 0  # prompt tokens whose logprobs have been told, after the first one
        self._echo, self._notes = "".join(plan.echoes), plan.notes
        self._form = TraceForm(plan.format.token_bytes)

    def chunk(self, delta: TextDelta) -> pb.GenerateChunk:
        self._count.add(0, delta)
        prompt = self._plan.requests[0].prompt[1 + self._scored :] if delta.prompt_logprobs else ()
        chunk = pb.GenerateChunk(
            id=self._plan.id, text=self._echo + delta.text, tokens=delta.tokens, first_token_index=delta.first_token_index,
            attempt=delta.attempt, finish_reason=delta.finish_reason, seed=self._plan.seed,
            logprobs=logprobs(delta.tokens, delta.logprobs), prompt_logprobs=logprobs(prompt, delta.prompt_logprobs),
            reasoning_content=delta.reasoning, tool_calls=self._calls(delta.calls), notes=self._notes,
            usage=usage_of(self._count) if delta.finish_reason else None, trace=self._trace(delta.trace),
        )  # fmt: skip
        self._scored += len(delta.prompt_logprobs)
        self._echo, self._notes = "", ()
        return chunk

    def count(self, delta: TextDelta) -> None:
        """For a whole answer."""
        self._count.add(0, delta)

    def whole(self, output: Output) -> pb.GenerateResponse:
        return pb.GenerateResponse(
            id=self._plan.id, text=self._echo + "".join(output.text), tokens=output.tokens, finish_reason=output.finish_reason,
            usage=usage_of(self._count), seed=self._plan.seed, logprobs=logprobs(output.tokens, output.logprobs),
            prompt_logprobs=logprobs(self._plan.requests[0].prompt[1:], output.prompt_logprobs),
            reasoning_content="".join(output.reasoning), tool_calls=self._calls(output.calls), notes=self._notes,
            trace=self._trace(output.trace),
        )  # fmt: skip

    def _trace(self, steps: Iterable[StepTrace]) -> list[pb.StepTrace]:
        return [pb.StepTrace(**step.model_dump()) for step in self._form.steps(steps)]

    def _calls(self, deltas: Iterable[CallDelta]) -> list[pb.ToolCall]:
        """The first delta of a call has its name, and then its id."""
        return [
            pb.ToolCall(
                index=call.index, id=self._plan.call_id(0, call.index) if call.name else "",
                function=pb.CalledFunction(name=call.name, arguments=call.arguments),
            )
            for call in join_calls(tuple(deltas))
        ]  # fmt: skip


def usage_of(count: UsageCount) -> pb.Usage:
    usage, metrics = count.usage(), count.metrics().get("metrics")
    spent, details = usage.speculation, usage.completion_tokens_details
    told = {name: getattr(details, name) for name in DETAILS if details is not None}
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, total_tokens=usage.total_tokens,
        drafted=spent.drafted, verified=spent.verified, accepted=spent.accepted, steps=spent.steps, synthetic=spent.synthetic,
        attempts=spent.attempts, cached_tokens=usage.prompt_tokens_details.cached_tokens,
        acceptance_histogram=metrics.speculative_decoding.acceptance_histogram if metrics is not None else (), **told,
    )  # fmt: skip


def logprobs(tokens: Sequence[int], found: Sequence[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(token=token, logprob=each.logprob, rank=each.rank, top_tokens=each.top_ids, top_logprobs=each.top_logprobs)
        for token, each in zip(tokens, found, strict=False)
    ]
