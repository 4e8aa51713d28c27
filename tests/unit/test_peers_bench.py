"""The bench beside other engines' servers: who is asked when, with which prompts, and what the figures are."""

import json
import pathlib
from collections.abc import Callable

import pytest

from benchmarks.harness.exact_prompts import ExactPrompts
from benchmarks.harness.http_stream import Completion
from benchmarks.peers.bench import PeersOptions, contestants, places, turns
from benchmarks.peers.report import Block, Place, notes, places_report, wrong_counts
from benchmarks.peers.servers import Installed, Launch, Setup, at_least, launches, ours
from deployments.api.openai.body import parse_body
from deployments.api.openai.schema import CompletionRequest
from drafthouse.config.config_file import load_config
from drafthouse.errors import ConfigError, DrafthouseError

ONE, MANY = Place(1, 16), Place(8, 16)


def options(lookup: bool = False, rounds: int = 4) -> PeersOptions:
    return PeersOptions("smollm2", ("bfloat16",), 2, (ONE, MANY), 96, rounds, lookup, Installed("", "", "", ""))


def test_everyone_has_every_place_in_the_order_and_one_server_works_at_a_time() -> None:
    plan = [t for t in turns(options(rounds=10), contestants(False)) if t.place == ONE]
    names = [c.name for c in contestants(False)]
    rounds = [[t.contestant.name for t in plan if t.round == r] for r in range(10)]
    assert all(sorted(order) == sorted(names) for order in rounds)
    for place in range(len(names)):
        assert sorted(order[place] for order in rounds) == sorted(names * 2)


def test_several_clients_have_half_the_rounds_and_not_who_takes_one_at_a_time() -> None:
    plan = list(turns(options(), contestants(False)))
    assert {t.round for t in plan if t.place == ONE} == {0, 1, 2, 3}
    assert {t.round for t in plan if t.place == MANY} == {0, 1}
    assert {c.name for c in contestants(False)} - {t.contestant.name for t in plan if t.place == MANY} == {"transformers"}


def test_quick_leaves_long_prompts_to_one_client() -> None:
    assert places((1, 8), (16, 256), quick=True) == (ONE, Place(1, 256), MANY)
    assert places((1, 8), (16, 256), quick=False) == (ONE, Place(1, 256), MANY, Place(8, 256))


@pytest.mark.parametrize("lookup", [False, True])
def test_no_two_contestants_of_a_server_share_their_prompts_and_first_ones_do(lookup: bool) -> None:
    """Else a prefix cache would be measured, or different texts compared."""
    series = [(c.server, c.series) for c in contestants(lookup)]
    assert len(set(series)) == len(series)
    assert {c.series for c in contestants(lookup) if c.server != "ours"} == {0} == {contestants(lookup)[0].series}


def completion(tokens: int, first_s: float, seconds: float, text: str = "x", steps: int = 0) -> Completion:
    return Completion("", text, 16, tokens, first_s, seconds, 0, 0, 0, steps)


def block(name: str, round_: int, completions: list[Completion], seconds: float, series: int = 0, place: Place = ONE) -> Block:
    return Block(name, series, place, round_, completions, seconds)


def test_figures_of_one_client() -> None:
    (place,) = places_report([block("ours", r, [completion(11, 0.5, 1.5)], 1.6) for r in range(2)], ["ours"])
    figures = place["contestants"]["ours"]
    assert figures["tokens_per_second"] == pytest.approx(11 / 1.6)
    assert figures["first_token_ms"] == pytest.approx(500)
    assert figures["token_ms"] == pytest.approx(100)
    assert figures["tokens_per_step"] is None


def test_several_clients_tokens_add_up_and_their_waits_are_averaged() -> None:
    two = [completion(11, 0.5, 1.5, steps=5), completion(11, 1.0, 2.0, steps=6)]
    (place,) = places_report([block("ours", 0, two, 2.0, place=MANY)], ["ours"])
    figures = place["contestants"]["ours"]
    assert figures["tokens_per_second"] == pytest.approx(11)
    assert figures["first_token_ms"] == pytest.approx(750)
    assert figures["token_ms"] == pytest.approx(100)
    assert figures["tokens_per_step"] == pytest.approx(2)


def test_ratios_are_above_one_where_the_first_is_faster_and_the_control_stands_among_them() -> None:
    blocks = [
        made
        for r in range(3)
        for made in (
            block("ours", r, [completion(11, 0.5, 1.5)], 1.5),
            block("ours again", r, [completion(11, 0.5, 1.5)], 1.5, series=1),
            block("llama.cpp", r, [completion(11, 0.25, 2.25)], 2.25),
        )
    ]
    (place,) = places_report(blocks, ["ours", "ours again", "llama.cpp", "vLLM"])
    assert set(place["ratios"]) == {"ours again", "llama.cpp"}, "what did not run has none"
    value = {metric: r["value"] for metric, r in place["ratios"]["llama.cpp"].items()}
    assert value == pytest.approx({"tokens_per_second": 1.5, "first_token": 0.5, "decoding": 2.0})
    assert all(r["value"] == pytest.approx(1) for r in place["ratios"]["ours again"].values())


