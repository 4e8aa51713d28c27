"""The oracle of docs/design.md 1: whether two texts of one request parted at a near-tie, or for no good reason.

Both texts should be the same function of target, prompt, sampling and seed; in float32 and below
sums depend on the batch's shape, and two shapes may break a near-tie differently. At the first
token that differs the oracle runs the stock model in float64 over the prompt and the common tokens
(teacher forcing). A token *could have been chosen* there if rounding within the bound may put it
inside the filters and no lower than every token that rounding cannot filter out. The divergence is
explained if both tokens could have been chosen.

Bounds. Each is a largest error of a logit as a share of the row's spread (its standard deviation over
the vocabulary), because an error of sums grows with what is summed, and adding a constant to all
logits changes nothing. The bound of a text is the larger of two: its dtype's in `BOUNDS`, and
`SAFETY` times the worst error of the stock model over this very text, since a deep model errs more.
Ours sums in another order, and the errors of both add up.

Worst errors over 300 positions, of the stock model and of packed steps alike: the trained Llama of 10M
parameters 7e-6 in float32, 0.065 in bfloat16, 0.007 in float16; SmolLM2-135M 4e-5, 0.37 and 0.042.
Tiny random models of nine architectures, which are rougher, come to 4e-5 in float32. Two batch shapes
of one engine differ from each other by as much as they err. Logits of 16-bit models are float32 and
unrounded in ours (`drafthouse/engine/float32_head.py`), which changes these figures by a few per cent.
A mixture of experts has one more near-tie, the router's, which no bound on logits covers.

What is excused by chance: a wrong token whose score lies within twice the bound of the best. Gaps
are of the order of a spread, so that is one wrong token in thousands in float32; in bfloat16, where
it is every third or more, the oracle says little.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from drafthouse.noise import gumbel, position_key
from drafthouse.sampling import SamplingParams

BOUNDS = {torch.float64: 1e-6, torch.float32: 2e-4, torch.bfloat16: 0.2, torch.float16: 0.025}
"""float64's allows for `choose`, which rounds logits of any dtype to float32."""

KNOWN = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Fields of `SamplingParams`, the first ones, that the oracle applies."""

SAFETY = 4.0

FLOAT32_EPS = 2.0**-23


@dataclass(frozen=True, slots=True)
class Divergence:
    """`index` counts output tokens. `gap` is how far the lower of the two tokens' perturbed scores lies below the best of
    those that certainly pass the filters, and `rounding` the largest error of a logit in the model's own dtype up to there,
    both in spreads of the row and without the noise of the float32 sums; `bound` is the text's."""

    index: int
    tokens: tuple[int, int]
    gap: float
    bound: float
    rounding: float
    explained: bool


def float64_twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with the same weights in float64, which holds those of every lower dtype exactly."""
    twin: PreTrainedModel = copy.deepcopy(model).double()
    return twin.eval()


@torch.inference_mode()
def explain(
    model: PreTrainedModel,
    twin: PreTrainedModel,
    prompt: Sequence[int],
    sampling: SamplingParams,
    seed: int,
    first: Sequence[int],
    second: Sequence[int],
) -> Divergence | None:
    """None if the two outputs are equal. `model` is the stock model in the dtype that was served, `twin` its `float64_twin`.

    Outputs of different length with a common start differ where the shorter ends, and nothing explains that.
    """
    common = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    if common == max(len(first), len(second)):
        return None
    if common == min(len(first), len(second)):
        return Divergence(common, (-1, -1), float("inf"), BOUNDS[model.dtype], 0.0, False)
    tokens = [*prompt, *first[:common]]
    rows = _logits(twin, tokens)
    rounding, bound = _rounding(model, rows, tokens)
    exact = rows[-1]
    lacking, slack = _lacking(exact, sampling, seed, tokens, bound)
    pair = (int(first[common]), int(second[common]))
    gap = max(float(lacking[token]) for token in pair)
    return Divergence(common, pair, gap / (float(exact.std()) or 1.0), bound, rounding, gap <= slack)


@torch.inference_mode()
def first_impossible(
    model: PreTrainedModel,
    twin: PreTrainedModel,
    prompt: Sequence[int],
    sampling: SamplingParams,
    seed: int,
    output: Sequence[int],
    start: int,
) -> int | None:
    """The index of the first token of `output`, from `start` on, that could not have been chosen after those before it; None
    if all could. Models as in `explain`."""
    tokens = [*prompt, *output]
    rows = _logits(twin, tokens[:-1])
    _, bound = _rounding(model, rows, tokens[:-1])
    for index in range(start, len(output)):
        at = len(prompt) + index
        lacking, slack = _lacking(rows[at - 1], sampling, seed, tokens[:at], bound)
        if float(lacking[tokens[at]]) > slack:
            return index
    return None


def _rounding(model: PreTrainedModel, exact: torch.Tensor, tokens: Sequence[int]) -> tuple[float, float]:
    """The largest error of the model's logits after each of `tokens`, in spreads of the row, and the bound that follows."""
    spread = exact.std(-1, keepdim=True)
    errors = (_logits(model, tokens) - exact).abs() / torch.where(spread > 0.0, spread, 1.0)
    worst = float(errors.max())
    return worst, max(BOUNDS[model.dtype], SAFETY * worst)


