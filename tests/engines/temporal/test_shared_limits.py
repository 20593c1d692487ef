"""Limits over three workers on Temporal, which share them through the coordinator of their data directory."""

from __future__ import annotations

import asyncio
import contextlib
import time

from offramp import SLA, App
from offramp.paths.local import LocalRuntime
from offramp.paths.submission import Submission
from tests.support import eventually, log_of, member, of, result_of

CONCURRENCY, PER_S = 3, 8
app = App("shared", classes=[SLA("high", priority=10, budget=0.0), SLA("low", priority=-1, budget=0.0)])
api = app.resource("api", concurrency=CONCURRENCY, rate=f"{PER_S}/s")
SEEN = {"now": 0, "most": 0}
CALLS = []


@app.step(uses=api)
async def call(tag: str) -> str:
    async with api.permit():  # the one that the step has waited for
        CALLS.append((time.monotonic(), tag))
        SEEN["now"] += 1
        SEEN["most"] = max(SEEN["most"], SEEN["now"])
        await asyncio.sleep(0.03)
        SEEN["now"] -= 1
    return tag


@app.pipeline(sla="low")
async def line(tag: str) -> str:
    return await call(tag)


async def test_concurrency_windows_and_order_hold_over_three_workers(url, tmp_path):
    made = {"engine": url, "lease": 2.0, "drain_timeout": 5.0}
    CALLS.clear()
    SEEN.update(now=0, most=0)
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(member(app, tmp_path, "worker", owner=f"w{number}", **made))
            for number in range(3)
        ]
        gateway = await stack.enter_async_context(member(app, tmp_path, "gateway", owner="g", **made))
        await eventually(lambda: gateway.engine.connection.known)
        runtime = LocalRuntime(gateway)
        low = [await runtime.start("line", tag=f"low{number}") for number in range(20)]
        await eventually(lambda: len(CALLS) >= PER_S)
        high = [
            await runtime.submit(Submission(pipeline="line", input=b'{"tag":"high%d"}' % number, sla="high"))
            for number in range(3)
        ]
        await asyncio.gather(*map(result_of, high))
        behind = [tag for _, tag in CALLS]
        await asyncio.gather(*map(result_of, low))
        worked = {event.data["worker"] for handle in low for event in of(await log_of(handle), "run.resumed")}
        assert all(service.live.count("deep") == 0 for service in workers), worked
    times = sorted(at for at, _ in CALLS)
    assert len(times) == 23
    assert SEEN["most"] <= CONCURRENCY
    # What is counted is when the call is made: a window holds a few milliseconds less than a second of it.
    assert all(later - first > 0.95 for first, later in zip(times, times[PER_S:], strict=False))
    last = max(behind.index(f"high{number}") for number in range(3))
    assert sum(tag.startswith("low") for tag in behind[:last]) < 20
