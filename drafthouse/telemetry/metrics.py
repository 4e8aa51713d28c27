"""All metrics of Drafthouse, as data: names, help, units, labels, buckets.

To add one: a line below, and its number under `key`: a field of the role's report (`drafthouse/wire/reports.py`, `totals.py`) with its
key in `drafthouse/telemetry/report_numbers.py`, or one of the `details` in the role's `replica.py`, which heartbeats do not carry. Nothing
else: the exporter, the tests and the table of docs/metrics.md (`python -m tests.manifests.embed`) follow. Numbers by a label stand under
`key.VALUE`. Labels are few and bounded: never a request, a prompt or an address; of a drafter only its name, since pairs are bounded.

Promises: knows no Ray. Names say what is counted and in what unit; shares lie between 0 and 1.
"""

from typing import Any

from drafthouse.config.serving import OWN, SOURCE_KINDS
from drafthouse.telemetry.gateway_metrics import gateway_metrics
from drafthouse.telemetry.metric import LATENCY_S, Metric, answers, maker
from drafthouse.wire.membership import Role

DEPTHS = (*(str(depth) for depth in range(1, 16)), "16+")
"""By depth in the tree; what lies deeper than 15 counts together."""

SOURCES = (*SOURCE_KINDS, OWN)
"""What drafted a node; stages of the user's own count together."""

DRAINING: tuple[Role, ...] = ("verifier", "drafter")
"""Roles whose replicas say that they take nothing new."""


def _draining(gauge: Any) -> Metric:
    """Not of gateways, which Serve drains itself, without a word to them before the end."""
    metric: Metric = gauge("draining", "0 or 1", "1 while the replica takes nothing new: it drains, or its device or thread is broken.")
    return metric


def _verifier() -> list[Metric]:
    return [*_verifier_steps(), *_verifier_times(), *_verifier_requests(), *_verifier_sessions(), *_verifier_state()]


def _verifier_steps() -> list[Metric]:
    """What its steps have done."""
    count = maker("verifier", "counter")
    return [
        count("steps", "steps", "Verification steps."),
        count(
            "committed",
            "tokens",
            "Output tokens committed: accepted drafts and one token more for each sequence in a step.",
            name="committed_tokens",
        ),
        count("forced", "tokens", "Output tokens that a grammar left no choice.", name="forced_tokens"),
        count("prompt_tokens", "tokens", "Prompt tokens prefilled, those computed again after a preemption included."),
        count("cached_tokens", "tokens", "Tokens that needed no prefill: their KV was in the prefix cache.", name="cached_prompt_tokens"),
        count("drafted", "tokens", "Drafted tokens that arrived from drafters.", name="drafted_tokens"),
        count("offered", "tokens", "Drafted tokens that steps had to choose from, counted again in each step.", name="offered_tokens"),
        count("verified", "tokens", "Drafted tokens that the target was run on.", name="verified_tokens"),
        count("accepted", "tokens", "Drafted tokens that the target chose itself.", name="accepted_tokens"),
        count(
            "reached_depth",
            "cases",
            "Sequences in a step whose accepted path went on to nodes of this depth.",
            label="depth",
            values=DEPTHS,
        ),
        count(
            "accepted_depth",
            "tokens",
            "Those of which one was accepted: over reached_depth, acceptance given that the parent was.",
            label="depth",
            values=DEPTHS,
        ),
        count("verified_source", "tokens", "Verified tokens by what drafted them.", label="source", values=SOURCES),
        count("accepted_source", "tokens", "Accepted tokens by what drafted them.", label="source", values=SOURCES),
    ]


def _verifier_times() -> list[Metric]:
    """Where the time of its steps went, and what was expected of them."""
    count = maker("verifier", "counter")
    return [
        count("predicted_tokens", "tokens", "Tokens that selection expected the steps to commit."),
        count("predicted_seconds", "s", "Time that the latency model expected the target's runs to take."),
        count("step_seconds", "s", "Time in steps, all parts together."),
        count("select_seconds", "s", "Of it, planning, selecting nodes and building the batch."),
        count("run_seconds", "s", "Of it, running the target."),
        count("choose_seconds", "s", "Of it, choosing tokens at every node and walking the trees."),
        count("wait_seconds", "s", "Time between steps while there was work, waiting for drafts included."),
        count("gather_seconds", "s", "Of it, waiting for drafts that were announced."),
    ]


