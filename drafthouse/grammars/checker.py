"""Tries a client's grammar where it can do no harm: in a process of its own, with limits of time, stack and memory.

Promises: a grammar that hangs the library, or makes it crash, is a GrammarError like any other fault, and the next one finds a new
process. What passed passes in servers, too: they have more of everything. What has passed is remembered. At most `WAITING` callers wait.
The library compiles most grammars within milliseconds, but no limit of its own keeps it from recursing or computing too long.
"""

import hashlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict

from drafthouse.errors import OverloadError
from drafthouse.grammars.compiler import GrammarError, Tokenizer
from drafthouse.sampling import Grammar

LIMIT_S = 2.0
"""For one grammar; the largest useful ones take a quarter of that."""

START_S = 60.0
"""For a new process, which reads the tokenizer."""

WAITING = 3
REMEMBERED = 4096


class GrammarChecker:
    """For one tokenizer; the process starts with the first grammar. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._turn, self._places = threading.Lock(), threading.Semaphore(WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._passed: OrderedDict[bytes, None] = OrderedDict()

    def check(self, grammar: Grammar) -> None:
        """Raises GrammarError, and OverloadError where others wait already."""
        key = hashlib.sha256(f"{grammar.kind}\0{grammar.text}".encode("utf-8", "surrogatepass")).digest()
        if key in self._passed:
            return
        if not self._places.acquire(blocking=False):
            raise OverloadError("other grammars are being checked here", LIMIT_S)
        try:
            with self._turn:
                self._check(grammar)
        finally:
            self._places.release()
        self._passed[key] = None
        while len(self._passed) > REMEMBERED:
            self._passed.popitem(last=False)

    def _check(self, grammar: Grammar) -> None:
        process = self._process = self._process or self._start()
        answer = self._ask(process, {"kind": grammar.kind, "text": grammar.text}, LIMIT_S)
        if answer is None:
            self._end()
            raise GrammarError("it is too complex: the library could not compile it within its limits of time and memory")
        if answer["error"]:
            raise GrammarError(answer["error"])

    def _start(self) -> "subprocess.Popen[bytes]":
        """Raises GrammarError where the tokenizer cannot be used."""
        command = [sys.executable, "-m", "drafthouse.grammars.checker_process"]
        self._process = process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        answer = self._ask(process, {"tokenizer": self._tokenizer()}, START_S)
        if answer is None or answer["error"]:
            self._end()
            raise GrammarError(answer["error"] if answer is not None else "the process that checks grammars did not start")
        return process

    def _ask(self, process: "subprocess.Popen[bytes]", question: dict[str, str], limit_s: float) -> dict[str, str] | None:
        """One line each way; None where no answer comes."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            return None
        line, until = b"", time.monotonic() + limit_s
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                return None
            line += piece
        answer: dict[str, str] = json.loads(line)
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def close(self) -> None:
        with self._turn:
            self._end()
