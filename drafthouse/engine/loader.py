"""From a config section to a model that passed the self-check, with its KV cache.

Promises: whatever is wrong with the folder, the device or the architecture becomes a ModelError
or ConfigError that names the path.
"""

import contextlib
import copy
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import distributed
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.distributed import DistributedConfig

from drafthouse.checkpoints.draft_folder import DraftFolder, head_rows
from drafthouse.checkpoints.gguf_record import dequantised
from drafthouse.checkpoints.model_folder import check_model
from drafthouse.checkpoints.model_path import model_path
from drafthouse.config.serving import ModelConfig
from drafthouse.engine.attention import stock_models as attention
from drafthouse.engine.cpu_linear import pack_linears
from drafthouse.engine.curve_files import load_curve
from drafthouse.engine.distilled import embeddings_digest, load_distilled, targets_tokenizer
from drafthouse.engine.fingerprint import fingerprint
from drafthouse.engine.fit import check_heads, check_memory, kv_shape
from drafthouse.engine.float32_head import widen_head
from drafthouse.engine.forward import Forward, StockForward
from drafthouse.engine.heap import give_back_freed, large_blocks_mapped
from drafthouse.engine.kv_cache import KvCache
from drafthouse.engine.load_stages import LoadStages
from drafthouse.engine.loaded_weights import check_weights
from drafthouse.engine.model_limits import limits_of, read_config
from drafthouse.engine.model_runner import KvShape, ModelRunner
from drafthouse.engine.native.decoder import NativeDecoder
from drafthouse.engine.native.description import DecoderDescription, NotDense, describe
from drafthouse.engine.native.forward import NativeForward
from drafthouse.engine.native.library import NoLibrary, load_library
from drafthouse.engine.native.share import Share
from drafthouse.engine.paced_runner import PacedRunner
from drafthouse.engine.row_check import check_rows
from drafthouse.engine.self_check import SelfCheck, Verdict
from drafthouse.engine.state_inputs import StateInputs
from drafthouse.engine.threads import measure
from drafthouse.engine.vocabulary import tokenizer_text, vocabulary_digest
from drafthouse.errors import ConfigError, DrafthouseError, ModelError
from drafthouse.grammars.compiler import Tokenizer, no_tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """A runner ready to serve, the model's context length in tokens, its fingerprint, and how many ranks hold it.

    `vocabulary` is the digest of its tokenizer's, empty where it is not known; `errors` is how far the self-check found logits to err;
    `threads` says how many of them run it on a CPU and how they wait; `tokenizer` gives its tokenizer, for grammars. A distilled draft
    has logits of `head_ids` alone, ascending int64 (None: of the whole vocabulary), and one that reads hidden states `state_inputs`.
    """

    runner: ModelRunner
    context: int
    fingerprint: str
    parallel: int = 1
    vocabulary: str = ""
    errors: Verdict | None = None
    threads: str = ""
    tokenizer: Tokenizer = no_tokenizer
    head_ids: torch.Tensor | None = None
    state_inputs: StateInputs | None = None

    @property
    def state_size(self) -> int:
        """Numbers in one of its hidden states."""
        return self.runner.forward.hidden_size

    @property
    def forward(self) -> str:
        """The name of what runs it."""
        return self.runner.forward.name

    @property
    def row_invariant(self) -> bool:
        return self.runner.forward.row_invariant


def load(config: ModelConfig, stages: LoadStages | None = None) -> LoadedModel:
    """A model in this process alone; with `parallel` above 1 that is `drafthouse.engine.parallel.replica.load_replica`'s work."""
    if config.parallel > 1:
        raise ConfigError(f"{config.path}: parallel is {config.parallel}, and this command runs a model in one process")
    check_fit(config)
    stages = stages or LoadStages()
    return identified(load_share(config, stages), config, stages)


def check_fit(config: ModelConfig) -> None:
    """The files are whole, the device is there, the heads divide, weights and KV cache go into memory. Raises ConfigError or ModelError."""
    check_model(config)
    device, model_config = device_of(config), read_config(config.path, config.trust_remote_code)
    with _named(config.path):
        check_heads(limits_of(model_config), config.parallel)
        check_memory(config, model_config, device, head_rows(pathlib.Path(model_path(config.path))))


