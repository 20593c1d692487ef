"""An open loop: requests on a fixed schedule, whether those before them were answered or not.

So a server that stands still for a moment is seen to be late for everything that was due meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench._http import connect

CONNECTIONS = 20
"""Opened beforehand; more are opened as they are needed."""


class Timed(NamedTuple):
    """A 202: its body, when its request was due, and how long after that its last byte came."""

    body: bytes
    due: float
    late_ms: float


async def steady(port: int, requests: Sequence[bytes], per_s: float) -> list[Timed]:
    """Send each request when it is due; the answers in the order of the requests.

    Raises:
        RuntimeError: one was not answered with 202.
    """
    idle = [await connect(port) for _ in range(CONNECTIONS)]

    async def send(request: bytes, due: float) -> Timed:
        connection = idle.pop() if idle else await connect(port)
        answer = await connection.whole(request)
        if answer.status != 202:
            raise RuntimeError(f"expected 202, got {answer.status}: {answer.body[:200]!r}")
        idle.append(connection)
        return Timed(answer.body, due, (answer.ended - due) * 1000)

    began = time.perf_counter()
    sent = []
    for number, request in enumerate(requests):
        due = began + number / per_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(send(request, due)))
    answers = await asyncio.gather(*sent)
    for connection in idle:
        connection.close()
    return answers
