"""What keeps a model from being loaded is found in its files' names and headers: each fault names the file and what to do."""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from drafthouse.checkpoints import hub_models
from drafthouse.checkpoints.model_folder import check_model, model_faults
from drafthouse.config.serving import ModelConfig
from drafthouse.errors import ConfigError

LLAMA = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
WEIGHTS = {"a": np.zeros((4, 8), np.float32), "b": np.ones(8, np.float32)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def _folder(path: pathlib.Path, **config: Any) -> pathlib.Path:
    """A sound folder as far as names and headers tell."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA | config), encoding="utf-8")
    Tokenizer(models.BPE({"a": 0}, [])).save(str(path / "tokenizer.json"))
    save_file(WEIGHTS, path / "model.safetensors")
    return path


def _sharded(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()
    names = {name: f"model-{i:05}-of-00002.safetensors" for i, name in enumerate(WEIGHTS, 1)}
    for name, shard in names.items():
        save_file({name: WEIGHTS[name]}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")


Step = Callable[[pathlib.Path], object]
"""What is done to a sound folder."""


def _edit(name: str, change: Callable[[bytes], bytes]) -> Step:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def _config(**changes: Any) -> Step:
    return _edit("config.json", lambda text: json.dumps(json.loads(text) | changes).encode())


def _both(*steps: Step) -> Step:
    return lambda folder: [step(folder) for step in steps]


def _remove(*names: str) -> Step:
    return lambda folder: [(folder / name).unlink() for name in names]


def _adapter(folder: pathlib.Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}', encoding="utf-8")


def _in_the_next_folder(folder: pathlib.Path) -> None:
    shutil.move(_folder(folder.parent / "inner"), folder / "inner")
    _remove("config.json", "tokenizer.json", "model.safetensors")(folder)


INDEX = "model.safetensors.index.json"
BROKEN: dict[str, tuple[Step, str]] = {
    "no tokenizer": (_remove("tokenizer.json"), r"no tokenizer here \(tokenizer\.json\); copy the tokenizer files"),
    "tokenizer cut short": (_edit("tokenizer.json", lambda text: text[:-9]), r"tokenizer\.json: not JSON: "),
    "tokenizer of something else": (_edit("tokenizer.json", lambda _: b"{}"), r"tokenizer\.json: no tokenizer that this version of"),
    "tokenizer a pointer": (_edit("tokenizer.json", lambda _: LFS), r"tokenizer\.json: a Git LFS pointer"),
    "encoder and decoder": (_config(model_type="t5", is_encoder_decoder=True), r"config\.json: t5 is an encoder-decoder model; only"),
    "size in words": (_config(vocab_size="many"), r"config\.json: vocab_size is 'many', not a whole number above 0"),
    "size of the text part": (_config(text_config={"head_dim": 0}), r"config\.json: text_config\.head_dim is 0, not a whole number"),
    "no config": (_remove("config.json"), r"no config\.json here, .*it holds model\.safetensors, tokenizer\.json"),
    "one folder too high": (_in_the_next_folder, r"no config\.json here, .*did you mean .*/model/inner\?"),
    "no weights": (_remove("model.safetensors"), r"no weights here: neither model\.safetensors nor .*it holds config\.json, tokenizer"),
    "adapter beside a model": (_adapter, r"adapter_config\.json: a LoRA adapter, .*give its base \(org/base\), or merge both"),
    "adapter": (_both(_adapter, _remove("config.json")), r"adapter_config\.json: a LoRA adapter, .*merge both"),
    "config cut short": (_edit("config.json", lambda text: text[:20]), r"config\.json: not JSON: "),
    "config a list": (_edit("config.json", lambda _: b"[]"), r"config\.json: not a JSON object"),
    "config a pointer": (_edit("config.json", lambda _: LFS), r"config\.json: a Git LFS pointer, .*git lfs pull"),
    "no model type": (_config(model_type=None), r"config\.json: model_type is None, which transformers [\d.]+ does not know"),
    "unknown model type": (_config(model_type="llamma"), r"config\.json: model_type is 'llamma', which transformers [\d.]+ does not know"),
    "own code": (_config(model_type="own", auto_map={"AutoConfig": "x.X"}), r"config\.json: auto_map: .*trust_remote_code: true .*read"),
    "gptq": (_config(quantization_config={"quant_method": "gptq"}), r"config\.json: .*with gptq need device: cuda, and this"),
    "awq": (_config(quantization_config={"quant_method": "awq"}), r".*with awq need device: cuda"),
    "quantised text part": (_config(text_config={"quantization_config": {"quant_method": "bitsandbytes"}}), r".*with bitsandbytes need"),
    "cut short": (_edit("model.safetensors", lambda data: data[:-1]), r"model\.safetensors: [\d,]+ bytes, .*: cut short; fetch"),
    "too long": (_edit("model.safetensors", lambda data: data + b"\0"), r"model\.safetensors: .*: damaged; fetch it again"),
    "header cut short": (_edit("model.safetensors", lambda data: data[:20]), r"model\.safetensors: 20 bytes, too short"),
    "empty": (_edit("model.safetensors", lambda _: b""), r"model\.safetensors: 0 bytes, too short"),
    "header damaged": (_edit("model.safetensors", lambda data: data[:8] + b"x" + data[9:]), r"model\.safetensors: its header"),
    "weights a pointer": (_edit("model.safetensors", lambda _: LFS), r"model\.safetensors: a Git LFS pointer"),
    "shard missing": (
        _both(_sharded, _remove("model-00002-of-00002.safetensors")),
        rf"model-00002-of-00002\.safetensors: missing, though {re.escape(INDEX)} names it",
    ),
    "shard cut short": (
        _both(_sharded, _edit("model-00001-of-00002.safetensors", lambda data: data[:-8])),
        r"model-00001-of-00002\.safetensors: .*cut short",
    ),
    "shard of another model": (
        _both(_sharded, lambda folder: save_file({"c": WEIGHTS["a"]}, folder / "model-00001-of-00002.safetensors")),
        r"model-00001-of-00002\.safetensors: lacks a, which the index says it holds",
    ),
    "index without a map": (_both(_sharded, _edit(INDEX, lambda _: b"{}")), rf"{re.escape(INDEX)}: no weight_map"),
    "index cut short": (_both(_sharded, _edit(INDEX, lambda data: data[:9])), rf"{re.escape(INDEX)}: not JSON"),
    "torch file cut short": (
        _both(_remove("model.safetensors"), lambda folder: (folder / "pytorch_model.bin").write_bytes(b"PK\3\4 cut")),
        r"pytorch_model\.bin: cut short or damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_named_with_its_file(tmp_path: pathlib.Path, kind: str) -> None:
    spoil, said = BROKEN[kind]
    folder = _folder(tmp_path / "model")
    assert model_faults(ModelConfig(path=str(folder)), tokenizer=True) == []
    spoil(folder)
    [fault] = model_faults(ModelConfig(path=str(folder)), tokenizer=True)
    assert re.match(rf"{folder}: {said}", fault), fault


def test_sound_shards_pass(tmp_path: pathlib.Path) -> None:
    _sharded(_folder(tmp_path / "model"))
    assert model_faults(ModelConfig(path=str(tmp_path / "model")), tokenizer=True) == []


def test_all_faults_of_a_folder_are_told_together(tmp_path: pathlib.Path) -> None:
    folder = _folder(tmp_path / "model", quantization_config={"quant_method": "awq"})
    _remove("tokenizer.json", "model.safetensors")(folder)
    with pytest.raises(ConfigError) as caught:
        check_model(ModelConfig(path=str(folder)), tokenizer=True)
    assert [line.split(": ")[1][:10] for line in str(caught.value).splitlines()] == ["config.jso", "no weights", "no tokeniz"]


def test_a_draft_needs_no_tokenizer_beside_its_targets(tmp_path: pathlib.Path) -> None:
    folder = _folder(tmp_path / "model")
    _remove("tokenizer.json")(folder)
    assert model_faults(ModelConfig(path=str(folder))) == []


def test_code_that_may_run_is_no_fault_and_neither_is_code_that_transformers_does_not_need(tmp_path: pathlib.Path) -> None:
    own = _folder(tmp_path / "own", model_type="own", auto_map={"AutoConfig": "x.X"})
    assert model_faults(ModelConfig(path=str(own), trust_remote_code=True)) == []
    known = _folder(tmp_path / "known", auto_map={"AutoConfig": "x.X"})
    assert model_faults(ModelConfig(path=str(known))) == []


def test_quantised_weights_on_a_gpu_need_their_packages(tmp_path: pathlib.Path) -> None:
    path = str(_folder(tmp_path / "model", quantization_config={"quant_method": "gptq"}))
    [fault] = model_faults(ModelConfig(path=path, device="cuda"))
    assert fault.endswith("with gptq need what is not installed here: pip install optimum gptqmodel")
    _config(quantization_config={"quant_method": "fp8"})(tmp_path / "model")
    assert model_faults(ModelConfig(path=path)) == model_faults(ModelConfig(path=path, device="cuda")) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("{}/modle", r"no such folder; did you mean {}/model\?"),
        ("{}/absent/model", r"no such folder \(nor is there {}/absent\)"),
        ("./modle", "no such folder"),
        ("~/no-such-model-here", "no such folder"),
        ("modle", "no such folder; a hub id has the form ORG/NAME"),
        ("smolm2", r"no such folder; did you mean smollm2\?"),
        ("a/b/c", "no such folder"),
        ("org/na me", "no such folder"),
        ("{}/model/config.json", "a file; a model is a folder with config.json, model.safetensors"),
    ],
)
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path: pathlib.Path, path: str, said: str) -> None:
    _folder(tmp_path / "model")
    path = path.format(tmp_path)
    [fault] = model_faults(ModelConfig(path=path))
    assert re.match(f"{re.escape(path)}: {said.format(tmp_path)}", fault), fault


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder of a hub cache, and a hub that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_models, "HUB_TIMEOUT_S", 0.1)
        yield tmp_path / "hub"


def _cached(cache: pathlib.Path) -> pathlib.Path:
    """`org/name` in a hub cache."""
    (cache / "models--org--name" / "snapshots").mkdir(parents=True)
    (cache / "models--org--name" / "refs").mkdir()
    (cache / "models--org--name" / "refs" / "main").write_text("c0ffee", encoding="utf-8")
    return _folder(cache / "models--org--name" / "snapshots" / "c0ffee")


MODEL = ModelConfig(path="org/name")


def test_a_hub_that_does_not_answer_is_not_waited_for(silent_hub: pathlib.Path) -> None:
    [fault] = model_faults(MODEL)
    assert re.match(r"org/name: no such folder; as a hub id it is not in the local cache, .*no answer from .* within 0\.1 s", fault), fault
    assert "`hf download org/name` fetches it where there is a network, for HF_HUB_OFFLINE=1 here" in fault


def test_a_cached_model_is_served_offline(silent_hub: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cached(silent_hub)
    [fault] = model_faults(MODEL)
    assert re.match(r"org/name: in the hub's local cache, .*HF_HUB_OFFLINE=1 serves what is there", fault), fault
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_faults(MODEL, tokenizer=True) == []


def test_offline_what_the_cache_lacks_is_a_fault(silent_hub: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    [fault] = model_faults(MODEL)
    assert fault.startswith("org/name: not in the hub's local cache, and HF_HUB_OFFLINE=1 forbids asking the hub; `hf download org/name`")
    _remove("tokenizer.json", "model.safetensors")(_cached(silent_hub))
    assert [fault[:20] for fault in model_faults(MODEL, tokenizer=True)] == ["org/name: no weights", "org/name: no tokeniz"]


class _Hub(BaseHTTPRequestHandler):
    """Knows `org/name` alone."""

    def do_GET(self) -> None:
        known = self.path.startswith("/api/models/org/name")
        self.send_response(200 if known else 404)
        self.send_header("content-type", "application/json")
        self.send_header("x-error-code", "" if known else "RepoNotFound")
        self.end_headers()
        self.wfile.write(json.dumps({"id": "org/name", "siblings": []} if known else {"error": "not found"}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: test output is for tests."""


def test_a_hub_that_answers_decides(silent_hub: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_models, "HUB_TIMEOUT_S", 10.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        assert model_faults(MODEL) == []
        [fault] = model_faults(ModelConfig(path="org/nmae"))
        assert re.match(r"org/nmae: no such folder; .*it knows no such model, or none that this user may see: check the name", fault), fault
        _config(quantization_config={"quant_method": "awq"})(_cached(silent_hub))
        [fault] = model_faults(MODEL, tokenizer=True)
        assert "quantised with awq" in fault
        server.shutdown()


def test_the_checks_need_neither_torch_nor_transformers(tmp_path: pathlib.Path) -> None:
    """Their import alone takes longer than a person should wait for an error."""
    _remove("tokenizer.json")(_folder(tmp_path / "model", quantization_config={"quant_method": "awq"}))
    code = (
        "import sys; from drafthouse.checkpoints.model_folder import model_faults; from drafthouse.config.serving import ModelConfig\n"
        f"assert len(model_faults(ModelConfig(path={str(tmp_path / 'model')!r}), True)) == 2\n"
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
