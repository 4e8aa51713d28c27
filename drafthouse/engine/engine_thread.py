"""The thread of an engine: steps or passes run on it, beside the event loop of the same process.

Promises: started with the interpreter's switch interval cut, since an operation of torch gives the
lock away and the thread would then wait 5 ms for it whenever the event loop has work. Measured on the paced
8B pair at 0.7 of saturation: passes late by their curve fell by a third to a half.
"""

import sys
import threading
from collections.abc import Callable

SWITCH_INTERVAL_S = 0.0005


def engine_thread(run: Callable[[], None], name: str) -> threading.Thread:
    """Not yet started; it does not keep the process alive."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return threading.Thread(target=run, name=name, daemon=True)
