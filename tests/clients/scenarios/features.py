"""What scenarios share. They run in environments of their own, where this repository's packages are not."""

import json
import os
from collections.abc import Callable
from typing import Any

URL = os.environ["CLIENTS_URL"]
MODEL = os.environ["CLIENTS_MODEL"]
TOKENIZER = os.environ["CLIENTS_TOKENIZER"]
TOOLS = bool(os.environ["CLIENTS_TOOLS"])
KEY = os.environ.get("DRAFTHOUSE_API_KEY", "none")
QUESTION = "What is the weather in Bern?"


def feature(name: str, work: Callable[[], Any], tools: bool = False) -> None:
    """Tells whether `work` raises nothing; `tools`: it needs a model that calls them."""
    if tools and not TOOLS:
        return
    try:
        ok, note = True, work() or ""
    except Exception as error:  # fault boundary: a scenario goes on with its next feature
        ok, note = False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print("feature: " + json.dumps({"feature": name, "ok": ok, "note": str(note)}), flush=True)


def check(good: object, what: object = "") -> None:
    if not good:
        raise AssertionError(f"not as expected: {what!r}")
