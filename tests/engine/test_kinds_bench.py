"""`bench kinds` in one process: all ways of drafting write plain's text, and each is counted for itself."""

import io

from rich.console import Console

from benchmarks.ablation.schedule import Schedule
from benchmarks.kinds.bench import SAMPLING
from benchmarks.kinds.configurations import CONTROL, DRAFT, LOOKUP, MERGED, PLAIN, Contest
from benchmarks.kinds.figures import ALL, kinds_report
from benchmarks.kinds.one_process import measure
from benchmarks.kinds.prompts import KindPrompt

PROMPT = KindPrompt("code", "", tuple([5, 9, 200, 31, 77, 3] * 4))
TOKENS = 12


def test_texts_are_plains_whatever_drafts() -> None:
    contest = Contest("demo:target", "float32", 1, draft="demo:draft")
    console = Console(file=io.StringIO())
    schedule = Schedule(contest.names, 1, 1)
    written = measure(contest, [PROMPT], (), TOKENS, SAMPLING, schedule, console)
    report = kinds_report(written, contest.names, [PROMPT.kind], overlaps=False)
    assert report["texts"] == {"compared": 8, "different": {DRAFT: 0, LOOKUP: 0, CONTROL: 0, MERGED: 0}, "all_equal": True}
    assert [w.tokens for w in written] == [TOKENS] * 10
    figures = {name: both["greedy"] for name, both in report["kinds"][ALL].items()}
    assert {name for name, f in figures.items() if f["agreement"] is not None} == {DRAFT, MERGED}
    assert figures[PLAIN]["tokens_per_step"] == figures[CONTROL]["tokens_per_step"] == 1.0
    assert figures[PLAIN]["nodes_per_step"] == 0.0
    assert figures[PLAIN]["share_of_time"]["draft"] == 0.0 < figures[DRAFT]["share_of_time"]["draft"]
