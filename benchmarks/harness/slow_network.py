"""A network between this machine's processes and one port of it: what goes to and from the port is held back.

Promises: order is kept, and only latency is added. A rule in an nftables table of its own sends new connections to a proxy in a process
of its own; both are gone after the `with` block. Needs root and the program nft.
"""

import asyncio
import multiprocessing
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness.nftables import nft, possible
from deployments.cli.ray_environment import free_port
from drafthouse.errors import ConfigError

MARK = 0xD4AF
"""Of the proxy's own connections, which the rule leaves alone."""

ORIGINAL_DESTINATION = 80
"""SO_ORIGINAL_DST of linux/netfilter_ipv4.h."""

TABLE = "drafthouse_slow_network"
CHUNK = 1 << 16


@contextmanager
def slow_network(port: int, round_trip_s: float, option: str) -> Iterator[None]:
    """Inside, connections to `port` are `round_trip_s` away. Raises ConfigError naming `option` where this user cannot do that."""
    if not possible():
        raise ConfigError(f"{option}: needs root and the program nft (Debian: apt install nftables)")
    proxy_port = free_port()
    proxy = multiprocessing.get_context("spawn").Process(target=_serve, args=(proxy_port, round_trip_s / 2), daemon=True)
    proxy.start()
    try:
        nft(f"add table ip {TABLE}")
        nft(f"add chain ip {TABLE} out {{ type nat hook output priority -100; }}")
        nft(f"add rule ip {TABLE} out tcp dport {port} meta mark != {MARK} redirect to :{proxy_port}")
        yield
    finally:
        subprocess.run(["nft", f"delete table ip {TABLE}"], check=False, capture_output=True)
        proxy.kill()
        proxy.join()


def _serve(port: int, delay_s: float) -> None:
    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _connect(reader, writer, delay_s)

        server = await asyncio.start_server(connected, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


async def _connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """To where the connection was meant to go, both ways until one side closes."""
    onward = socket.socket()
    onward.setblocking(False)
    onward.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    try:
        await asyncio.get_running_loop().sock_connect(onward, _destination(writer.get_extra_info("socket")))
        there, back = await asyncio.open_connection(sock=onward)
    except OSError:  # the server has gone
        writer.close()
        return
    ways = [asyncio.create_task(_pass_on(*way, delay_s)) for way in ((reader, back), (there, writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    back.close()
    writer.close()


def _destination(connection: socket.socket) -> tuple[str, int]:
    """A sockaddr_in: family, port, address."""
    raw = connection.getsockopt(socket.SOL_IP, ORIGINAL_DESTINATION, 16)
    return socket.inet_ntoa(raw[4:8]), int.from_bytes(raw[2:4], "big")


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def take() -> None:
        while data := await reader.read(CHUNK):
            held.put_nowait((loop.time() + delay_s, data))
        held.put_nowait((loop.time() + delay_s, b""))

    taking = asyncio.create_task(take())
    try:
        while True:
            due, data = await held.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                return
            writer.write(data)
            await writer.drain()
    finally:
        taking.cancel()
