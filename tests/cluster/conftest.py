import json
import pathlib
from collections.abc import Iterator

import pytest

from drafthouse.checkpoints.model_path import DEMO_MODELS
from tests.cluster.serving import Serving

POOLS = {"two drafters, one verifier": (1, 2), "one drafter, two verifiers": (2, 1)}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The demo pair with the default config."""
    server = Serving(tmp_path_factory.mktemp("serving"))
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module", params=list(POOLS))
def pools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The demo pair with two replicas of one role; only numbers in the config differ."""
    verifiers, drafters = POOLS[request.param]
    folder = tmp_path_factory.mktemp("pools")
    server = Serving(folder, verifier={"replicas": verifiers}, drafter={"replicas": drafters})
    try:
        yield server.wait_ready()
    finally:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def held_out() -> list[str]:
    """Texts of the held-out prompts that ship with the demo pair."""
    data = json.loads((pathlib.Path(DEMO_MODELS) / "held_out_prompts.json").read_text(encoding="utf-8"))
    return [prompt["text"] for prompt in data["prompts"]]
