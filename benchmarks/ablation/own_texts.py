"""What the target itself says after each prompt, for prompts that are made of it.

Promises: greedy, so that the same target and prompts give the same texts; the model is gone afterwards.
"""

from collections.abc import Sequence

from drafthouse.config.serving import ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import load
from drafthouse.policy.latency import Curve
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from drafthouse.wire.generation_messages import GenerateRequest
from simulator.one_process import OneProcess
from verifier.engine import VerifierEngine

ANY_CURVE = Curve("any", "nothing is drafted, so nothing hangs on it", 1.0, 0.0, 0.0)

SELF_CHECK_TOKENS = 256
"""More than a model's check at its loading takes."""


def own_texts(target: ModelConfig, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """`tokens` after each prompt, all prompts side by side. Raises ModelError."""
    room = sum(len(prompt) + tokens for prompt in prompts)
    model = load(target.model_copy(update={"kv_tokens": max(room, SELF_CHECK_TOKENS)}))
    process = OneProcess(VerifierEngine(model, ANY_CURVE, VerifierConfig(), TreeConfig()), [])
    greedy, plain = SamplingParams(temperature=0.0), Speculation("off")
    outputs = process.generate(
        GenerateRequest(str(i), 1, tuple(prompt), (), greedy, 0, tokens, (), plain) for i, prompt in enumerate(prompts)
    )
    return [outputs[str(i)] for i in range(len(prompts))]