def test_texts_are_compared_where_prompts_were_the_same() -> None:
    blocks = [
        block("ours", 0, [completion(9, 0.1, 1, "a")], 1), block("ours", 1, [completion(9, 0.1, 1, "b")], 1),
        block("ours again", 0, [completion(9, 0.1, 1, "c")], 1, series=1),
        block("vLLM", 0, [completion(9, 0.1, 1, "a")], 1), block("vLLM", 1, [completion(9, 0.1, 1, "z")], 1),
    ]  # fmt: skip
    (place,) = places_report(blocks, ["ours", "ours again", "vLLM"])
    assert place["same_text"] == {"ours": {"compared": 2, "equal": 2}, "vLLM": {"compared": 2, "equal": 1}}


def test_what_spoils_the_figures_is_said() -> None:
    blocks = [block("ours", 0, [completion(9, 0.1, 1.0, steps=3)], 1.0), block("vLLM", 0, [completion(7, 0.1, 1.0)], 1.0)]
    run = {
        "left_out": {"llama.cpp": "--llama is not given\nmore"}, "places": places_report(blocks, ["ours", "vLLM"]),
        "wrong_counts": wrong_counts(blocks, 9), "cores_busy_when_idle": {"ours": 0.01, "vLLM": 0.9},
    }  # fmt: skip
    assert notes(run) == [
        "left out: llama.cpp: --llama is not given",
        "vLLM: 1 completions with another prompt length or number of tokens",
        "vLLM keeps 0.90 cores busy while nothing is asked of it",
        "1 client, prompts of 16: ours commits 3.00 tokens a step",
        "vLLM: 1 of 1 texts are those of the first row",
    ]


def test_every_server_is_asked_for_the_same_and_to_go_on_past_the_end() -> None:
    body = Launch("vLLM", (), 1, "target").body("text", 9)
    theirs = Launch("transformers", (), 1, "folder", to_the_end=at_least).body("text", 9)
    shared = ("prompt", "max_tokens", "temperature", "stream")
    assert [body[name] for name in shared] == [theirs[name] for name in shared] == ["text", 9, 0.0, True]
    assert body["ignore_eos"] is True
    assert json.loads(theirs["generation_config"])["min_new_tokens"] == 9


@pytest.mark.parametrize("lookup", [False, True])
def test_our_own_server_takes_what_the_bench_asks(lookup: bool) -> None:
    modes = set()
    for contestant in contestants(lookup):
        if contestant.server == "ours":
            request = parse_body(CompletionRequest, Launch("ours", (), 1, "target").body("text", 9) | contestant.fields())
            modes.add(request.speculation_wish().mode)
            assert request.ignore_eos
    assert modes == ({"auto", "off"} if lookup else {"off"})


@pytest.mark.parametrize(
    ("installed", "name", "says"),
    [
        (Installed("", "", "", ""), "llama.cpp", "--llama is not given"),
        (Installed("", "", "", ""), "vLLM", "--vllm is not given"),
        (Installed("/nowhere", "", "", ""), "llama.cpp", "GGUF"),
    ],
)
def test_a_peer_that_is_not_there_says_how_to_get_it(installed: Installed, name: str, says: str, tmp_path: pathlib.Path) -> None:
    setup = Setup("demo:target", "float32", 2, 8, 1200)
    with pytest.raises(DrafthouseError, match=says):
        launches(setup, installed, False, tmp_path)[name]()


def test_a_dtype_that_ours_refuses_names_the_option(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="--dtype int3"):
        launches(Setup("demo:target", "int3", 2, 8, 1200), Installed("", "", "", ""), False, tmp_path)["ours"]()


@pytest.mark.parametrize(("draft", "kinds"), [("", ["lookup"]), ("demo:draft", ["model", "lookup"])])
def test_ours_drafts_by_lookup_and_by_the_draft_model_if_there_is_one(draft: str, kinds: list[str], tmp_path: pathlib.Path) -> None:
    launch = ours(Setup("demo:target", "float32", 2, 8, 1200, draft), tmp_path)
    config = load_config(pathlib.Path(launch.command[-1]))
    assert [stage.kind for stage in config.drafter.stages] == kinds
    assert (config.draft.path if config.draft is not None else "") == draft


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


def pairs(text: str) -> list[int]:
    """A tokenizer that joins `ab` across any cut: text cut after a token may encode to fewer."""
    return characters(text.replace("ab", "\u00e4"))


def decoded(ids: list[int]) -> str:
    return "".join(map(chr, ids)).replace("\u00e4", "ab")


TEXTS = ["abab ab a b" * 30, "one two three " * 30]


@pytest.mark.parametrize("encode", [characters, pairs])
@pytest.mark.parametrize("tokens", [16, 90])
def test_plain_prompts_have_exactly_so_many_tokens_and_a_number_of_their_own(encode: Callable, tokens: int) -> None:
    prompts = ExactPrompts(encode, decoded, TEXTS)
    texts = [prompts.plain(number, number, tokens) for number in range(40)]
    assert {len(encode(text)) for text in texts} == {tokens}
    assert len({text[:6] for text in texts}) == 40
    assert prompts.plain(7, 1, tokens)[6:] == prompts.plain(8, 1, tokens)[6:]


def test_a_copying_prompt_ends_with_its_own_beginning() -> None:
    text = ExactPrompts(characters, decoded, TEXTS).copying(3, 1, 90)
    passage, again = text[6:].split("\n\n")
    assert len(text) == 90
    assert passage.startswith(again)
    assert len(again) >= 16
    with pytest.raises(ConfigError, match="--prompt-tokens 40"):
        ExactPrompts(characters, decoded, TEXTS).copying(3, 1, 40)
