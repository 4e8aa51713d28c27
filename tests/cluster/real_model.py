"""SmolLM2 through the running server on fifty chats, beside transformers: `python -m tests.cluster.real_model --dtype bfloat16`.

Each chat goes in by HTTP as messages and by gRPC as the token ids that `apply_chat_template` makes of it. Both must give one
text. The ids must be those of transformers' `generate`, greedy, or part from them at a near-tie.
"""

import json
import pathlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import grpc
import httpx
import torch
import typer
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.harness.divergence import explain, float64_twin
from drafthouse.checkpoints.model_path import model_path
from drafthouse.sampling import SamplingParams
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.cluster.serving import Serving
from tests.engine.chat_prompts import ChatPrompt, chat_prompts, expected_ids

GREEDY = SamplingParams(temperature=0.0)


@dataclass
class Found:
    """What became of the chats; `wrong` names those whose encoding, text or tokens nothing explains."""

    chats: int = 0
    equal: int = 0
    explained: int = 0
    accepted: int = 0
    steps: int = 0
    wrong: list[str] = field(default_factory=list)


def compare(serving: Serving, dtype: str, prompts: Sequence[ChatPrompt], tokens: int) -> Found:
    """Sends each chat twice and judges what comes back."""
    path = model_path("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    twin, found = float64_twin(model), Found()
    with grpc.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        generate = rpc.InferenceStub(channel).Generate
        for prompt in track(prompts, dtype):
            ids = expected_ids(tokenizer, prompt)
            answer = _chat(serving, prompt, tokens)
            ours = list(generate(_request(ids, tokens), timeout=600).tokens)
            stock = _stock(model, ids, tokens)
            found.chats += 1
            found.accepted += answer["usage"]["speculation"]["accepted"]
            found.steps += answer["usage"]["speculation"]["steps"]
            if answer["usage"]["prompt_tokens"] != len(ids):
                found.wrong.append(f"{prompt.name}: {answer['usage']['prompt_tokens']} prompt tokens, transformers makes {len(ids)}")
            text = tokenizer.decode(_until_end(ours, tokenizer.eos_token_id))
            if answer["choices"][0]["message"]["content"] != text:
                found.wrong.append(f"{prompt.name}: by HTTP {answer['choices'][0]['message']['content']!r}, by gRPC {text!r}")
            parted = explain(
                model, twin, ids, GREEDY, 0, _until_end(stock, tokenizer.eos_token_id), _until_end(ours, tokenizer.eos_token_id)
            )
            found.equal += parted is None
            found.explained += parted is not None and parted.explained
            if parted is not None and not parted.explained:
                found.wrong.append(f"{prompt.name}: {parted}")
    return found


def _chat(serving: Serving, prompt: ChatPrompt, tokens: int) -> dict[str, Any]:
    body = {"model": "smollm2", "messages": prompt.messages, "max_tokens": tokens, "temperature": 0}
    answer = httpx.post(f"{serving.url}/v1/chat/completions", json=body, timeout=600)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def _request(ids: list[int], tokens: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="smollm2", prompt_tokens=pb.TokenIds(ids=ids), max_tokens=tokens, temperature=0.0)


def _stock(model: Any, ids: list[int], tokens: int) -> list[int]:
    with torch.inference_mode():
        out = model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return out[0, len(ids) :].tolist()


def _until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


def serving_of(folder: pathlib.Path, dtype: str) -> Serving:
    """SmolLM2 without a draft model, on two threads."""
    target = {"path": "smollm2", "dtype": dtype, "threads": 2, "kv_tokens": 16384}
    return Serving(folder, model="smollm2", target=target, draft=None)


def main(
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chats: Annotated[int, typer.Option(help="How many of the fifty.", min=1, max=50)] = 50,
    tokens: Annotated[int, typer.Option(help="New tokens after each.", min=2)] = 32,
) -> None:
    """Compare SmolLM2's answers through the server with transformers' own."""
    with tempfile.TemporaryDirectory() as folder:
        serving = serving_of(pathlib.Path(folder), dtype).wait_ready()
        try:
            found = compare(serving, dtype, chat_prompts()[:chats], tokens)
        finally:
            serving.stop()
    print(json.dumps(found.__dict__, indent=2, ensure_ascii=False))
    raise typer.Exit(bool(found.wrong))


if __name__ == "__main__":
    typer.run(main)
