"""Models named by a hub id: what the local cache has of one, and whether the hub can be asked for it.

Promises: the answer comes within HUB_TIMEOUT_S, where the libraries themselves try again for half a minute a file.
"""

import pathlib
import queue
import threading

HUB_TIMEOUT_S = 2.0
"""A hub that can be reached answers within some tenths of a second."""

OFFLINE = "HF_HUB_OFFLINE=1"


def cached_folder(hub_id: str) -> pathlib.Path | None:
    """What the local cache holds of the model; None where it has not even a configuration."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return pathlib.Path(found).parent if isinstance(found, str) else None


def is_offline() -> bool:
    """Whether the environment says that the hub is not to be asked."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_fault(hub_id: str, cached: bool) -> str | None:
    """Why the model cannot be had, with what to do; None where the hub has it. `cached`: there is a copy in the local cache."""
    fetch = f"`hf download {hub_id}` fetches it where there is a network"
    if is_offline():
        return None if cached else f"not in the hub's local cache, and {OFFLINE} forbids asking the hub; {fetch}"
    reason = _unreachable(hub_id)
    if reason is None:
        return None
    if cached:
        return f"in the hub's local cache, but the hub does not say whether that is its latest ({reason}); {OFFLINE} serves what is there"
    return f"no such folder; as a hub id it is not in the local cache, and the hub does not give it ({reason}); {fetch}, for {OFFLINE} here"


def _unreachable(hub_id: str) -> str | None:
    """What the hub, or the way to it, answers to the question for this model; None when it is there."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError

    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)
            answers.put(None)
        except RepositoryNotFoundError:
            answers.put("it knows no such model, or none that this user may see: check the name, or `hf auth login`")
        except Exception as error:  # fault boundary: any failure on the way to the hub is a reason, in words of its own
            answers.put(" ".join(str(error).split()) or type(error).__name__)

    # In a thread, since looking up a host's name heeds no timeout.
    threading.Thread(target=ask, name="hub", daemon=True).start()
    try:
        return answers.get(timeout=HUB_TIMEOUT_S)
    except queue.Empty:
        return f"no answer from {constants.ENDPOINT} within {HUB_TIMEOUT_S:g} s"
