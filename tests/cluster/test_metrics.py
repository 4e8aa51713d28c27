"""A cluster under load, scraped by Prometheus and as it would: every promised metric is there and says what the clients saw, every panel
has something to show, every alert can fire. One request is followed by spans through all processes."""

import concurrent.futures
import contextlib
import itertools
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from drafthouse.telemetry.metrics import METRICS
from tests.cluster.monitoring_asked import MATTERS_OF_LOAD, RIGHTLY_EMPTY, Evaluated, alerts, panels, says_something
from tests.cluster.prometheus import Prometheus
from tests.cluster.scrape import Scrape, scrape
from tests.cluster.serving import Serving
from tests.engine.otlp_collector import HTTP, Collector, collecting

pytestmark = pytest.mark.cluster_long

CLIENTS = 4
CANCELLED_TOKENS = 900
EXPORT_S = 90.0
"""Ray exports every 10 s; a busy machine takes longer."""

SUFFIXES = {"counter": "", "gauge": "", "histogram": "_count"}


@dataclass
class Seen:
    """What the clients got; under a lock, since several add."""

    served: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    accepted: int = 0
    verified: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: dict[str, Any]) -> None:
        usage = answer["usage"]
        with self.lock:
            self.served += 1
            self.completion_tokens += usage["completion_tokens"]
            self.prompt_tokens += usage["prompt_tokens"]
            self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
            self.accepted += usage["speculation"]["accepted"]
            self.verified += usage["speculation"]["verified"]


def _client(serving: Serving, number: int, stop: threading.Event, seen: Seen) -> None:
    objective = {"first_token_ms": 5000, "per_token_ms": 500}
    modes: list[dict[str, Any]] = [{"mode": "auto", "objective": objective}, {"mode": "fixed", "nodes": 8, "depth": 4}]
    for i, mode in zip(itertools.count(), itertools.cycle(modes), strict=False):
        body = {"prompt": f"def function_{number}_{i}(", "max_tokens": 40, "temperature": 0.7 * (i % 2), "seed": i}
        seen.add(serving.complete(**body, speculation=mode))
        if stop.is_set():
            return


def _wrong_and_cancelled(serving: Serving) -> None:
    wrong = httpx.post(f"{serving.url}/v1/completions", json={"model": "demo", "prompt": [99999]}, timeout=30)
    assert wrong.status_code == 400
    body = {"model": "demo", "prompt": "class Long:\n", "max_tokens": CANCELLED_TOKENS, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{serving.url}/v1/completions", json=body, timeout=60) as answer:
        next(answer.iter_lines())


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    with collecting(HTTP) as found:
        yield found


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, collector: tuple[Collector, str]) -> Iterator[Serving]:
    """The demo pair with the default config. Of its requests those have spans whose clients say so."""
    spans = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[1], "OTEL_BSP_SCHEDULE_DELAY": "200"}
    unsampled = {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    server = Serving(tmp_path_factory.mktemp("serving"), {**os.environ, "RAY_AUTH_MODE": "disabled", **spans, **unsampled})
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def observed(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scrape, Scrape, Seen, Evaluated | None]:
    """One scrape under load, one of all that was served in the end, what the clients saw, and what Prometheus, where there is one, said."""
    seen, stop, evaluated = Seen(), threading.Event(), None
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(_client, serving, number, stop, seen) for number in range(CLIENTS)]
        loaded = Scrape({})

        def all_there() -> bool:
            nonlocal loaded
            loaded = scrape(serving)
            assert not any(client.done() for client in clients), [client.exception() for client in clients if client.done()]
            return not _missing(loaded)

        try:
            with contextlib.ExitStack() as stack:
                program, folder = shutil.which("prometheus"), tmp_path_factory.mktemp("prometheus")
                server = stack.enter_context(Prometheus(program, folder, serving)) if program else None
                _until_all_there(serving, all_there, lambda: _missing(loaded))
                if server is not None:
                    evaluated = Evaluated()
                    evaluated.ask(server, EXPORT_S)
        finally:
            stop.set()
    _wrong_and_cancelled(serving)

    def all_counted() -> bool:
        return scrape(serving).value("ray_drafthouse_gateway_requests_total") >= seen.served + 2

    serving.until(all_counted, "all requests counted", EXPORT_S)
    # Verifiers and gateways export one after the other.
    done = lambda: scrape(serving).value("ray_drafthouse_verifier_committed_tokens_total") >= seen.completion_tokens  # noqa: E731
    serving.until(done, "all tokens counted", EXPORT_S)
    return loaded, scrape(serving), seen, evaluated


