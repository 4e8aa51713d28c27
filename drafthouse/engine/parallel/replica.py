"""A replica's model on as many devices as its configuration says: the entry for whoever runs models.

Promises: returns when every rank has loaded its share and passed the self-check, or raises what kept one
from it. From then on a lost rank calls `lost` once, from any thread; by default the process ends.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import replace

from drafthouse.config.serving import ModelConfig
from drafthouse.engine.load_stages import LoadStages
from drafthouse.engine.loader import LoadedModel, check_fit, device_of, identified, load, load_share
from drafthouse.engine.parallel.followers import Followers, end_process
from drafthouse.engine.parallel.invitation import Assignment, Launcher
from drafthouse.engine.parallel.local import ChildProcesses
from drafthouse.engine.parallel.process_group import join, leave, open_store
from drafthouse.engine.parallel.runner import ParallelRunner
from drafthouse.errors import ModelError

POLL_S = 0.1

UNWIND_S = 5.0
"""What was loading has so long to notice that a rank is lost; if it does, this process may try again."""


def load_replica(
    config: ModelConfig,
    launcher: Launcher | None = None,
    lost: Callable[[str], None] = end_process,
    stages: LoadStages | None = None,
) -> LoadedModel:
    """This process becomes rank 0; `launcher` starts the others, as its children by default. Raises ConfigError or ModelError."""
    if config.parallel == 1:
        return load(config, stages)
    check_fit(config)
    store = open_store(config.parallel)
    followers = Followers()
    followers.invite(config, launcher or ChildProcesses())

    def share() -> LoadedModel:
        followers.send(Assignment(config, store.port))
        join(store, 0, config.parallel, device_of(config))
        return identified(load_share(config, stages), config, stages or LoadStages())

    model = _unless_lost(share, followers)
    followers.when_lost(lost)
    return replace(model, runner=ParallelRunner(model.runner, followers))


def _unless_lost(load_share: Callable[[], LoadedModel], followers: Followers) -> LoadedModel:
    """Runs it in a thread of its own, since with a rank lost it may wait in a collective for ever."""
    done: queue.SimpleQueue[LoadedModel | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put(load_share())
        except Exception as error:
            done.put(error)

    thread = threading.Thread(target=run, name="load", daemon=True)
    thread.start()
    while done.empty() and not followers.wait_lost(POLL_S):
        pass
    result = done.get() if not followers.reason else ModelError(f"parallel: {followers.reason}")
    if isinstance(result, LoadedModel):
        return result
    followers.close()
    thread.join(UNWIND_S)
    if not thread.is_alive():
        leave()
    raise result
