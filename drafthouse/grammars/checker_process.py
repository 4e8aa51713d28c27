"""The process of `drafthouse.grammars.checker`: reads grammars, a line each, and says what is wrong with them.

Promises: it has less stack than any thread that compiles in earnest, and ends with its standard input.
"""

import json
import resource
import sys
import threading
import time

import numpy as np

from drafthouse.grammars.compiler import GrammarCompiler, GrammarError
from drafthouse.sampling import Grammar

STACK_BYTES = 1 << 20
MEMORY_BYTES = 4 << 30

STEPS, MOST_TOKENS = 24, 2048
"""Of a text that is tried: places with a choice, for some grammars are too wide only behind their beginning; and tokens in all."""


CPU_S = 100
"""For one question. The checker waits less, and ends the process; one whose checker is gone ends here."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    serving = threading.Thread(target=serve)
    serving.start()
    serving.join()


def serve() -> None:
    asked = json.loads(sys.stdin.readline())
    text = str(asked["tokenizer"])
    compiler = GrammarCompiler(lambda: text, kept=0)
    say(asked["number"], fault_of(compiler, Grammar("regex", "a")))
    for line in sys.stdin:
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + CPU_S, resource.RLIM_INFINITY))
        asked = json.loads(line)
        say(asked["number"], fault_of(compiler, Grammar(asked["kind"], asked["text"])))


def fault_of(compiler: GrammarCompiler, grammar: Grammar) -> str:
    """Empty: it can be served, as far as it was gone into."""
    try:
        matcher = compiler.matcher(grammar)
    except GrammarError as error:
        return str(error)
    chosen = 0
    for _ in range(MOST_TOKENS):
        token = matcher.forced()
        if token is None:
            fitting = np.flatnonzero(np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little"))
            chosen += 1
            if matcher.error or not len(fitting) or chosen > STEPS:
                break
            token = int(fitting[len(fitting) // 2])
        matcher.advance(token)
        matcher.commit()
    return matcher.error


def say(number: int, error: str) -> None:
    print(json.dumps({"number": number, "error": error}), flush=True)


if __name__ == "__main__":
    main()
