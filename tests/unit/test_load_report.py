"""Points and ratios from blocks of known latencies; options that cannot be."""

from collections.abc import Mapping

import pytest

from benchmarks.harness.http_stream import BenchError, Completion
from benchmarks.harness.overruns import is_void, overruns
from benchmarks.load.blocks import Block, Place
from benchmarks.load.client import Served
from benchmarks.load.comparison import best, point, ratios
from benchmarks.load.off_cost import ALONE, FULL, FULL_AGAIN, Rate, off_cost_report, per_step
from benchmarks.load.recording import recorded
from drafthouse.errors import ConfigError
from simulator.policies import POLICIES, chosen, counts, lengths, numbers, positive

LOW, OVER = Place("code", 0.2, 2.0), Place("code", 1.3, 13.0)


def served(at_s: float, seconds: float, late_s: float = 0.0) -> Served:
    completion = Completion(
        id=f"cmpl-{at_s:g}", text="x", prompt_tokens=7, tokens=11, first_text_s=seconds / 2, seconds=seconds,
        drafted=9, verified=6, accepted=4, steps=5,
    )  # fmt: skip
    return Served(at_s, late_s, completion)


def block(place: Place, segment: int, policy: str, seconds: float) -> Block:
    return Block(place, segment, policy, [served(0.5 * i, seconds * (1 + 0.1 * i)) for i in range(4)])


def run(latency: Mapping[str, tuple[float, float]], place: Place = LOW) -> list[Block]:
    """Latencies on even and odd segments."""
    return [block(place, s, policy, both[s % 2]) for s in range(4) for policy, both in latency.items()]


def test_a_point_is_what_clients_saw() -> None:
    blocks = [Block(LOW, 0, "off", [served(0.0, 1.0), served(1.0, 3.0, late_s=0.5)])]
    p = point(blocks)
    assert (p["workload"], p["load"], p["rate"], p["policy"], p["requests"]) == ("code", 0.2, 2.0, "off", 2)
    assert p["mean_latency_s"] == pytest.approx((1.0 + 3.5) / 2)  # what was sent late is the client's loss all the same
    assert p["ttft_s"] == pytest.approx((0.5 + 2.0) / 2)
    assert p["tpot_s"] == pytest.approx((0.05 + 0.15) / 2)
    assert p["finish_s"] == pytest.approx(4.5)
    assert p["goodput_tokens_per_s"] == pytest.approx(22 / 4.5)
    assert (p["drafted"], p["verified"], p["accepted"], p["steps"]) == (18, 12, 8, 10)
    low, high = p["intervals"]["mean_latency_s"]
    assert low <= p["mean_latency_s"] <= high


def test_the_best_policy_is_chosen_on_the_other_half() -> None:
    """`tree` was lucky on even segments, `chain3` on odd ones: chosen there, each is compared where it was not."""
    blocks = run({"auto": (1.0, 1.0), "off": (3.0, 3.0), "chain3": (4.0, 1.0), "tree": (1.0, 4.0)})
    assert best(blocks, LOW, ["off", "chain3", "tree"]) == ("chain3", "tree")
    assert ratios(blocks, ["auto", "off", "chain3", "tree"])["auto_vs_best"]["value"] == pytest.approx(0.25)


def test_ratios_of_mean_latency() -> None:
    blocks = run({"auto": (1.0, 1.0), "auto again": (1.1, 1.1), "off": (2.0, 2.0), "tree": (1.25, 1.25)})
    found = ratios(blocks, ["auto", "auto again", "off", "tree"])
    assert found["auto_vs_best"]["value"] == pytest.approx(0.8)
    assert found["auto_vs_off"]["value"] == pytest.approx(0.5)
    assert found["control"]["value"] == pytest.approx(1 / 1.1)
    assert found["auto_vs_off"]["points"] == [
        {"workload": "code", "load": 0.2, "base": ["off"], **dict.fromkeys(("value", "low", "high"), pytest.approx(0.5))}
    ]
    assert "time_to_finish" not in found["control"]


def test_beyond_saturation_the_time_to_finish_counts() -> None:
    blocks = run({"auto": (1.0, 1.0), "off": (2.0, 2.0)}) + run({"auto": (2.0, 2.0), "off": (4.0, 4.0)}, OVER)
    found = ratios(blocks, ["auto", "off"])["auto_vs_off"]
    assert found["value"] == pytest.approx(0.5)  # of the place below saturation alone
    assert found["time_to_finish"]["value"] == pytest.approx((1.5 + 2.0 * 1.3) / (1.5 + 4.0 * 1.3))
    assert [p["load"] for p in found["time_to_finish"]["points"]] == [1.3]


