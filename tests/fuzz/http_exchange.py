"""One HTTP request of a fuzzer, down to how it ended."""

import asyncio
from collections.abc import Callable

import httpx

from tests.fuzz.findings import Outcome

LIMIT_S = 60.0
"""Without an end by then it hangs. Longer than any limit of the server's own."""


async def exchange(client: httpx.AsyncClient, request: httpx.Request, judge: Callable[[httpx.Response], str]) -> Outcome:
    """`judge` says what is wrong with an answer."""
    try:
        async with asyncio.timeout(LIMIT_S):
            answer = await client.send(request)
    except TimeoutError:
        return Outcome("hangs", f"no end after {LIMIT_S:.0f} s")
    except httpx.LocalProtocolError:
        return Outcome("cannot be sent")
    except httpx.HTTPError as error:
        return Outcome("broken off", f"{type(error).__name__}: {error}")
    fault = judge(answer) if answer.status_code < 500 else f"status {answer.status_code}: {answer.text[:300]}"
    return Outcome(str(answer.status_code), fault)