@pytest.fixture(scope="module")
def scraped(observed: tuple[Scrape, Scrape, Seen, Evaluated | None]) -> tuple[Scrape, Scrape, Seen]:
    return observed[:3]


@pytest.fixture(scope="module")
def evaluated(observed: tuple[Scrape, Scrape, Seen, Evaluated | None]) -> Evaluated:
    if observed[3] is None:
        pytest.skip("no prometheus on this machine: apt-get install prometheus")
    return observed[3]


def _until_all_there(serving: Serving, all_there: Callable[[], bool], missing: Callable[[], list[str]]) -> None:
    try:
        serving.until(all_there, "all metrics", EXPORT_S)
    except AssertionError as error:
        raise AssertionError(f"missing: {missing()}") from error


def _missing(found: Scrape) -> list[str]:
    return [metric.exported for metric in METRICS if not found.series(metric.exported + SUFFIXES[metric.kind])]


def test_types_help_and_labels_are_those_declared(scraped: tuple[Scrape, Scrape, Seen]) -> None:
    loaded, _, _ = scraped
    assert set(loaded.families) == {metric.exported for metric in METRICS}
    for metric in METRICS:
        family = loaded.families[metric.exported]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(metric.labels) <= set(sample.labels), sample
            if metric.values:
                assert sample.labels[metric.label] in metric.values, sample


def test_numbers_lie_where_they_can(scraped: tuple[Scrape, Scrape, Seen]) -> None:
    for found in scraped[:2]:
        for metric in METRICS:
            for sample in found.families[metric.exported].samples if metric.exported in found.families else ():
                assert math.isfinite(sample.value), sample
                assert sample.value >= 0, sample
                if metric.unit in ("share", "0 or 1"):
                    assert sample.value <= 1, sample
                if metric.unit == "0 or 1":
                    assert sample.value in (0, 1), sample


def test_counts_agree_with_what_the_clients_saw(scraped: tuple[Scrape, Scrape, Seen]) -> None:
    _, found, seen = scraped
    requests = {o: found.value("ray_drafthouse_gateway_requests_total", outcome=o) for o in ("served", "cancelled", "rejected", "failed")}
    assert requests == {"served": seen.served, "cancelled": 1, "rejected": 1, "failed": pytest.approx(0)}
    tokens = found.value("ray_drafthouse_gateway_completion_tokens_total")
    assert seen.completion_tokens <= tokens <= seen.completion_tokens + CANCELLED_TOKENS
    committed = found.value("ray_drafthouse_verifier_committed_tokens_total")
    assert tokens <= committed <= seen.completion_tokens + CANCELLED_TOKENS
    computed, cached = (found.value(f"ray_drafthouse_verifier_{what}_total") for what in ("prompt_tokens", "cached_prompt_tokens"))
    assert computed + cached >= seen.prompt_tokens
    assert cached >= seen.cached_tokens
    accepted = found.value("ray_drafthouse_verifier_accepted_tokens_total")
    assert 0 < seen.accepted <= accepted <= seen.accepted + CANCELLED_TOKENS
    assert found.value("ray_drafthouse_verifier_verified_tokens_total") >= seen.verified