def _logits(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """float64 `[tokens, vocab]`: after each token, in one pass without a cache."""
    logits: torch.Tensor = model(torch.tensor([list(tokens)], device=model.device), use_cache=False).logits[0]
    return logits.double()


def _lacking(exact: torch.Tensor, sampling: SamplingParams, seed: int, tokens: Sequence[int], bound: float) -> tuple[torch.Tensor, float]:
    """How far each token's score after `tokens` lies below the best (`_Row.lacking`), and how far rounding lets a chosen one lie."""
    row = _Row(exact, sampling, tokens, bound * (float(exact.std()) or 1.0))
    noise = torch.zeros_like(exact)
    if not sampling.greedy:
        noise = gumbel(torch.tensor([position_key(seed, len(tokens))]), len(exact))[0].to(exact)
    return row.lacking(noise), 2 * row.error + 4 * FLOAT32_EPS * float((row.scaled + noise).abs().max())


class _Row:
    """Logits after penalty and temperature, `error` the same bound on that scale, and what the filters surely or possibly keep.

    Written anew in float64 rather than taken from `drafthouse.choose`, so that an oracle does not share its faults.
    """

    def __init__(self, logits: torch.Tensor, sampling: SamplingParams, seen: Sequence[int], error: float):
        if sampling != SamplingParams(*(getattr(sampling, name) for name in KNOWN)):
            raise ValueError("the oracle knows temperature, top-k, top-p, min-p and the repetition penalty alone")
        scaled = logits.clone()
        if sampling.penalises:
            ids = torch.tensor(sorted(set(seen)), device=logits.device)
            penalty = sampling.repetition_penalty
            scaled[ids] = torch.where(scaled[ids] > 0, scaled[ids] / penalty, scaled[ids] * penalty)
            error *= max(penalty, 1 / penalty)
        temperature = sampling.temperature or 1.0
        self.scaled, self.error = scaled / temperature, error / temperature
        self.surely, self.possibly = torch.ones_like(scaled, dtype=torch.bool), torch.ones_like(scaled, dtype=torch.bool)
        if sampling.filters:
            self._filter(sampling)
        self.surely[self.scaled.argmax()] = True  # the best token always stays

    def lacking(self, noise: torch.Tensor) -> torch.Tensor:
        """How far below the best surely kept score each token lies; infinite for one that the filters surely drop."""
        scores = self.scaled + noise
        return (scores[self.surely].max() - scores).masked_fill(~self.possibly, float("inf"))

    def _filter(self, sampling: SamplingParams) -> None:
        """Top-k, top-p and min-p where each logit may be off by `error`, so that two may swap places within twice that."""
        ordered = self.scaled.sort(descending=True).values
        reach = 2 * self.error
        inside = self.scaled >= ordered[0] - float("inf")
        if 0 < sampling.top_k < len(ordered):
            inside = self.scaled >= ordered[sampling.top_k - 1]
            self.possibly &= self.scaled >= ordered[sampling.top_k - 1] - reach
            self.surely &= self.scaled > ordered[sampling.top_k] + reach
        if sampling.top_p < 1.0:
            mass = self.scaled.masked_fill(~inside, float("-inf")).softmax(-1)
            self.possibly &= self._mass_above(mass, reach) * _exp(-2 * reach) < sampling.top_p
            self.surely &= self._mass_above(mass, -reach) * _exp(2 * reach) < sampling.top_p
        if sampling.min_p > 0.0:
            floor = float(ordered[0]) + float(torch.tensor(sampling.min_p, dtype=torch.float64).log())
            self.possibly &= self.scaled >= floor - reach
            self.surely &= self.scaled >= floor + reach

    def _mass_above(self, mass: torch.Tensor, distance: float) -> torch.Tensor:
        """For each token the probability of all others that lie more than `distance` above it (a negative one: or near it)."""
        ordered, index = self.scaled.sort(descending=True)
        before = torch.cat([mass.new_zeros(1), mass[index].cumsum(0)])
        count = torch.searchsorted(-ordered, -(self.scaled + distance), right=False)
        own = mass if distance < 0 else torch.zeros_like(mass)
        return before[count] - own


def _exp(x: float) -> float:
    return float(torch.tensor(x, dtype=torch.float64).exp())
