"""A stage that crashes or is slow, in a drafter's server over gRPC: it alone is dropped, and the sessions go on."""

import asyncio
import logging

import pytest

from drafthouse.config.serving import DrafterConfig
from tests.engine.oracle import greedy
from tests.engine.own_stages import __name__ as OWN
from tests.engine.pairs import prompts, request
from tests.engine.servers import collect, run, start_drafter, start_verifier, until
from tests.engine.tiny_models import tiny

OUTPUT = 60
TEXTS = [[*prompt, *prompt] for prompt in prompts(3, shortest=6, longest=12)]


@pytest.mark.parametrize("place", ["beside", "inner"])
@pytest.mark.parametrize("bad", ["Crashing", "CrashingLater", "Hanging", "Slow"])
def test_only_the_stage_is_dropped(bad: str, place: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "drafthouse.stages")  # a traceback for each session would be all one sees
    stage = {"kind": f"{OWN}:{bad}"}
    stages = (
        [{"kind": "lookup"}, stage, {"kind": "model"}] if place == "beside" else [{"kind": "lookup"}, {"kind": "model", "inner": stage}]
    )

    async def test() -> None:
        drafter, route = await start_drafter(0.01, "drafter", DrafterConfig.model_validate({"stages": stages}))
        verifier, stream = await start_verifier()
        verifier.set_drafters([route])
        engine, draft_sessions = drafter.loop.engine, verifier.loop.engine.draft_sessions
        await until(lambda: bool(draft_sessions.drafters), "connected")
        asked = [request(str(i), text, OUTPUT, mode="fixed", nodes=8, depth=4) for i, text in enumerate(TEXTS)]
        got = await asyncio.gather(*(collect(stream, each) for each in asked))
        oracle = tiny("llama")
        assert got == [greedy(oracle, text, OUTPUT) for text in TEXTS]
        assert engine.stage_totals.stage_faults == engine.totals.sessions == len(TEXTS), "once in each session, and none was opened anew"
        assert (engine.totals.dropped, draft_sessions.events.lost, drafter.loop.faults) == (0, 0, 0)
        assert engine.stage_totals.stage_nodes > 0, "lookup goes on"
        assert verifier.loop.engine.totals.accepted > OUTPUT, "and so does the draft"
        await stream.close()
        await verifier.stop()
        await drafter.stop()

    run(test)
