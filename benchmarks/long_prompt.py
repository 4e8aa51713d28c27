"""`drafthouse bench long-prompt`: how long a gateway's event loop stands still while a prompt of megabytes is tokenized.

Promises: the clock ticks on a loop of its own thread, as the streams of a gateway do beside the threads that tokenize.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.report import Report
from deployments.cli.options import machine
from deployments.gateway.text_codec import load_codec, load_tokenizer
from drafthouse.config.serving import ModelConfig

TICK_S = 0.001
TEXTS = {"spaces": " ", "code": "    return a + b\n"}


def run_long_prompt(target: str, chars: int) -> Report:
    """Raises ConfigError or ModelError naming the model."""
    model = ModelConfig(path=target)
    codec, tokenizer = load_codec(model), load_tokenizer(model).backend_tokenizer
    rows = []
    for name, text in TEXTS.items():
        prompt = (text * (chars // len(text) + 1))[:chars]
        ways: dict[str, Callable[[str], object]] = {"ours": codec.encode, "Tokenizer.encode": tokenizer.encode}
        rows += [{"text": name, "way": way} | asyncio.run(_measured(encode, prompt)) for way, encode in ways.items()]
    return {"machine": machine(), "settings": {"target": target, "chars": chars}, "long_prompt": rows}


async def _measured(encode: Callable[[str], object], prompt: str) -> dict[str, float]:
    """Seconds until the ids are there, and the longest time between two ticks of the loop."""
    began = last = time.perf_counter()
    work, longest = asyncio.create_task(asyncio.to_thread(encode, prompt)), 0.0
    while not work.done():
        await asyncio.sleep(TICK_S)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await work
    return {"seconds": last - began, "longest_pause_ms": 1e3 * longest}


def print_long_prompt(console: Console, report: dict[str, Any]) -> None:
    table = Table("text", "tokenized by", "seconds", "longest pause of the loop, ms")
    for row in report["long_prompt"]:
        table.add_row(row["text"], row["way"], f"{row['seconds']:.2f}", f"{row['longest_pause_ms']:.0f}")
    console.print(table)
