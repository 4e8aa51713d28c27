"""Decides at load time whether a model can be served: by trying, not by a list of names.

One packed step holds a short prompt, a token tree whose prompt was prefilled in chunks, and a lone
token at the context's last position. Two questions are asked of its logits, on the model's own weights.

- Is the logic of transformers' modules right in a packed step? It runs one precision above the model's
  dtype and must give what the stock model gives there for each path alone, up to rounding. This catches
  recurrent state, attention that ignores our function, and rotary scaling that looks at the longest
  position of the row. Not asked where another forward serves.
- Does the served dtype add no more error than it must? The step runs as it is served, and the stock model
  runs in the same dtype; for int8 with the same rounding of what its linears hold and take. Both are compared with
  the stock model one precision above. Ours may not err clearly more. How far the two differ from each other says
  nothing: both are rounded.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from drafthouse.engine.forward import StockForward
from drafthouse.engine.kv_cache import KvCache, KvSequence
from drafthouse.engine.model_limits import limits_of
from drafthouse.engine.model_runner import KvShape, ModelRunner
from drafthouse.engine.native.int8 import rounding
from drafthouse.engine.packed_step import tree_step
from drafthouse.engine.raised_precision import raised
from drafthouse.engine.segment import Segment, causal, chunk
from drafthouse.errors import ModelError
from drafthouse.token_tree import ROOT, TokenTree

LOGIC_LIMIT = {torch.float64: 1e-5, torch.float32: 2e-3}
"""Largest error of a logit, as a share of its row's spread (the standard deviation over the vocabulary).
The float64 bound allows for stock eager attention, whose softmax is float32; a wrong mask shows at 1e-2 or more."""

WORST_LIMIT, TYPICAL_LIMIT = 4.0, 2.0
"""Times the stock model's errors that ours may come to, of the worst row and of the median one. Measured in bfloat16, float16 and
float32 over twenty draws of tokens for nine tiny architectures and ten for SmolLM2-135M: at most 2.1 and 1.3 times."""

FLOAT64_FLOOR = 1e-4
"""Stock norms are float32 in float64 models, too, and ours in the native decoder are not. At most 2e-5 for ten tiny architectures."""

SHORT, LONG, TAIL = 8, 48, 16
"""Tokens of the two prompts, and how many of the long one's last are compared."""