def test_beyond_saturation_the_best_is_who_finishes_first() -> None:
    """`tree` has the lower mean latency, but one request that ends late."""
    tree = [served(0.0, 0.1), served(0.5, 0.1), served(1.0, 6.0)]
    off = [served(0.5 * i, 3.0) for i in range(3)]
    for place, expected in ((OVER, "off"), (LOW, "tree")):
        blocks = [Block(place, s, policy, run) for s in range(2) for policy, run in (("tree", tree), ("off", off))]
        assert best(blocks, place, ["tree", "off"]) == (expected, expected)


def test_ratios_without_their_policies_are_absent() -> None:
    blocks = run({"auto": (1.0, 1.0), "tree": (2.0, 2.0)})
    assert set(ratios(blocks, ["auto", "tree"])) == {"auto_vs_best"}


def test_a_recording_holds_the_requests_of_auto_one_block_after_the_other() -> None:
    blocks = [block(LOW, 0, "off", 1.0), block(LOW, 0, "auto", 1.0), block(LOW, 1, "auto again", 1.0), block(LOW, 1, "auto", 1.0)]
    requests = recorded(blocks)
    assert [r.arrival_s for r in requests] == pytest.approx([0.0, 0.5, 1.0, 1.5, *(2.8 + t for t in (0.0, 0.5, 1.0, 1.5))])
    assert requests[1].response_id == "cmpl-0.5"
    assert (requests[1].temperature, requests[1].prompt_tokens, requests[1].output_tokens) == (0.0, 7, 11)


def test_more_than_one_late_pass_in_a_hundred_is_void() -> None:
    before = {"verifier": {"paced_steps": 100.0, "paced_overruns": 50.0}, "drafter": {"paced_steps": 0.0, "paced_overruns": 0.0}}
    after = {"verifier": {"paced_steps": 1100.0, "paced_overruns": 60.0}, "drafter": {"paced_steps": 1000.0, "paced_overruns": 11.0}}
    shares = overruns(after, before)
    assert shares == pytest.approx({"verifier": 0.01, "drafter": 0.011})
    assert is_void(shares)
    assert not is_void({"verifier": 0.01})
    assert overruns({"verifier": {}, "drafter": {}}, {"verifier": {}, "drafter": {}}) == {}


def test_cost_of_off() -> None:
    rates = [Rate(arm, tokens, 2.0) for _ in range(3) for arm, tokens in ((FULL, 98), (FULL_AGAIN, 99), (ALONE, 100))]
    report = off_cost_report(rates)
    assert report["ratios"]["full_vs_alone"]["value"] == pytest.approx(0.98)
    assert report["ratios"]["control"]["value"] == pytest.approx(99 / 98)
    assert report["tokens_per_second"][ALONE] == pytest.approx(50.0)


def test_draft_messages_per_step_are_counted_or_missed() -> None:
    before = {"steps": 100.0, "draft_messages": 7.0, "trees": 3.0}
    assert per_step({"steps": 150.0, "draft_messages": 7.0, "trees": 28.0}, before) == {"steps": 50.0, "draft_messages": 0.0, "trees": 0.5}
    with pytest.raises(BenchError, match="draft_messages"):
        per_step({"steps": 150.0}, {"steps": 100.0})


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "0.2,,1", "a", "", "101", "0.2,0.2"])
def test_impossible_loads_name_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match="--loads"):
        numbers("--loads", text)


@pytest.mark.parametrize("text", ["1", "0-5", "9-3", "a-b", "4-", "-4", "2.5"])
def test_impossible_lengths_name_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match="--tokens"):
        lengths("--tokens", text)


@pytest.mark.parametrize("text", ["3", "0,1", "1,x", "1,-2", "1,1001", ""])
def test_impossible_counts_name_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match="--in-flight"):
        counts("--in-flight", text)


def test_lists_of_options() -> None:
    assert numbers("--loads", "0.2, 1") == (0.2, 1.0)
    assert lengths("--tokens", "16-32") == (16, 32)
    assert lengths("--tokens", "24") == (24, 24)
    assert counts("--in-flight", "1,8,1") == (1, 8, 1)
    assert chosen("--policies", "off, auto", POLICIES) == ("auto", "off")
    with pytest.raises(ConfigError, match=r"--policies: no 'best'"):
        chosen("--policies", "best", POLICIES)
    with pytest.raises(ConfigError, match="--saturation"):
        positive("--saturation", -2.0)