def load_share(config: ModelConfig, stages: LoadStages | None = None) -> LoadedModel:
    """What this process holds of the model: all, or a rank's share where the process group of all ranks is there. Not yet `identified`.
    What loading took beyond the model goes back to the system."""
    stages = stages or LoadStages()
    path, device = model_path(config.path), device_of(config)
    if (origin := dequantised(pathlib.Path(path))) is not None:
        stages.tell(f"{config.path}: {origin}")
    threads = measure(config.threads) if device.type == "cpu" else None
    if threads is not None:
        stages.tell(f"{config.path}: {threads}")
    attention.register()
    with large_blocks_mapped():
        record = DraftFolder.read(pathlib.Path(path))
        if record is None:
            loaded = prepare(_weights(path, device, config, stages), config, "", stages)
        else:
            loaded = _draft(pathlib.Path(path), record, device, config, stages)
    give_back_freed()
    return replace(loaded, threads=str(threads or ""))


def _draft(folder: pathlib.Path, record: DraftFolder, device: torch.device, config: ModelConfig, stages: LoadStages) -> LoadedModel:
    """Its vocabulary is the one that it was distilled with."""
    dtype = torch.bfloat16 if config.dtype == "int8" else getattr(torch, config.dtype)
    with stages.stage("weights"), _named(config.path):
        draft = load_distilled(folder, record, config, dtype, device)
    reads = ", and reads the target's hidden states" if record.hidden else ""
    stages.tell(f"{config.path}: a draft distilled for {record.target}; it knows {len(draft.head_ids)} tokens{reads}")
    model = prepare(draft.model, config, "", stages)
    state_inputs = draft.state_inputs
    if state_inputs is not None and model.forward == NativeForward.name:
        state_inputs = state_inputs.on_native()
    return replace(model, head_ids=draft.head_ids, state_inputs=state_inputs)


def _weights(path: str, device: torch.device, config: ModelConfig, stages: LoadStages) -> PreTrainedModel:
    dtype = stored_dtype(config)
    options: dict[str, Any] = {"distributed_config": DistributedConfig(tp_size=config.parallel)} if config.parallel > 1 else {}
    if dtype == torch.float64:
        options["experts_implementation"] = "eager"  # torch's grouped matrix product has no float64
    with stages.stage("weights"), _named(config.path):
        model: PreTrainedModel
        model, loading = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=attention.IMPLEMENTATION, trust_remote_code=config.trust_remote_code,
            output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
        check_weights(loading)
        return model.to(device, torch.float32 if config.dtype == "int8" and model.dtype == torch.float16 else model.dtype)


def identified(model: LoadedModel, config: ModelConfig, stages: LoadStages) -> LoadedModel:
    """With fingerprint and vocabulary, for which all files are read."""
    path, device = model_path(config.path), model.runner.cache.data.device
    record = DraftFolder.read(pathlib.Path(path))
    with stages.stage("fingerprint"), _named(config.path):
        embeddings = embeddings_digest(record, config) if record is not None else ""
        found = fingerprint(path, config, device, model.runner.forward.kernels, stages.tell, embeddings)
        vocabulary = record.vocabulary if record is not None else vocabulary_digest(path, config.trust_remote_code)
    give_back_freed()  # of the tokenizer
    stages.tell(f"{config.path}: fingerprint {found} ({config.dtype}, {device})")
    tokenizer = partial(tokenizer_text, path, config.trust_remote_code) if record is None else partial(targets_tokenizer, record, config)
    return replace(model, fingerprint=found, vocabulary=vocabulary, tokenizer=tokenizer)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors inside become ours, with the model's path."""
    try:
        yield
    except DrafthouseError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # fault boundary: transformers, safetensors and torch raise many kinds
        raise ModelError(f"{path}: cannot load the model: {error}") from error


