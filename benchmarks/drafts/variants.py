"""Drafts by path, and drafts made worse or cheaper from one: `PATH`, `PATH@layers=N`, `PATH@noise=X`.

`layers` keeps the first N decoder layers; `noise` adds to each weight matrix normal noise of X times the
matrix's own deviation, the same in each run. So one checkpoint gives drafts of several sizes and qualities.

Promises: a fault in the text is a ConfigError that names --draft and it.
"""

import re
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from benchmarks.harness.contestants import load_stock
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.fingerprint import fingerprint
from drafthouse.engine.loader import LoadedModel, prepare
from drafthouse.engine.vocabulary import vocabulary_digest
from drafthouse.errors import ConfigError

_CHANGE = re.compile(r"^(?P<path>.+)@(?P<kind>layers|noise)=(?P<value>[^@/]*)$")
NOISE_SEED = 0


@dataclass(frozen=True)
class Variant:
    """`kind` is `layers`, `noise`, or empty for the checkpoint as it is."""

    path: str
    kind: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class LoadedDraft:
    name: str
    model: LoadedModel
    parameters: int


def parse(text: str) -> Variant:
    match = _CHANGE.match(text)
    if match is None:
        return Variant(text)
    kind, value = match["kind"], match["value"]
    try:
        number = float(value)
    except ValueError as error:
        raise ConfigError(f"--draft {text}: {value!r} is not a number") from error
    if kind == "layers" and not (number >= 1 and number == int(number)):
        raise ConfigError(f"--draft {text}: layers must be a whole number from 1 on")
    if kind == "noise" and not 0 < number <= 10:
        raise ConfigError(f"--draft {text}: noise must be above 0 and at most 10")
    return Variant(match["path"], kind, number)


def load_draft(text: str, config: ModelConfig) -> LoadedDraft:
    """`config` without its path. Raises ConfigError naming --draft, ModelError for what cannot be loaded."""
    variant = parse(text)
    path = model_path(variant.path)
    model = load_stock(variant.path, config.dtype)
    if variant.kind == "layers":
        _cut(model, int(variant.value), text)
    if variant.kind == "noise":
        _disturb(model, variant.value)
    parameters = model.num_parameters()
    own = config.model_copy(update={"path": text})
    prepared = prepare(model, own, "")
    whole = fingerprint(path, own, model.device, prepared.runner.forward.kernels)
    own_fingerprint = f"{whole} {variant.kind} {variant.value:g}".strip()
    return LoadedDraft(text, replace(prepared, fingerprint=own_fingerprint, vocabulary=vocabulary_digest(path)), parameters)


def _cut(model: PreTrainedModel, layers: int, text: str) -> None:
    decoder, config = model.get_decoder(), model.config.get_text_config()
    if layers > len(decoder.layers):
        raise ConfigError(f"--draft {text}: the checkpoint has {len(decoder.layers)} layers")
    decoder.layers = decoder.layers[:layers]
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


@torch.no_grad()
def _disturb(model: PreTrainedModel, noise: float) -> None:
    random = torch.Generator().manual_seed(NOISE_SEED)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight += noise * weight.float().std().to(weight.dtype) * torch.randn(weight.shape, generator=random).to(weight.dtype)
