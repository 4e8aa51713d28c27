"""With it on, the drafter works while the target verifies; with it off, it rests then. Real models in virtual time; one text."""

import pytest

from drafthouse.config.serving import ServingConfig, TreeConfig
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from simulator.virtual_pair import TRIP_S, ModelPair
from tests.engine.oracle import sampled
from tests.engine.pairs import loaded, noisy_copy, request
from tests.engine.tiny_models import tiny

SAMPLING = SamplingParams(temperature=0.8, top_k=40)
PROMPT, TOKENS, SEED = [5, 9, 200, 31], 60, 3
TARGET, DRAFT = Curve("target", "a test", 20.0, 0.05, 0.0), Curve("draft", "a test", 1.0, 0.5, 0.0)


class Watched(ModelPair):
    """Counts the draft passes that begin while a step runs, once its drafter can know of it."""

    def __init__(self, meanwhile: bool):
        config = ServingConfig(tree=TreeConfig(max_nodes=64, grow_during_verification=meanwhile))
        super().__init__(loaded(tiny("llama")), loaded(noisy_copy("llama", 0, 0.01)), TARGET, DRAFT, config)
        self.during = self.between = 0
        self._step_began: float | None = None
        runner, engine = self.verifier.runner, self.drafter
        run_step, run_pass = runner.run, engine.run_pass

        def step(segments):  # type: ignore[no-untyped-def]
            self._step_began = self.world.now if self.verifier.totals.steps else None  # the first takes the prompt in
            try:
                return run_step(segments)
            finally:
                self._step_began = None

        def draft():  # type: ignore[no-untyped-def]
            running = self._step_began is not None and self.world.now > self._step_began + TRIP_S
            self.during += running
            self.between += not running
            return run_pass()

        runner.run, engine.run_pass = step, draft  # type: ignore[method-assign]


@pytest.mark.parametrize("meanwhile", [True, False])
def test_passes_run_during_verification_only_where_that_is_on(meanwhile: bool) -> None:
    pair = Watched(meanwhile)
    [output] = pair.generate([request("r", PROMPT, TOKENS, SAMPLING, SEED)]).values()
    assert output == sampled(tiny("llama"), PROMPT, SAMPLING, SEED, TOKENS)
    assert pair.verifier.totals.accepted > 10
    assert pair.between > 10
    assert pair.during > 10 if meanwhile else pair.during == 0
