"""How a local cluster ends."""

import subprocess
import sys
from types import SimpleNamespace

from deployments.cli.shutdown import SERVING, end_watchers


def test_what_only_watches_is_killed_at_once_and_what_serves_goes_on() -> None:
    kinds = [*SERVING, "dashboard", "log_monitor"]
    processes = {kind: subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for kind in kinds}
    try:
        end_watchers({kind: [SimpleNamespace(process=process)] for kind, process in processes.items()})
        for kind in kinds[len(SERVING) :]:
            assert processes[kind].wait(20) == -9
        assert [processes[kind].poll() for kind in SERVING] == [None] * len(SERVING)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            process.stdin.close()