@dataclass(frozen=True, slots=True)
class RowErrors:
    """Of each row the largest error of a logit, in spreads of the row: the worst row's and the median one's."""

    worst: float
    typical: float

    @staticmethod
    def of(logits: torch.Tensor, right: torch.Tensor) -> "RowErrors":
        """Infinite where a logit is no number."""
        spread = right.double().std(-1, keepdim=True)
        errors = (logits.double() - right.double()).abs() / torch.where(spread > 0.0, spread, 1.0)
        rows = errors.nan_to_num(nan=float("inf")).amax(-1)
        return RowErrors(float(rows.max()), float(rows.median()))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Errors in the served dtype: of packed steps and of the stock model."""

    packed: RowErrors
    stock: RowErrors


class SelfCheck:
    """Knows what is right for one set of tokens, once `learn` has run; holds no copy of the weights."""

    def __init__(self, model: PreTrainedModel, context: int, int8: bool = False):
        self.model, self.context, self.int8 = model, context, int8
        vocab_size = limits_of(model.config).vocab_size
        long = min(LONG, context - SHORT)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, vocab_size, (2, long + 1), generator=generator).tolist()
        self.short, self.long = tokens[0][:SHORT], tokens[1]
        self.compared = min(TAIL, long // 2)
        self.tree = TokenTree()
        a, b = (self.tree.add(token, ROOT, 0.5, 0) for token in self.long[:2])
        self.leaves = [self.tree.add(self.long[2], a, 0.5, 0), self.tree.add(self.long[3], b, 0.5, 0)]
        self.right = torch.empty(0)  # [rows, vocab], one precision above
        self.stock_errors = RowErrors(0.0, 0.0)

    def learn(self) -> None:
        """Runs the stock model in both precisions. Call it before weights are repacked. Raises ModelError for weights that are damaged."""
        with raised(self.model) as above:
            with _speaking(f"in {_name(above)}"):
                self.right = self._stock()
            if not bool(self.right.isfinite().all()):
                raise ModelError(
                    f"self-check: the stock model's own logits are not all finite in {_name(above)}: are weights damaged, or too "
                    f"large for {_name(self.model.dtype)}?"
                )
            if self.int8:
                with rounding(self.model):
                    self.stock_errors = RowErrors.of(self._stock(), self.right)
        if above != self.model.dtype and not self.int8:
            self.stock_errors = RowErrors.of(self._stock(), self.right)

    def check_logic(self, shape: KvShape) -> None:
        """Packed steps of transformers' modules, one precision above. Call it after `learn` and before weights are repacked.

        Raises ModelError when they cannot serve the model.
        """
        with raised(self.model) as above:
            cache = KvCache(shape.layers, shape.kv_heads, shape.head_dim, LONG + 4 * SHORT, above, self.model.device)
            logic = RowErrors.of(self._packed(ModelRunner(StockForward(self.model), cache)), self.right).worst
        limit = LOGIC_LIMIT[above]
        if not logic <= limit:
            raise ModelError(
                f"self-check: logits of packed steps with token trees differ from the stock model's by {logic:.3g} of their spread "
                f"in {_name(above)} (limit {limit:g}); this architecture cannot be served exactly"
            )

    def judge(self, runner: ModelRunner) -> Verdict:
        """The model as it is served. Raises ModelError when its logits are not numbers or err clearly more than the stock model's."""
        dtype, stock = self.model.dtype, self.stock_errors
        served = "int8" if self.int8 else _name(dtype)
        logits = self._packed(runner)
        if not bool(logits.isfinite().all()) or stock.worst == float("inf"):
            wider = "bfloat16 or float32" if dtype == torch.float16 else "float32"
            raise ModelError(f"self-check: logits are not all finite in {served}; its range is too small for this model: take {wider}")
        packed = RowErrors.of(logits, self.right)
        floor = FLOAT64_FLOOR if dtype == torch.float64 else torch.finfo(dtype).eps
        limits = RowErrors(max(WORST_LIMIT * stock.worst, floor), max(TYPICAL_LIMIT * stock.typical, floor))
        if not (packed.worst <= limits.worst and packed.typical <= limits.typical):
            raise ModelError(
                f"self-check: in {served} logits of packed steps err by {packed.worst:.3g} of their spread (typically "
                f"{packed.typical:.3g}), where the stock model's err by {stock.worst:.3g} ({stock.typical:.3g}); the limits are "
                f"{limits.worst:.3g} ({limits.typical:.3g})"
            )
        return Verdict(packed, stock)

    @torch.inference_mode()
    def _stock(self) -> torch.Tensor:
        """Logits `[rows, vocab]` of the stock model, in one pass without a cache: sequences are padded behind their end."""
        paths = [self.long + self.tree.path(leaf) for leaf in self.leaves]
        width, end = len(paths[0]), len(self.long)
        start = end - 1 - self.compared
        keep = sorted({*range(len(self.short)), *range(start, width)})
        batch = torch.tensor([self.short + [0] * (width - len(self.short)), *paths], device=self.model.device)
        with _stock_attention(self.model):
            logits = self.model(input_ids=batch, use_cache=False, logits_to_keep=torch.tensor(keep, device=batch.device)).logits
        column = {position: i for i, position in enumerate(keep)}
        # In the order of packed rows: the tail of the long prompt, the short one, the root, and the tree's nodes as they were added.
        places = [(1, i) for i in range(start, end - 1)] + [(0, i) for i in range(len(self.short))]
        places += [(1, end - 1), (1, end), (2, end), (1, end + 1), (2, end + 1)]
        return torch.stack([logits[row, column[position]] for row, position in places])

    def _packed(self, runner: ModelRunner) -> torch.Tensor:
        """The same logits from packed steps."""
        first, second, far = (KvSequence(runner.cache) for _ in range(3))
        last = len(self.long) - 1
        half = last // 2
        try:
            with _speaking("on packed steps"):
                runner.run([chunk(second, self.long[:half], 0, want_logits=True)])
                tail = chunk(second, self.long[half:last], half, want_logits=True)
                tail.outputs = range(len(tail) - self.compared, len(tail))
                before = runner.run([tail]).logits
                short = chunk(first, self.short, 0, want_logits=True)
                short.outputs = range(len(short))
                far.extend(1)
                lone = Segment(far, [0], [self.context - 1], [], causal(0, 1))  # what looks at the row's longest position sees this one
                after = runner.run([short, tree_step(second, self.long[last], self.tree), lone]).logits
        finally:
            for kv in (first, second, far):
                kv.release()
        if runner.forward.attention_calls == 0:
            raise ModelError("self-check: the model never calls the attention function (a recurrent model?)")
        return torch.cat([before, after])


@contextlib.contextmanager
def _stock_attention(model: PreTrainedModel) -> Iterator[None]:
    serving = model.config._attn_implementation
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(serving)


@contextlib.contextmanager
def _speaking(where: str) -> Iterator[None]:
    """What an architecture raises inside becomes a ModelError."""
    try:
        yield
    except (TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"self-check: the model cannot run {where}: {error}") from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
