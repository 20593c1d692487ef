"""A run that is expected to miss its budget goes on in Temporal, and is counted when it ends there."""

from __future__ import annotations

import asyncio

from offramp import SLA, App, current_run
from offramp.paths.submission import Submission
from tests.paths.taught import pasts, teach
from tests.support import eventually, reach, result_of

BUDGET_S = 8.0


def app():
    made = App("thinking", classes=[SLA("chat", budget=BUDGET_S)])

    @made.step
    async def think() -> str:
        while current_run().path == "fast":  # noqa: ASYNC110 - no event says so to a step
            await asyncio.sleep(0.02)
        return current_run().path

    @made.step
    async def write(path: str) -> list[str]:
        return [path, current_run().path]

    @made.pipeline(sla="chat")
    async def answer(kind: str) -> list[str]:
        return await write(await think())

    return made


async def test_a_run_like_the_slow_ones_leaves_early(service, monkeypatch):
    async with service(app()) as runtime:
        gateway = runtime.service
        monkeypatch.setattr(gateway.process.clock, "random", lambda: 1.0)  # no control
        await teach(gateway, "answer", "chat", [*pasts("quick", 0.5, 40), *pasts("slow", 30.0, 40)])
        slow = Submission(pipeline="answer", input=b'{"kind": "slow"}', budget=BUDGET_S)
        handle = await runtime.submit(slow)
        [*_, demoted] = await reach(handle, "run.demoted")
        assert demoted.data["reason"] == "predicted"
        assert await result_of(handle) == ["deep", "deep"]

        async def is_counted():
            [row] = await gateway.routes()
            return row["decided"] is not None and row["decided"]["early"] == {"made": 1, "missed": 0}

        await eventually(is_counted)
