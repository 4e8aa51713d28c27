"""`/v1/cluster` of a registry that a test feeds, over HTTP and without a cluster."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from controller.pool_sizes import PoolSizes
from controller.registry import Registry
from drafthouse.config.autoscaling import AutoscalingConfig, PoolBounds

SIZES = PoolSizes(AutoscalingConfig(drafter=PoolBounds(min=0, max=4)), {"gateway": 1, "verifier": 2, "drafter": 1})

SETTINGS = {"settings": {"digest": "abc", "keys": ["tree.width"], "fault": "tree.widht: no such key"}}


class RegistryApi:
    """Answers from its construction on until `stop`."""

    def __init__(self, registry: Registry, port: int = 0) -> None:
        class Api(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                sizes = SIZES.as_json(registry.sizes())
                self.wfile.write(json.dumps({"model": "smol", **registry.snapshot(1.0), "sizes": sizes, **SETTINGS}).encode())

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing: test output is for tests."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Api)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Nothing listens any more when it returns."""
        self._server.shutdown()
        self._server.server_close()
