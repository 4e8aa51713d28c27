"""Tries a client's grammar where it can do no harm: in a process of its own, with limits of time, stack and memory.

Promises: a grammar that hangs the library, or makes it crash, is a GrammarError like any other fault, and the next one finds a new
process. A process that ended between two grammars is no grammar's fault: a new one is asked. What passed passes in servers, too: they
have more of everything. What has passed, or was refused in the library's words, is remembered. At most `WAITING` callers wait.
The library compiles most grammars within milliseconds, but no limit of its own keeps it from recursing or computing too long.
"""

import hashlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress

from drafthouse.errors import OverloadError
from drafthouse.grammars.compiler import GrammarError, Tokenizer
from drafthouse.sampling import Grammar

LIMIT_S = 2.0
"""For one grammar; the largest useful ones take a quarter of that."""

START_S = 60.0
"""For a new process, which reads the tokenizer."""

WAITING = 3
REMEMBERED = 4096

TOO_COMPLEX = "it is too complex: the library could not compile it within its limits of time and memory"

Process = subprocess.Popen[bytes]


class GrammarChecker:
    """For one tokenizer; the process starts with the first grammar. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._turn, self._places = threading.Lock(), threading.Semaphore(WAITING)
        self._process: Process | None = None
        self._asked, self._closed = 0, False
        self._known: OrderedDict[bytes, str] = OrderedDict()  # what is wrong with each; empty: nothing

    def check(self, grammar: Grammar) -> None:
        """Raises GrammarError, and OverloadError where others wait already or no process starts."""
        key = hashlib.sha256(f"{grammar.kind}\0{grammar.text}".encode("utf-8", "surrogatepass")).digest()
        if (fault := self._known.get(key)) is None:
            if not self._places.acquire(blocking=False):
                raise OverloadError("other grammars are being checked here", LIMIT_S)
            try:
                with self._turn:
                    fault = self._fault(grammar)
            finally:
                self._places.release()
            if fault != TOO_COMPLEX:  # a busy machine may be to blame
                self._remember(key, fault)
        if fault:
            raise GrammarError(fault)

    def _remember(self, key: bytes, fault: str) -> None:
        with self._turn:
            self._known[key] = fault
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def _fault(self, grammar: Grammar) -> str:
        try:
            if self._process is not None and self._process.poll() is not None:
                self._end()  # it ended while it had nothing to do
            process = self._process = self._process or self._start()
            answer = self._ask(process, {"kind": grammar.kind, "text": grammar.text}, LIMIT_S)
        except BaseException:
            self._end()  # an answer may still come, and would be taken for that to the next question
            raise
        if answer is None:
            self._end()
            return TOO_COMPLEX
        return answer

    def _start(self) -> Process:
        """Raises GrammarError where the tokenizer cannot be used, and OverloadError where no process starts."""
        if self._closed:
            raise OverloadError("this server stops", LIMIT_S)
        text = self._tokenizer()
        command = [sys.executable, "-m", "drafthouse.grammars.checker_process"]
        try:
            self._process = process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise OverloadError(f"the process that checks grammars cannot be started: {error}", LIMIT_S) from error
        answer = self._ask(process, {"tokenizer": text}, START_S)
        if answer is None:
            raise OverloadError("the process that checks grammars did not start", LIMIT_S)
        if answer:
            raise GrammarError(answer)
        return process

    def _ask(self, process: Process, question: dict[str, object], limit_s: float) -> str | None:
        """A line each way: what is wrong, or None where no answer to this question comes."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._asked += 1
        try:
            process.stdin.write(json.dumps(question | {"number": self._asked}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            return None
        line, until = b"", time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:  # select.select knows no descriptors from 1,024 on
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                ready = selector.select(max(0.0, until - time.monotonic()))
                piece = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
                if not piece:
                    return None
                line += piece
        answer = json.loads(line)
        return str(answer["error"]) if answer["number"] == self._asked else None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what was not written yet
                        pipe.close()

    def close(self) -> None:
        """Ends the process at once: the grammar that is being tried, if there is one, is refused."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._turn:
            self._end()