def device_of(config: ModelConfig) -> torch.device:
    """Where this process's model goes. Raises ConfigError when it is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{config.path}: device is cuda, but torch sees no GPU")
    return torch.device("cuda", torch.cuda.current_device()) if config.device == "cuda" else torch.device("cpu")


def stored_dtype(config: ModelConfig) -> torch.dtype | str:
    """What weights are loaded in: for int8 what their files hold, which the native decoder rounds when it packs them."""
    return "auto" if config.dtype == "int8" else getattr(torch, config.dtype)


def _own_config(model: PreTrainedModel) -> None:
    """A copy for the model and all modules in it: which attention and which experts run is written there."""
    copies: dict[int, Any] = {}
    copy.deepcopy(model.config, copies)
    for module in model.modules():
        if (copied := copies.get(id(getattr(module, "config", None)))) is not None:
            module.config = copied


def prepare(model: PreTrainedModel, config: ModelConfig, model_fingerprint: str, stages: LoadStages | None = None) -> LoadedModel:
    """Checks and wraps a model in memory; its config is copied, since other models may share it."""
    stages = stages or LoadStages()
    attention.register()
    _own_config(model)
    model.eval().requires_grad_(False)
    context = limits_of(model.config).context_tokens
    shape, int8 = kv_shape(model, config.parallel), config.dtype == "int8"
    kv_dtype = torch.bfloat16 if int8 else model.dtype
    try:
        model.set_attn_implementation(attention.IMPLEMENTATION)
    except ValueError as error:
        raise ModelError(f"{config.path}: self-check: no custom attention in this architecture: {error}") from error
    check = SelfCheck(model, context, int8)
    try:
        description = _description(model, config, context, stages)
        if description is not None:  # its ranks share out KV heads that transformers' keep whole in some architectures
            shape = KvShape(len(description.layers), description.kv_heads, description.head_dim)
        cache = KvCache(shape.layers, shape.kv_heads, shape.head_dim, config.kv_tokens, kv_dtype, model.device)
        with stages.stage("self-check"):
            check.learn()
            if description is None:
                check.check_logic(shape)
        with stages.stage("packing"):
            forward = _stock(model, config) if description is None else _native(description, cache, config)
        runner = ModelRunner(forward, cache)
        with stages.stage("check as served"):
            errors = check.judge(runner)
            if forward.row_invariant:
                check_rows(runner, context)
    except ModelError as error:
        raise ModelError(f"{config.path}: {error}") from error
    if config.prefix_cache == "on" or (config.prefix_cache == "auto" and forward.row_invariant):
        cache.share_prefixes()
    stages.tell(
        f"{config.path}: in {config.dtype} logits err by at most {errors.packed.worst:.2g} of their spread, "
        f"the stock model's{' with the same rounding' if int8 else ''} by {errors.stock.worst:.2g}"
    )
    if config.paced is not None:
        runner = PacedRunner(forward, cache, load_curve(config.paced.curve), config.paced.time_scale)
    return LoadedModel(runner, context, model_fingerprint, config.parallel, errors=errors)


def _description(model: PreTrainedModel, config: ModelConfig, context: int, stages: LoadStages) -> DecoderDescription | None:
    """For the native decoder where it runs this model here; None where transformers' modules do. The log says which and why."""
    if model.device.type != "cpu":
        reason = f"device {model.device.type}"
    else:
        try:
            share = Share(distributed.get_rank(), config.parallel) if config.parallel > 1 else Share()
            description = describe(model, context, share)
            load_library()
            stages.tell(f"{config.path}: runs on the native decoder; each row's bits are its own")
            return description
        except (NotDense, NoLibrary) as error:
            reason = str(error)
    if config.dtype == "int8":
        raise ModelError(
            f"dtype: int8 runs on the native decoder alone (docs/models.md lists its families), and this model does not: {reason}; "
            "take float32 or bfloat16"
        )
    stages.tell(f"{config.path}: runs through transformers' modules: {reason}")
    return None


def _native(description: DecoderDescription, cache: KvCache, config: ModelConfig) -> Forward:
    return NativeForward(NativeDecoder(description, cache, torch.int8 if config.dtype == "int8" else cache.data.dtype, config.threads))


def _stock(model: PreTrainedModel, config: ModelConfig) -> Forward:
    if config.parallel == 1:
        pack_linears(model)
    widen_head(model)
    return StockForward(model)
