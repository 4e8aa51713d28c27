"""An ASGI app on a real port of this process, for clients that need one: beside the test, or in a thread for clients that block."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

HOST = "127.0.0.1"
START_S = 120.0
"""An app with real models takes seconds; a machine may be busy."""


@asynccontextmanager
async def on_a_port(app: ASGIApp) -> AsyncIterator[str]:
    """The URL of its server."""
    server = uvicorn.Server(uvicorn.Config(app, HOST, 0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://{HOST}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@contextmanager
def in_a_thread(served: Callable[[], AbstractAsyncContextManager[str]]) -> Iterator[str]:
    """The URL that `served` gives, while it runs in a thread with an event loop of its own."""
    begun, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def run() -> None:
        try:
            async with served() as url:
                found.append(url)
                begun.set()
                await asyncio.to_thread(stop.wait)
        finally:
            begun.set()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert begun.wait(START_S), "the server did not start"
        assert found, "the server could not start"
        yield found[0]
    finally:
        stop.set()
        thread.join()
