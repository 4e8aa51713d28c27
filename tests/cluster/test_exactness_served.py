"""Float32 through the running server: speculation on, off and the stock model, every divergence explained (docs/design.md 1).

Prints the rate of explained divergences, which the docs publish. And a chat goes on where its beginning is cached.
"""

import concurrent.futures

import grpc
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.harness.divergence import Divergence, explain, float64_twin
from drafthouse.checkpoints.model_path import DEMO_MODELS
from drafthouse.sampling import SamplingParams
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.cluster.serving import Serving
from tests.engine.oracle import greedy, sampled

pytestmark = pytest.mark.cluster_long
TOKENS = 48
KINDS = {
    "greedy": SamplingParams(temperature=0.0),
    "sampled": SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.1),
}


def _served(serving: Serving, prompts: list[list[int]], sampling: SamplingParams, mode: str) -> list[list[int]]:
    """Output tokens (gRPC gives ids), eight requests at a time, so that batches of all shapes occur."""
    with grpc.insecure_channel(f"127.0.0.1:{serving.grpc_port}") as channel:
        generate = rpc.InferenceStub(channel).Generate
        requests = [
            pb.GenerateRequest(
                model="demo", prompt_tokens=pb.TokenIds(ids=prompt), max_tokens=TOKENS, seed=seed, temperature=sampling.temperature,
                top_p=sampling.top_p, repetition_penalty=sampling.repetition_penalty,
                speculation=pb.Speculation(mode=mode, nodes=12, depth=6),
            )
            for seed, prompt in enumerate(prompts)
        ]  # fmt: skip
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return [list(reply.tokens) for reply in pool.map(lambda r: generate(r, timeout=120), requests)]


def _until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


@pytest.mark.parametrize("kind", list(KINDS))
def test_on_off_and_stock_agree_or_part_at_a_near_tie(pools: Serving, held_out: list[str], kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODELS / "target")
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODELS / "target", dtype=torch.float32).eval()
    twin, sampling = float64_twin(model), KINDS[kind]
    prompts = [tokenizer(text)["input_ids"][-100:] for text in held_out[:50]]
    on, off = (_served(pools, prompts, sampling, mode) for mode in ("fixed", "off"))
    divergences: list[Divergence] = []
    for i, prompt in enumerate(prompts):
        stock = greedy(model, prompt, TOKENS) if sampling.greedy else sampled(model, prompt, sampling, i, TOKENS)
        stock = _until_end(stock, tokenizer.eos_token_id)
        for name, tokens in (("on", on[i]), ("off", off[i])):
            found = explain(model, twin, prompt, sampling, i, stock, _until_end(tokens, tokenizer.eos_token_id))
            assert found is None or found.explained, f"{kind}, prompt {i}, speculation {name}: {found}"
            divergences += [found] if found else []
    print(f"{kind}: {len(divergences)} explained divergences in {2 * len(prompts)} texts of {TOKENS} tokens")
    assert pools.totals("verifier")["accepted"] > 100, "speculation was meant to be on"


def test_the_second_turn_of_a_chat_finds_the_first_one_cached(pools: Serving, held_out: list[str]) -> None:
    """With two verifiers, too: of four chats all would find theirs by chance one time in sixteen."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODELS / "target")
    texts = [tokenizer(text)["input_ids"][:80] for text in held_out[50:54]]
    with grpc.insecure_channel(f"127.0.0.1:{pools.grpc_port}") as channel:
        generate = rpc.InferenceStub(channel).Generate

        def turn(text: list[int]) -> pb.GenerateResponse:
            request = pb.GenerateRequest(model="demo", prompt_tokens=pb.TokenIds(ids=text), max_tokens=TOKENS, temperature=0.0)
            return generate(request, timeout=120)

        answers = [list(turn(text).tokens) for text in texts]
        again = [turn([*text, *answer, *text[:9]]) for text, answer in zip(texts, answers, strict=True)]
    for text, answer, second in zip(texts, answers, again, strict=True):
        assert second.usage.cached_tokens >= len(text) + len(answer) - 1, "all but the last token had run"
