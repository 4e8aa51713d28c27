"""A rank other than 0: loads its share of the model, then runs what rank 0 sends, until rank 0 ends.

Promises: it ends when rank 0 does, whatever it is doing: a rank that hangs in a collective with the dead
would keep its device. What ends it is told to rank 0 first. As a program it takes its invitation, pickled,
on standard input.
"""

import contextlib
import os
import pickle
import sys
import threading
from multiprocessing.connection import Client, Connection

import torch

from drafthouse.engine.loader import check_fit, load_share
from drafthouse.engine.parallel.followers import LOOPBACK, WATCH_S
from drafthouse.engine.parallel.invitation import Assignment, Failure, Hello, Invitation
from drafthouse.engine.parallel.process_group import join, reach_store
from drafthouse.engine.parallel.runner import Step

UNWIND_S = 5.0
"""After rank 0's end a rank has so long to notice by itself."""


def follow(invitation: Invitation) -> None:
    """Returns when rank 0 has closed the link."""
    with Client((LOOPBACK, invitation.port), authkey=invitation.key) as link:
        link.send(Hello(invitation.rank, os.getpid()))
        ended = threading.Event()
        threading.Thread(target=_watch, args=(link, ended), name="watch", daemon=True).start()
        try:
            _serve(link, invitation)
        except (EOFError, ConnectionError):  # rank 0 has ended
            return
        except Exception as error:
            _tell(link, f"{type(error).__name__}: {error}")
            raise
        finally:
            ended.set()


def _serve(link: Connection, invitation: Invitation) -> None:
    assignment: Assignment = link.recv()
    config = assignment.config
    device = torch.device("cuda", invitation.device) if config.device == "cuda" else torch.device("cpu")
    if device.type == "cuda" and invitation.device < torch.cuda.device_count():
        torch.cuda.set_device(device)
    check_fit(config)
    join(reach_store(assignment.store_port, config.parallel), invitation.rank, config.parallel, device)
    runner = load_share(config).runner
    while True:
        step: Step = link.recv()
        step.run(runner)


def _watch(link: Connection, ended: threading.Event) -> None:
    """Only sending tells whether rank 0 still listens, while the main thread reads, or runs a step."""
    while not ended.wait(WATCH_S):
        try:
            link.send(None)
        except OSError:
            if not ended.wait(UNWIND_S):
                os._exit(1)


def _tell(link: Connection, reason: str) -> None:
    with contextlib.suppress(OSError):  # rank 0 was first
        link.send(Failure(reason))


if __name__ == "__main__":
    follow(pickle.load(sys.stdin.buffer))