def _verifier_requests() -> list[Metric]:
    """What became of requests."""
    count = maker("verifier", "counter")
    return [
        count("finished", "requests", "Requests that came to their end here.", name="finished_requests"),
        count("cancelled", "requests", "Requests whose client went away or whose deadline passed.", name="cancelled_requests"),
        count("refused", "requests", "Requests turned away for a full queue, to another verifier or for good.", name="refused_requests"),
        count("first_token_objectives", "requests", "Requests that wished for their first token by a time, and got one here."),
        count("first_token_kept", "requests", "Those that got it in time.", name="first_token_objectives_kept"),
        count("per_token_objectives", "requests", "Requests that wished for a pace of their later tokens, and came to their end here."),
        count("per_token_kept", "requests", "Those whose last token was in time.", name="per_token_objectives_kept"),
        count("preemptions", "requests", "Sequences that gave their KV up for others, and compute it again."),
        count("step_faults", "faults", "Steps that raised: their sequences are tried one by one, and what fails alone ends with an error."),
    ]


def _verifier_sessions() -> list[Metric]:
    """Draft sessions, stages in its own process, and the paced device."""
    count, spread = maker("verifier", "counter"), maker("verifier", "histogram")
    events = ("opened", "refused", "dropped", "lost", "stale", "malformed", "banned", "unfit", "unknown")
    return [
        count(
            "sessions",
            "sessions",
            "Draft sessions: opened, refused or dropped by the drafter for now, or for good (unfit), lost with its stream, ended for "
            "a malformed message, taken from a drafter that lied (banned); and messages that are stale, of sessions that are no more, or "
            "of a kind that this version does not know.",
            name="session_events",
            label="event",
            values=events,
        ),
        count("draft_messages", "messages", "Messages to drafters."),
        count("state_bytes", "bytes", "Hidden states of the target that were sent to drafters whose draft reads them."),
        count("state_seconds", "s", "Time that making them ready took; it is a part of choose_seconds."),
        count("stage_nodes", "tokens", "Tokens drafted by stages in the verifier's own process."),
        count("stage_seconds", "s", "Time that these stages took."),
        count("stage_faults", "faults", "Such stages dropped for their session, since they failed."),
        count("stage_rests", "rests", "Such stages set aside for a while, since they did not pay."),
        count("paced_steps", "steps", "Steps on a paced device."),
        count("paced_overruns", "steps", "Those that took longer than the curve: above 1 % the run is void."),
        spread("queue_seconds", "s", "From a request's arrival at the verifier to its admission into steps.", buckets=LATENCY_S),
    ]


def _verifier_state() -> list[Metric]:
    """Gauges: how things stand now."""
    gauge = maker("verifier", "gauge")
    return [
        gauge("running", "sequences", "Sequences admitted to steps."),
        gauge("waiting", "requests", "Requests in the queue."),
        gauge("places_per_s", "requests/s", "Places that become free, as measured: what refused clients are told follows from it."),
        gauge("most_steps_to_free", "steps", "Between a cancellation and the release of what it held, at most so far."),
        gauge("capacity", "requests", "Places: running and waiting together."),
        gauge("decoding", "sequences", "Sequences that decode in the current step."),
        gauge("kv_slots_used", "tokens", "KV slots in use.", name="kv_used_tokens"),
        gauge("kv_slots_cached", "tokens", "KV slots that only the prefix cache holds, as good as free.", name="kv_cached_tokens"),
        gauge("kv_slots", "tokens", "KV slots.", name="kv_tokens"),
        gauge("goodput", "tokens/s", "Tokens committed per second of busy time, over about the last second of it."),
        gauge("plain_goodput", "tokens/s", "What plain decoding would commit at the load of now, by the latency model."),
        gauge("gain", "ratio", "Time that plain decoding would have taken over the time taken: above 1 speculation pays."),
        gauge("price", "tokens", "What one more node costs the step, in tokens; above 1 nothing is worth drafting."),
        gauge("price_floor", "tokens", "The controller's floor under the price asked of drafters."),
        gauge("best_edge", "tokens", "The best that drafters lately offered for a node; below the price speculation stops."),
        gauge("gate_open", "0 or 1", "Whether sequences in mode auto have draft sessions."),
        gauge("drafters", "replicas", "Drafters with a stream to this verifier."),
        gauge(
            "synthetic", "0 or 1", "1 if acceptance is drawn instead of compared: texts are not the target's.", name="synthetic_acceptance"
        ),
        gauge("trust", "share", "Accepted over promised tokens, by drafter: how far its confidences are trusted.", label="drafter"),
        gauge("banned", "0 or 1", "1 while a drafter is left alone for promises it did not keep.", label="drafter"),
        gauge("round_trip_seconds", "s", "Round trip to a drafter, averaged.", label="drafter"),
        _draining(gauge),
        answers(gauge),
    ]


