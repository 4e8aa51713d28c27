"""What the target itself says after each prompt, for prompts that are made of it.

Promises: greedy, so that the same target and prompts give the same texts; the model is gone afterwards.
"""

from collections.abc import Sequence

from benchmarks.one_process import OneProcess
from drafthouse.config import ModelConfig, TreeConfig, VerifierConfig
from drafthouse.engine.loader import load
from drafthouse.engine.profiling import latency_of
from drafthouse.generation_messages import GenerateRequest
from drafthouse.sampling import SamplingParams
from drafthouse.speculation import Speculation
from verifier.engine import VerifierEngine


def own_texts(target: ModelConfig, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """`tokens` after each prompt, all prompts side by side. Raises ModelError."""
    config = VerifierConfig()
    model = load(target.model_copy(update={"kv_tokens": sum(len(prompt) + tokens for prompt in prompts)}))
    process = OneProcess(VerifierEngine(model, latency_of(model, config.step_tokens), config, TreeConfig()), [])
    greedy, plain = SamplingParams(temperature=0.0), Speculation("off")
    outputs = process.generate(
        GenerateRequest(str(i), 1, tuple(prompt), (), greedy, 0, tokens, (), plain) for i, prompt in enumerate(prompts)
    )
    return [outputs[str(i)] for i in range(len(prompts))]
