"""One page of metrics for a whole cluster: what every node exports of ours, and the same under vLLM's names.

Promises: knows no Ray and no network. Series of ours pass through as they are; they differ by their label `replica`. Under vLLM's names
all replicas are summed, with the label `model_name`, so that dashboards and load tools made for vLLM find one server.
vLLM's names: https://docs.vllm.ai/en/stable/design/metrics.html.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OURS = "ray_drafthouse_"
HELP_OR_TYPE = ("# HELP " + OURS, "# TYPE " + OURS)
SERIES = re.compile(r"(?P<name>[a-z0-9_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
LAST = ("_bucket", "_sum", "_count")

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Alias:
    """One of vLLM's metrics: the sum of `parts` of ours, as a share of the sum of `over` where that is given. With `keep` one series for
    each value of that label, renamed to `label`."""

    name: str
    kind: str
    help: str
    parts: tuple[str, ...]
    keep: str = ""
    label: str = ""
    only: tuple[tuple[str, str], ...] = ()
    over: str = ""


def _aliases() -> tuple[Alias, ...]:
    def gauge(name: str, help: str, *parts: str) -> Alias:
        return Alias(name, "gauge", help, parts)

    def count(name: str, help: str, *parts: str) -> Alias:
        return Alias(name, "counter", help, parts)

    def spread(name: str, help: str, part: str) -> Alias:
        return Alias(name, "histogram", help, (part,))

    return (
        gauge("num_requests_running", "Requests that are decoded or prefilled.", "verifier_running"),
        gauge("num_requests_waiting", "Requests in the queues of verifiers.", "verifier_waiting"),
        Alias(
            "kv_cache_usage_perc",
            "gauge",
            "Share of KV slots in use, 0 to 1.",
            ("verifier_kv_used_tokens",),
            over="verifier_kv_tokens",
        ),
        count("num_preemptions", "Sequences that gave their KV up for others.", "verifier_preemptions_total"),
        count("prompt_tokens", "Prompt tokens prefilled.", "verifier_prompt_tokens_total"),
        count("generation_tokens", "Output tokens.", "gateway_completion_tokens_total"),
        count(
            "prefix_cache_queries",
            "Prompt tokens looked for in the prefix cache.",
            "verifier_prompt_tokens_total",
            "verifier_cached_prompt_tokens_total",
        ),
        count("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "verifier_cached_prompt_tokens_total"),
        Alias("request_success", "counter", "Requests served.", ("gateway_finish_reasons_total",), "reason", "finished_reason"),
        spread("time_to_first_token_seconds", "From arrival to the first token.", "gateway_first_token_seconds"),
        spread("request_time_per_output_token_seconds", "Mean time of a token after the first, by request.", "gateway_token_seconds"),
        spread("e2e_request_latency_seconds", "From arrival to the last token.", "gateway_request_seconds"),
        spread("request_queue_time_seconds", "In a verifier's queue.", "verifier_queue_seconds"),
        spread("request_prompt_tokens", "Prompt tokens by request.", "gateway_prompt_length"),
        spread("request_generation_tokens", "Output tokens by request.", "gateway_completion_length"),
        Alias("spec_decode_num_drafts", "counter", "Drafts verified.", ("verifier_reached_depth_total",), only=(("depth", "1"),)),
        count("spec_decode_num_draft_tokens", "Drafted tokens verified.", "verifier_verified_tokens_total"),
        count("spec_decode_num_accepted_tokens", "Drafted tokens accepted.", "verifier_accepted_tokens_total"),
        Alias(
            "spec_decode_num_accepted_tokens_per_pos",
            "counter",
            "Drafted tokens accepted, by place in the draft.",
            ("verifier_accepted_depth_total",),
            "depth",
            "position",
        ),
    )


ALIASES = _aliases()


class MetricsPage:
    """Texts of nodes in, one text out."""

    def __init__(self, model: str):
        self._model = model.replace("\\", r"\\").replace('"', r"\"")
        self._heads: dict[str, list[str]] = {}
        self._series: dict[str, list[str]] = defaultdict(list)

    def add(self, text: str) -> None:
        """What one node exports, in Prometheus' text format. Lines that are not ours are left out."""
        for line in text.splitlines():
            if line.startswith(HELP_OR_TYPE):
                self._head(line)
            elif line.startswith(OURS):
                self._series[_family(line.partition("{")[0].partition(" ")[0], self._heads)].append(line)

    def _head(self, line: str) -> None:
        _, what, name, _ = line.split(" ", 3)
        head = self._heads.setdefault(name, [])
        if len(head) < 2 and not any(known.startswith(f"# {what} ") for known in head):
            head.append(line)

    def text(self, nodes: int, silent: int) -> str:
        """The page. `silent` of `nodes` did not answer: what runs there is missing."""
        lines = [
            "# HELP drafthouse_metrics_nodes Nodes whose metrics are on this page, and those that did not answer.",
            "# TYPE drafthouse_metrics_nodes gauge",
            f'drafthouse_metrics_nodes{{state="answered"}} {nodes - silent}',
            f'drafthouse_metrics_nodes{{state="silent"}} {silent}',
        ]
        for name, series in self._series.items():
            lines += self._heads.get(name, []) + series
        for alias in ALIASES:
            lines += self._aliased(alias)
        return "\n".join(lines) + "\n"

    def _aliased(self, alias: Alias) -> list[str]:
        sums: dict[tuple[str, Labels], float] = defaultdict(float)
        for part in alias.parts:
            for name, labels, value in self._numbers(OURS + part):
                if all(labels.get(key) == wanted for key, wanted in alias.only):
                    sums[name.removeprefix(OURS + part), self._labels(alias, labels)] += value
        exported = f"vllm:{alias.name}" + ("_total" if alias.kind == "counter" else "")
        head = [f"# HELP {exported} {alias.help}", f"# TYPE {exported} {alias.kind}"]
        whole = sum(value for _, _, value in self._numbers(OURS + alias.over)) if alias.over else 1.0
        series = [_line(exported + last, labels, value / whole) for (last, labels), value in sums.items()] if whole else []
        return head + series if series else []

    def _labels(self, alias: Alias, labels: Mapping[str, str]) -> Labels:
        kept: Labels = (("model_name", self._model), ("engine", "0"))
        if alias.keep:
            value = labels.get(alias.keep, "")
            kept += ((alias.label, _position(value) if alias.label == "position" else value),)
        return kept + ((("le", labels["le"]),) if "le" in labels else ())

    def _numbers(self, family: str) -> Iterable[tuple[str, dict[str, str], float]]:
        for line in self._series.get(family, ()):
            if match := SERIES.fullmatch(line):
                yield match["name"], dict(LABEL.findall(match["labels"] or "")), float(match["value"])


def _family(name: str, heads: Mapping[str, object]) -> str:
    """A histogram's series are of the family that was declared."""
    for last in LAST:
        if name.endswith(last) and name.removesuffix(last) in heads:
            return name.removesuffix(last)
    return name


def _position(depth: str) -> str:
    """Depth 1 is vLLM's position 0. What lies deeper than depths are counted for keeps its mark."""
    return str(int(depth) - 1) if depth.isdecimal() else depth


def _line(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{key}="{text}"' for key, text in labels)
    return f"{name}{{{shown}}} {value!r}"
