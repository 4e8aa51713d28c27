"""Drafts from texts, their acceptance by depth, their latencies by curve and their ranking."""

import io
import pathlib
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.commands import bench_app
from benchmarks.drafts.acceptance import acceptance, by_depth
from benchmarks.drafts.bench import by_acceptance, ranking
from benchmarks.drafts.latencies import check_curves, scaled
from benchmarks.drafts.tables import plot_gain, print_drafts, print_gain
from benchmarks.drafts.variants import Variant, parse
from benchmarks.harness.interleave import SAMPLINGS
from drafthouse.engine.curve_files import load_curve
from drafthouse.errors import ConfigError


def test_variants() -> None:
    assert parse("demo:draft") == Variant("demo:draft")
    assert parse("/a/b@c/d@layers=2") == Variant("/a/b@c/d", "layers", 2.0)
    assert parse("demo:draft@noise=0.5") == Variant("demo:draft", "noise", 0.5)
    assert parse("/a@b/c") == Variant("/a@b/c"), "an @ in a path is no change"


@pytest.mark.parametrize("text", ["x@layers=0", "x@layers=1.5", "x@layers=many", "x@noise=0", "x@noise=11", "x@noise=nan", "x@noise="])
def test_variants_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--draft {text}"):
        parse(text)


def test_acceptance_by_depth_counts_places_where_so_many_tokens_follow() -> None:
    texts = [[0, 0, 1, -1], [0]]
    assert by_depth(texts, most=0) == pytest.approx([3 / 5, 1 / 3, 0.0, 0.0])
    assert by_depth(texts, most=3) == pytest.approx([4 / 5, 2 / 3, 1 / 2, 0.0])
    found = acceptance(texts)
    assert (found["first"], found["among_four"]) == pytest.approx((3 / 5, 4 / 5))


def test_a_scaled_curve_costs_so_many_times_as_much() -> None:
    curve = load_curve("draft-0.5b")
    assert scaled(curve, 2.5).seconds(7, 300) == pytest.approx(2.5 * curve.seconds(7, 300))


def test_curves_that_cannot_be_name_their_option() -> None:
    check_curves(["measured", "llama-70b-4xh100"], "draft-0.5b")
    with pytest.raises(ConfigError, match="--target-curve no-such"):
        check_curves(["no-such"], "draft-0.5b")
    with pytest.raises(ConfigError, match="--draft-curve no-such"):
        check_curves(["measured"], "no-such")
    with pytest.raises(ConfigError, match="--target-curve .*twice"):
        check_curves(["measured", "measured"], "draft-0.5b")


def row(name: str, goodput: float, first: float, cost_ratio: float = 0.1) -> dict[str, Any]:
    side = {
        "first": first, "chain_by_depth": [first, first**2], "tree_by_depth": [first] * 8, "tokens_per_step": 2.0,
        "ratio_to_plain": {"value": goodput / 10},
    }  # fmt: skip
    return {
        "draft": name, "goodput": goodput, "gain": goodput / 10, "ms_per_pass": 2.0, "cost_ratio": cost_ratio, "curve": f"c{cost_ratio}",
        **dict.fromkeys(SAMPLINGS, side),
    }  # fmt: skip


def test_ranked_by_goodput_and_not_by_acceptance() -> None:
    rows = [row("large", 12.0, 0.9), row("small", 20.0, 0.6), row("poor", 9.0, 0.1)]
    assert ranking(rows) == ["small", "large", "poor"]
    assert by_acceptance(rows) == ["large", "small", "poor"]


def test_tables_and_plot(tmp_path: pathlib.Path) -> None:
    rows = [row("demo:draft@layers=1", 12.0, 0.9), row("small", 20.0, 0.6)]
    settings = {"target": "t", "target_curve": "measured", "prompts": 2, "tokens": 8}
    out = io.StringIO()
    console = Console(file=out, width=80)
    print_drafts(console, {"drafts": rows, "ranking": ranking(rows), "by_acceptance": by_acceptance(rows), "settings": settings})
    text = out.getvalue()
    assert text.index("small") < text.index("demo:draft@layers=1"), "best first"
    assert "by acceptance alone the order would be: demo:draft@layers=1, small" in text
    points = [row(name, goodput, 0.5, cost) for name in ("a", "demo:target@noise=0.1") for goodput, cost in ((15.0, 0.1), (12.0, 0.3))]
    points[0]["curve"] = "llama-70b-4xh100"
    print_gain(console, {"points": points})
    assert "1.50" in out.getvalue()
    assert "…" not in out.getvalue(), "80 columns hold the tables"
    assert plot_gain({"points": points}, tmp_path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ablation", "--configurations", "none-such"], "--configurations"),
        (["ablation", "--json", "/no/such/folder/x.json"], "--json"),
        (["ablation", "--target-curve", "no-such"], "no-such"),
        (["ablation", "--prompts", "9999"], "--prompts"),
        (["ablation", "--tokens", "5000"], "--tokens 5000"),
        (["drafts", "--draft", "demo:draft@noise=0"], "--draft"),
        (["drafts", "--draft", "demo:draft", "--draft", "demo:draft"], "--draft"),
        (["drafts", "--draft", "demo:draft", "--target-curve", "measured,llama-8b-1xh100"], "--target-curve"),
        (["gain", "--target-curve", "no-such"], "--target-curve"),
    ],
)
def test_wrong_options_are_named_before_anything_is_loaded(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(bench_app, arguments)
    assert result.exit_code == 1
    assert named in result.output
