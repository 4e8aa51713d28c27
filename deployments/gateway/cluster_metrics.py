"""The cluster's metrics over HTTP: asks the exporter of every node, and keeps the page for a moment.

Promises: nodes are asked at most once in KEEP_S however many clients ask; a node that does not answer is counted and left out.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import httpx

from deployments.gateway.metrics_page import MetricsPage

KEEP_S = 2.0
NODE_TIMEOUT_S = 5.0

Nodes = Callable[[], Awaitable[Sequence[str]]]


class ClusterMetrics:
    """`nodes` gives the exporters' addresses, host:port."""

    def __init__(self, nodes: Nodes, model: str):
        self._nodes, self._model = nodes, model
        self._asking = asyncio.Lock()
        self._page, self._made = "", float("-inf")

    async def page(self) -> str:
        """Prometheus' text format. Raises what `nodes` raises."""
        async with self._asking:
            if time.monotonic() - self._made > KEEP_S:
                self._page = await self._ask()
                self._made = time.monotonic()
            return self._page

    async def _ask(self) -> str:
        nodes = await self._nodes()
        async with httpx.AsyncClient(timeout=NODE_TIMEOUT_S, trust_env=False) as client:
            texts = await asyncio.gather(*(_text(client, node) for node in nodes))
        return await asyncio.to_thread(self._made_of, texts)

    def _made_of(self, texts: Sequence[str | None]) -> str:
        page = MetricsPage(self._model)
        for text in texts:
            page.add(text or "")
        return page.text(len(texts), sum(text is None for text in texts))


async def _text(client: httpx.AsyncClient, node: str) -> str | None:
    """None for a node that does not answer."""
    try:
        answer = await client.get(f"http://{node}/metrics")
    except httpx.HTTPError:
        return None
    return answer.text if answer.status_code == 200 else None
