"""Decides at load time whether a model can be served: by trying, not by a list of names.

One packed step (two sequences of different length, the second with a token tree, after its prompt
was prefilled in chunks, and a lone token at the context's last position) must give the logits that
the stock model gives for each path alone. It catches recurrent state, attention that ignores our
function, and rotary scaling that looks at the longest position of the row.
"""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from drafthouse.engine.kv_cache import KvSequence
from drafthouse.engine.model_runner import ModelRunner
from drafthouse.engine.segment import Segment, causal, chunk, tree_step
from drafthouse.errors import ModelError
from drafthouse.token_tree import ROOT, TokenTree

TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest difference of a logit, as a share of the row's spread (its standard deviation).
The float64 bound allows for stock eager attention, whose softmax is float32; a wrong mask shows at 1e-2 or more."""

Reference = Callable[[list[int]], torch.Tensor]


def reference_of(model: PreTrainedModel) -> Reference:
    """The stock model: logits `[vocab]` after a whole sequence, in one pass without a cache."""
    implementation = "sdpa" if model._supports_sdpa else "eager"

    def logits_after(tokens: list[int]) -> torch.Tensor:
        serving = model.config._attn_implementation
        model.set_attn_implementation(implementation)
        try:
            with torch.inference_mode():
                return model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1].clone()
        finally:
            model.set_attn_implementation(serving)

    return logits_after


def self_check(runner: ModelRunner, reference: Reference, context: int) -> float:
    """Returns the largest relative difference seen. Raises ModelError when the model cannot be served."""
    generator = torch.Generator().manual_seed(0)
    long = min(48, context - 8)
    tokens = torch.randint(0, runner.vocab_size, (2, long + 1), generator=generator).tolist()
    first, second, far = (KvSequence(runner.cache) for _ in range(3))
    far.extend(1)
    lone = Segment(far, [0], [context - 1], [], causal(0, 1))  # what looks at the row's longest position sees this one
    try:
        return _compare(runner, reference, tokens[0][:8], tokens[1], first, second, lone)
    except (TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"self-check: the model cannot run on packed steps: {error}") from error
    finally:
        first.release()
        second.release()
        far.release()


def _compare(
    runner: ModelRunner, reference: Reference, short: list[int], long: list[int], first: KvSequence, second: KvSequence, lone: Segment
) -> float:
    half = len(long) // 2
    tree = TokenTree()
    a = tree.add(long[0], ROOT, 0.5, 0)
    b = tree.add(long[1], ROOT, 0.5, 0)
    tree.add(long[2], a, 0.5, 0)
    tree.add(long[3], b, 0.5, 0)
    runner.run([chunk(second, long[:half], 0, want_logits=True)])
    runner.run([chunk(second, long[half:-1], half, want_logits=True)])
    result = runner.run([chunk(first, short, 0, want_logits=True), tree_step(second, long[-1], len(long) - 1, tree), lone])
    if runner.attention_calls == 0:
        raise ModelError("self-check: the model never calls the attention function (a recurrent model?)")
    wanted = [reference(short), reference(long)] + [reference(long + tree.path(i)) for i in range(len(tree))]
    worst = 0.0
    for got, right in zip(result.logits, wanted, strict=True):
        spread = float(right.double().std()) or 1.0
        worst = max(worst, float((got.double() - right.double()).abs().max()) / spread)
    limit = TOLERANCE[result.logits.dtype]
    if not worst <= limit:
        raise ModelError(
            f"self-check: logits of packed steps with token trees differ from the stock model's by {worst:.3g} of their spread "
            f"(limit {limit:g} for {result.logits.dtype}); this architecture cannot be served exactly"
        )
    return worst