def _drafter() -> list[Metric]:
    count, gauge = maker("drafter", "counter"), maker("drafter", "gauge")
    return [
        count("drafted_source", "tokens", "Tokens drafted, by source.", name="drafted_tokens", label="source", values=SOURCES),
        count("passes", "passes", "Passes of the draft model."),
        count("pass_seconds", "s", "Time in passes."),
        count("busy_seconds", "s", "Time not spent waiting for messages; per second, the drafter's utilisation."),
        count("cached_tokens", "tokens", "Tokens that sessions did not have to run the draft on: their KV was in the prefix cache."),
        count("commits", "commits", "Commits received from verifiers."),
        count("state_bytes", "bytes", "Hidden states of targets that came with them."),
        count("state_seconds", "s", "Time that reading these took."),
        count(
            "predrafted",
            "commits",
            "Those after which a part of the tree was left: the next one was drafted already.",
            name="predrafted_commits",
        ),
        count("guessed", "tokens", "Tokens of an inner stage that passes took along.", name="guessed_tokens"),
        count("came_true", "tokens", "Those that the draft model then drafted itself.", name="guessed_right_tokens"),
        count("judged", "tokens", "Committed tokens before which the draft model had run.", name="judged_tokens"),
        count("first", "tokens", "Those of them that it had ranked first: its acceptance by token.", name="first_choice_tokens"),
        count("sessions", "sessions", "Sessions opened.", name="sessions_opened"),
        count("refused", "sessions", "Sessions refused, for want of room or of a fit.", name="sessions_refused"),
        count("dropped", "sessions", "Sessions given up: no KV left, or a commit that did not fit.", name="sessions_dropped"),
        count("malformed", "messages", "Messages that could not be read.", name="malformed_messages"),
        count("pass_faults", "faults", "Passes, messages and commands that raised; the sessions that were the cause were dropped."),
        count("stage_nodes", "tokens", "Tokens drafted by stages without a model."),
        count("stage_seconds", "s", "Time that these stages took."),
        count("stage_faults", "faults", "Such stages dropped for their session, since they failed."),
        count("stage_rests", "rests", "Such stages set aside for a while, since they did not pay."),
        count("calibration_labels", "labels", "Committed tokens that calibration learned from."),
        count("paced_steps", "passes", "Passes on a paced device.", name="paced_passes"),
        count("paced_overruns", "passes", "Those that took longer than the curve: above 1 % the run is void."),
        gauge("load", "sessions", "Sessions open.", name="sessions"),
        gauge("capacity", "sessions", "Sessions that one drafter takes.", name="session_limit"),
        gauge("kv_slots_used", "tokens", "KV slots in use.", name="kv_used_tokens"),
        gauge("kv_slots_cached", "tokens", "KV slots that only the prefix cache holds, as good as free.", name="kv_cached_tokens"),
        gauge("kv_slots", "tokens", "KV slots.", name="kv_tokens"),
        gauge("calibration_brier", "score", "Squared error of the promised edges, summed over siblings; lower is better."),
        gauge("calibration_brier_prior", "score", "The same without what was learned; calibration pays while it is the higher one."),
        _draining(gauge),
        answers(gauge),
    ]


def _controller() -> list[Metric]:
    count, gauge = maker("controller", "counter"), maker("controller", "gauge")
    roles = ("gateway", "verifier", "drafter")
    return [
        count("heartbeats", "reports", "Heartbeats answered."),
        gauge("heartbeat_interval_seconds", "s", "How often each replica is to report; it grows with the pools."),
        gauge("replicas", "replicas", "Replicas that report.", label="role", values=roles),
        gauge("replicas_desired", "replicas", "Replicas that there should be.", label="role", values=roles),
        gauge("replicas_draining", "replicas", "Replicas that take nothing new.", label="role", values=DRAINING),
        gauge("sessions", "sessions", "Draft sessions in the cluster."),
        gauge("queue", "requests", "Requests that wait at verifiers."),
        gauge("committed_per_s", "tokens/s", "The cluster's goodput: tokens committed per second."),
        gauge("wasted_per_s", "tokens/s", "Drafted and not accepted."),
        gauge("rejected_per_s", "tokens/s", "Verified and not accepted."),
        gauge("tokens_over_predicted", "ratio", "Tokens committed over those expected: below 1 drafts promised too much."),
        gauge(
            "seconds_over_predicted", "ratio", "Time of the target's runs over that expected: above 1 the device is slower than its curve."
        ),
        gauge("price_floor", "tokens", "The floor under the price that drafters are asked, while they are short."),
        gauge("verifier_utilisation", "share", "Of the verifiers' time, the share in steps."),
        gauge("between_steps_share", "share", "Of the verifiers' busy time, the share between steps."),
        gauge("drafter_utilisation", "share", "Of the drafters' time, the share in work; above 0.95 they are short."),
        gauge("one_more_verifier_per_s", "tokens/s", "What one more verifier would add to the goodput."),
        gauge("one_more_drafter_per_s", "tokens/s", "What one more drafter would add to the goodput."),
    ]


METRICS: tuple[Metric, ...] = (*gateway_metrics(), *_verifier(), *_drafter(), *_controller())
