"""The App of the benchmark of limits: one call of a model per run, through a resource, or as people do without one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import offramp
from bench._burst import BATCH, INTERACTIVE
from bench._limits_load import CONCURRENCY, ORDER, PROCESSES, PROVIDER, RATES, TOKENS
from offramp import SLA, App, Retry
from offramp.core.rates import parse_rate

if TYPE_CHECKING:
    import openai

order = os.environ.get(ORDER, "limits")
rates = os.environ.get(RATES, "").split()
concurrency = int(os.environ.get(CONCURRENCY, "1"))
ordered = order != "first come"

app = App(
    "limited",
    classes=[
        # Nothing is demoted by belief: the measurement is of the limits.
        SLA(INTERACTIVE, budget=300, priority=10 if ordered else 0, early_demotion=0.0),
        SLA(BATCH, budget=0, priority=-1 if ordered else 0),
    ],
)


class OwnPart:
    """What people put around calls where each process has its part of the limits: windows and places, in order."""

    def __init__(self) -> None:
        self._windows = [(max(1, rate.limit // PROCESSES), rate.seconds) for rate in map(parse_rate, rates)]
        self._log: deque[float] = deque(maxlen=max(limit for limit, _ in self._windows))
        self._places = asyncio.Semaphore(max(1, concurrency // PROCESSES))

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """A place, once the windows have room."""
        async with self._places:
            now = time.monotonic()
            full = [(limit, seconds) for limit, seconds in self._windows if len(self._log) >= limit]
            at = max((self._log[-limit] + seconds for limit, seconds in full), default=now)
            self._log.append(max(at, now))
            await asyncio.sleep(max(0.0, at - now))
            yield


tokens = os.environ.get(TOKENS, "").split()
model = None
if order in {"limits", "first come"}:
    model = app.resource("model", concurrency=concurrency, rate=rates, tokens=tokens or None)


def connect() -> openai.AsyncOpenAI:
    """Its retries are left on."""
    import openai

    own = None if model is None else model.async_http_client("httpx2", timeout=120)
    return openai.AsyncOpenAI(base_url=f"{os.environ[PROVIDER]}/v1", api_key="none", timeout=120, http_client=own)


client = offramp.per_loop(connect)
part = offramp.per_loop(OwnPart)


@app.step(uses=[] if model is None else model, kind="llm", retry=Retry(attempts=3))
async def write(out: int) -> int:
    async with part().taken() if order == "split" else contextlib.nullcontext():
        stream = await client().chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": f"in=20 out={out}"}],
            max_tokens=out,
            stream=True,
            stream_options={"include_usage": True},
        )
        return sum([1 async for _ in stream])


@app.pipeline(sla=INTERACTIVE)
async def work(out: int) -> int:
    return await write(out)
