"""The gateway's metrics: what clients ask for, wait for and get."""

from drafthouse.telemetry.metric import LATENCY_S, Metric, answers, maker

TOKEN_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
"""Per output token: faster than anyone reads, to slower."""

REQUEST_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0)

LENGTHS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
"""Tokens, from one to the longest contexts."""

LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""From what a busy loop always has, to what clients see as a freeze."""

REASONS = ("stop", "length")


def gateway_metrics() -> list[Metric]:
    count, gauge, spread = (maker("gateway", kind) for kind in ("counter", "gauge", "histogram"))
    outcomes = ("served", "cancelled", "refused", "unavailable", "rejected", "failed")
    return [
        count(
            "outcome",
            "requests",
            "Requests (each choice for itself) by how they ended: served; cancelled by the client; refused "
            "for want of room (429); unavailable, no verifier was to be had (503); rejected as wrong (400); failed inside.",
            name="requests",
            label="outcome",
            values=outcomes,
        ),
        count("prompt_tokens", "tokens", "Prompt tokens of requests that have ended."),
        count("completion_tokens", "tokens", "Output tokens handed to clients."),
        count("failovers", "failovers", "Streams to a verifier that broke and went on, or were tried, on another one."),
        count(
            "moves",
            "requests",
            "Requests that went to another verifier though nothing failed: theirs drains; they waited, and there was room "
            "elsewhere (room); they ran, and another was far emptier (spread).",
            name="handovers",
            label="reason",
            values=("drain", "room", "spread"),
        ),
        gauge("load", "requests", "Requests running or waiting at a verifier for this gateway.", name="running"),
        gauge("capacity", "requests", "Choices that one gateway has in progress at most; more are refused."),
        gauge("loop_cpu_share", "1", "Part of a core that the event loop's thread uses; at 1 one gateway can do no more."),
        gauge("verifiers", "replicas", "Verifiers that this gateway may send requests to; at 0 it can serve nobody."),
        answers(gauge),
        spread(
            "first_token_seconds",
            "s",
            "From the arrival of the request until its first output token is there: reading, tokenizing and queues included.",
            buckets=LATENCY_S,
        ),
        spread("token_seconds", "s", "Mean time of one output token after the first, one sample for each request.", buckets=TOKEN_S),
        spread("longest_pause_seconds", "s", "Longest time without a new token after the first, by request.", buckets=LATENCY_S),
        spread("request_seconds", "s", "From arrival to the last token, of requests that were served.", buckets=REQUEST_S),
        *_lengths(),
    ]


def _lengths() -> list[Metric]:
    """Of texts, and of the time that the event loop takes for other things."""
    count, spread = maker("gateway", "counter"), maker("gateway", "histogram")
    return [
        count(
            "finish",
            "requests",
            "Requests served, by what ended their text.",
            name="finish_reasons",
            label="reason",
            values=REASONS,
        ),
        count(
            "key_tokens",
            "tokens",
            "Prompt and output tokens by API key: the beginning of its hash; `none` without keys; `others` beyond 200 keys.",
            label="key",
        ),
        spread("prompt_length", "tokens", "Prompt tokens, one sample for each request.", buckets=LENGTHS),
        spread("completion_length", "tokens", "Output tokens, one sample for each request, however it ended.", buckets=LENGTHS),
        spread(
            "loop_lag_seconds",
            "s",
            "By how much the event loop was late, ten samples a second: all streams of the gateway wait as long.",
            buckets=LAG_S,
        ),
    ]
