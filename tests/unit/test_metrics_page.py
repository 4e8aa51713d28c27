"""/metrics: all nodes on one page, and vLLM's names for it."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.gateway.cluster_metrics import ClusterMetrics
from deployments.gateway.metrics_page import ALIASES, MetricsPage
from drafthouse.telemetry.metrics import METRICS


def node(replica: str, tokens: float, running: float) -> str:
    """What one node exports, of Ray's own metrics one."""
    return f"""# HELP ray_node_cpu_count CPUs
# TYPE ray_node_cpu_count gauge
ray_node_cpu_count{{ip="10.0.0.1"}} 8.0
# HELP ray_drafthouse_gateway_completion_tokens_total Output tokens handed to clients.
# TYPE ray_drafthouse_gateway_completion_tokens_total counter
ray_drafthouse_gateway_completion_tokens_total{{WorkerId="w 1",replica="{replica}"}} {tokens}
# HELP ray_drafthouse_verifier_running Sequences.
# TYPE ray_drafthouse_verifier_running gauge
ray_drafthouse_verifier_running{{replica="{replica}"}} {running}
# HELP ray_drafthouse_gateway_first_token_seconds First.
# TYPE ray_drafthouse_gateway_first_token_seconds histogram
ray_drafthouse_gateway_first_token_seconds_bucket{{le="0.1",replica="{replica}"}} 2.0
ray_drafthouse_gateway_first_token_seconds_bucket{{le="+Inf",replica="{replica}"}} 3.0
ray_drafthouse_gateway_first_token_seconds_count{{replica="{replica}"}} 3.0
ray_drafthouse_gateway_first_token_seconds_sum{{replica="{replica}"}} 0.5
# HELP ray_drafthouse_verifier_accepted_depth_total By depth.
# TYPE ray_drafthouse_verifier_accepted_depth_total counter
ray_drafthouse_verifier_accepted_depth_total{{depth="1",replica="{replica}"}} 7.0
ray_drafthouse_verifier_accepted_depth_total{{depth="16+",replica="{replica}"}} 1.0
# HELP ray_drafthouse_verifier_reached_depth_total By depth.
# TYPE ray_drafthouse_verifier_reached_depth_total counter
ray_drafthouse_verifier_reached_depth_total{{depth="1",replica="{replica}"}} 9.0
ray_drafthouse_verifier_reached_depth_total{{depth="2",replica="{replica}"}} 7.0
# HELP ray_drafthouse_verifier_kv_used_tokens KV.
# TYPE ray_drafthouse_verifier_kv_used_tokens gauge
ray_drafthouse_verifier_kv_used_tokens{{replica="{replica}"}} 25.0
# HELP ray_drafthouse_verifier_kv_tokens KV.
# TYPE ray_drafthouse_verifier_kv_tokens gauge
ray_drafthouse_verifier_kv_tokens{{replica="{replica}"}} 100.0
"""


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus reads the page; a series that stands twice is an error there."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            assert series not in found, f"{series} stands twice"
            found[series] = sample.value
    return found


def page(*nodes: str, silent: int = 0, model: str = "demo") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    made = MetricsPage(model)
    for text in nodes:
        made.add(text)
    return values(made.text(len(nodes) + silent, silent))


def vllm(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f"vllm:{name}", tuple(sorted({"model_name": "demo", "engine": "0", **labels}.items()))


def test_series_of_all_nodes_stand_on_the_page_and_rays_own_do_not() -> None:
    found = page(node("a", 10, 1), node("b", 32, 2))
    ours = {dict(labels)["replica"]: value for (name, labels), value in found.items() if name == "ray_drafthouse_verifier_running"}
    assert ours == {"a": 1, "b": 2}
    assert not any(name.startswith("ray_node") for name, _ in found)


def test_vllms_names_sum_all_replicas() -> None:
    found = page(node("a", 10, 1), node("b", 32, 2))
    assert found[vllm("num_requests_running")] == 3
    assert found[vllm("generation_tokens_total")] == 42
    assert found[vllm("time_to_first_token_seconds_bucket", le="0.1")] == 4
    assert found[vllm("time_to_first_token_seconds_bucket", le="+Inf")] == 6
    assert found[vllm("time_to_first_token_seconds_count")] == 6
    assert found[vllm("time_to_first_token_seconds_sum")] == 1
    assert found[vllm("spec_decode_num_drafts_total")] == 18
    assert found[vllm("spec_decode_num_accepted_tokens_per_pos_total", position="0")] == 14
    assert found[vllm("spec_decode_num_accepted_tokens_per_pos_total", position="16+")] == 2
    assert found[vllm("kv_cache_usage_perc")] == 0.25


def test_nodes_that_are_silent_are_counted() -> None:
    found = page(node("a", 10, 1), silent=2)
    assert found[("drafthouse_metrics_nodes", (("state", "silent"),))] == 2
    assert found[("drafthouse_metrics_nodes", (("state", "answered"),))] == 1


def test_a_models_name_may_hold_quotes() -> None:
    found = page(node("a", 10, 1), model='a"b\\c')
    assert {dict(labels)["model_name"] for (name, labels) in found if name.startswith("vllm:")} == {'a"b\\c'}


def test_every_part_of_an_alias_is_one_of_our_metrics() -> None:
    exported = {metric.exported.removeprefix("ray_drafthouse_"): metric for metric in METRICS}
    for alias in ALIASES:
        for part in alias.parts:
            assert part in exported, alias.name
            assert exported[part].kind == alias.kind, alias.name
            assert not alias.keep or exported[part].label == alias.keep, alias.name


@contextmanager
def exporter(text: str, asked: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_nodes_are_asked_once_for_clients_that_come_together() -> None:
    asked: list[str] = []

    async def run(nodes: Sequence[str]) -> list[str]:
        async def known() -> Sequence[str]:
            return nodes

        metrics = ClusterMetrics(known, "demo")
        return await asyncio.gather(*(metrics.page() for _ in range(5)))

    with exporter(node("a", 10, 1), asked) as first, exporter(node("b", 32, 2), asked) as second:
        pages = asyncio.run(run([first, second, "127.0.0.1:9"]))
    assert len(asked) == 2
    assert len(set(pages)) == 1
    found = values(pages[0])
    assert found[vllm("num_requests_running")] == 3
    assert found[("drafthouse_metrics_nodes", (("state", "silent"),))] == 1


def test_what_the_list_of_nodes_raises_is_raised() -> None:
    async def known() -> Sequence[str]:
        raise ConnectionError("no head")

    async def run() -> None:
        with pytest.raises(ConnectionError, match="no head"):
            await ClusterMetrics(known, "demo").page()

    asyncio.run(run())