def test_histograms_hold_a_sample_for_each_request(scraped: tuple[Scrape, Scrape, Seen]) -> None:
    _, found, seen = scraped
    counts = {m.short: found.value(m.exported + "_count") for m in METRICS if m.kind == "histogram"}
    assert counts["first_token_seconds"] == seen.served + 1, "the one that was cancelled had its first token"
    assert counts["request_seconds"] == counts["longest_pause_seconds"] == counts["token_seconds"] == seen.served
    assert counts["queue_seconds"] == seen.served + 1
    for metric in METRICS:
        buckets = found.series(metric.exported + "_bucket")
        ordered = sorted((float(dict(labels)["le"]), number) for labels, number in buckets.items())
        assert [bound for bound, _ in ordered] == ([*metric.buckets, math.inf] if metric.kind == "histogram" else [])
        assert [n for _, n in ordered] == sorted(n for _, n in ordered), "buckets add up"


def test_parts_add_up(scraped: tuple[Scrape, Scrape, Seen]) -> None:
    _, found, _ = scraped
    v = lambda name, **labels: found.value(f"ray_drafthouse_verifier_{name}", **labels)  # noqa: E731
    assert v("accepted_source_total") == v("accepted_depth_total") == v("accepted_tokens_total")
    assert v("verified_source_total") == v("verified_tokens_total")
    assert v("accepted_tokens_total") <= v("verified_tokens_total") <= v("offered_tokens_total")
    for depth in map(str, range(1, 16)):
        reached, accepted = (v(f"{what}_depth_total", depth=depth) for what in ("reached", "accepted"))
        assert accepted <= reached
        assert depth == "1" or reached <= v("accepted_depth_total", depth=str(int(depth) - 1))
    assert v("select_seconds_total") + v("run_seconds_total") + v("choose_seconds_total") == pytest.approx(
        v("step_seconds_total"), rel=0.01
    )
    assert v("gather_seconds_total") <= v("wait_seconds_total")
    assert v("kv_used_tokens") <= v("kv_tokens")
    assert found.value("ray_drafthouse_drafter_drafted_tokens_total", source="model") >= v("accepted_source_total", source="model") > 0
    assert found.value("ray_drafthouse_drafter_drafted_tokens_total") + v("stage_nodes_total") >= v("accepted_tokens_total")
    assert 0 < found.value("ray_drafthouse_drafter_predrafted_commits_total") <= found.value("ray_drafthouse_drafter_commits_total")
    assert found.value("ray_drafthouse_drafter_pass_seconds_total") <= found.value("ray_drafthouse_drafter_busy_seconds_total") * 1.01


def test_the_cluster_is_as_it_is(scraped: tuple[Scrape, Scrape, Seen]) -> None:
    loaded, _, _ = scraped
    for role in ("gateway", "verifier", "drafter"):
        assert loaded.value("ray_drafthouse_controller_replicas", role=role) == 1
        assert loaded.value("ray_drafthouse_controller_replicas_desired", role=role) == 1
        assert loaded.value(f"ray_drafthouse_{role}_controller_answers") == 1
    assert loaded.value("ray_drafthouse_verifier_drafters") == loaded.value("ray_drafthouse_gateway_verifiers") == 1
    assert loaded.value("ray_drafthouse_verifier_synthetic_acceptance") == 0
    assert loaded.value("ray_drafthouse_controller_committed_per_s") > 0
    assert loaded.value("ray_drafthouse_verifier_goodput") > 0
    assert 0 < loaded.value("ray_drafthouse_verifier_round_trip_seconds") < 10


