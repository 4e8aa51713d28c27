"""The policies that speculate alike at any load, as baselines: chains, trees of a set size, chain length by batch size."""

from collections.abc import Callable, Sequence

import pytest

from drafthouse.config.serving import VerifierConfig
from drafthouse.sampling import SamplingParams
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from tests.engine.oracle import sampled
from tests.engine.pairs import loaded, noisy_copy, pair, prompts, request
from tests.engine.tiny_models import tiny

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)


def run(both: OneProcess, requests: Sequence[GenerateRequest], look: Callable[[], None]) -> dict[str, list[int]]:
    """As `OneProcess.generate`, with a look at the engines after each turn."""
    outputs: dict[str, list[int]] = {r.request_id: [] for r in requests}
    for r in requests:
        both.verifier.submit(r)
    while both.verifier.sequences:
        for reply in both.turn():
            outputs[reply.request_id] += reply.tokens
        look()
    return outputs


def test_width_one_is_a_chain_and_verified_whole() -> None:
    both = pair(loaded(tiny("llama")), [loaded(noisy_copy("llama", 0, 0.02))])
    shapes: set[tuple[int, ...]] = set()
    sizes: list[int] = []

    def look() -> None:
        shapes.update(tuple(s.tree.parents) for d in both.drafters.values() for s in d.sessions.values())
        sizes.append(both.verifier.totals.verified)

    prompt = prompts(1)[0]
    got = run(both, [request("a", prompt, 24, SAMPLED, 3, "fixed", nodes=3, depth=3, width=1)], look)
    assert got["a"] == sampled(tiny("llama"), prompt, SAMPLED, 3, 24)
    assert (-1, 0, 1) in shapes
    assert shapes <= {(), (-1,), (-1, 0), (-1, 0, 1)}, "one child per node"
    steps = [after - before for before, after in zip(sizes, sizes[1:], strict=False)]
    assert max(steps) == 3
    assert both.verifier.totals.accepted > 0


@pytest.mark.parametrize(("sequences", "longest"), [(1, 4), (2, 4), (3, 1), (4, 0)])
def test_table_takes_the_chain_length_of_its_batch(sequences: int, longest: int) -> None:
    """All requests have prompts of one length, so that they decode together from first to last."""
    verifier = VerifierConfig.model_validate({"batch_table": [[2, 4], [3, 1]]})
    both = pair(loaded(tiny("llama")), [loaded(noisy_copy("llama", 0, 0.01))], verifier)
    texts = prompts(sequences, shortest=8, longest=8)
    most = [0]
    before = [0, 0]

    def look() -> None:
        totals = both.verifier.totals
        if len(both.verifier.scheduler.running) == sequences and totals.steps > before[0]:
            most[0] = max(most[0], totals.verified - before[1])
        before[:] = [totals.steps, totals.verified]

    got = run(both, [request(str(i), p, 24, SAMPLED, i, "table") for i, p in enumerate(texts)], look)
    oracle = tiny("llama")
    for i, text in enumerate(texts):
        assert got[str(i)] == sampled(oracle, text, SAMPLED, i, 24)
    assert most[0] == sequences * longest
