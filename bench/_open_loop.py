"""An open loop: requests on a fixed schedule, whether or not earlier ones were answered.

A server that pauses is therefore late for every request due meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench._http import connect

CONNECTIONS = 20
"""Connections opened beforehand; more are opened as needed."""


class Timed(NamedTuple):
    """A 202: its body, its request's due time, and the delay from then to its last byte."""

    body: bytes
    due: float
    late_ms: float


async def steady(port: int, requests: Sequence[bytes], per_s: float) -> list[Timed]:
    """Send each request when it is due; returns the answers in the order of the requests.

    Raises:
        RuntimeError: an answer was not 202.
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