def test_the_gateway_has_all_replicas_on_one_page(scraped: tuple[Scrape, Scrape, Seen], serving: Serving) -> None:
    _, found, seen = scraped
    text = httpx.get(f"{serving.url}/metrics", timeout=30).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {family.name for family in found.families.values()} <= set(families)
    replicas = {labels["replica"] for labels in (dict(series) for series in found.series("ray_drafthouse_verifier_running"))}
    assert {sample.labels["replica"] for sample in families["ray_drafthouse_verifier_running"].samples} == replicas
    (tokens,) = families["vllm:generation_tokens"].samples
    assert seen.completion_tokens <= tokens.value <= seen.completion_tokens + CANCELLED_TOKENS
    (silent,) = (sample for sample in families["drafthouse_metrics_nodes"].samples if sample.labels["state"] == "silent")
    assert silent.value == 0


def test_every_panel_has_something_to_show(evaluated: Evaluated) -> None:
    """What filters may leave nothing of a server without faults, but must have something to filter."""
    asked_of_all = panels(evaluated.sessions[0])
    assert len(evaluated.sessions) == 1
    empty = {(asked.where, asked.name) for asked in asked_of_all if not says_something(evaluated.found[asked])}
    assert empty == set(RIGHTLY_EMPTY)
    assert not [asked for asked in asked_of_all if not evaluated.unfiltered[asked]]


def test_what_panels_show_has_its_labels_and_lies_on_the_axis(evaluated: Evaluated) -> None:
    for asked in panels(evaluated.sessions[0]):
        for series in evaluated.found[asked]:
            assert asked.named_labels <= set(series.labels), asked
            assert math.isnan(series.value) or 0.0 <= series.value <= asked.most * 1.1, (asked, series)


def test_every_alert_can_fire_and_those_of_faults_do_not(evaluated: Evaluated) -> None:
    """What an alert compares is there, with labels that match."""
    assert not [asked for asked in alerts() if not evaluated.unfiltered[asked]]
    assert sorted(rule["name"] for rule in evaluated.rules) == sorted(asked.where for asked in alerts())
    assert not [rule for rule in evaluated.rules if rule["health"] != "ok"]
    assert {rule["name"] for rule in evaluated.rules if rule["state"] != "inactive"} <= MATTERS_OF_LOAD


def test_a_request_has_one_trace_over_all_processes(serving: Serving, collector: tuple[Collector, str]) -> None:
    trace, client = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    body = {
        "model": "demo",
        "prompt": "def add(",
        "max_tokens": 40,
        "temperature": 0,
        "speculation": {"mode": "fixed", "nodes": 8, "depth": 4},
    }
    answer = httpx.post(f"{serving.url}/v1/completions", json=body, headers={"traceparent": f"00-{trace}-{client}-01"}, timeout=60)
    assert answer.status_code == 200
    found = collector[0]
    found.wait_for("text_completion demo", "verify", "draft")
    assert {span.trace for span in found.spans} == {trace}, "others are not sampled"
    [asked], [verify], [draft] = (found.named(name) for name in ("text_completion demo", "verify", "draft"))
    assert (asked.parent, verify.parent, draft.parent) == (client, asked.id, verify.id)
    assert {span.service for span in found.spans} == {f"drafthouse-{role}" for role in ("gateway", "verifier", "drafter")}
    assert asked.attributes["drafthouse.request_id"] == answer.headers["x-request-id"]


def test_a_replica_that_died_leaves_no_gauges(scraped: tuple[Scrape, Scrape, Seen], serving: Serving) -> None:
    """Last: its counters stay, as Prometheus wants them; what it was at the moment does not."""
    before = {dict(labels)["replica"] for labels in scrape(serving).series("ray_drafthouse_drafter_sessions")}
    os.kill(serving.pids("drafter")[0], signal.SIGKILL)
    now = lambda: {dict(labels)["replica"] for labels in scrape(serving).series("ray_drafthouse_drafter_sessions")}  # noqa: E731
    serving.until(lambda: bool(now()) and not now() & before, "the gauges of the new drafter alone", 2 * EXPORT_S)
    assert before <= {dict(labels)["replica"] for labels in scrape(serving).series("ray_drafthouse_drafter_passes_total")}
