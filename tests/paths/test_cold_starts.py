"""A run that waited for a worker to start is counted for its class, once; one that a warm worker takes is not."""

from __future__ import annotations

from offramp import SLA, App
from offramp.paths.local import LocalRuntime
from tests.support import eventually, member, reading, result_of

app = App("cold", classes=[SLA("batch", budget=0), SLA("quick", budget=0)])


@app.step
async def echo(text: str) -> str:
    return text


@app.pipeline(sla="batch")
async def echoes(text: str) -> str:
    return await echo(text)


def counted(service):
    return [reading(service, "offramp_cold_starts_total", **{"class": name}) for name in ("batch", "quick")]


async def test_a_run_that_was_there_before_the_worker_waited_for_its_start(tmp_path):
    async with member(app, tmp_path, "gateway") as gateway:
        runtime = LocalRuntime(gateway)
        first = await runtime.start("echoes", text="one")
        async with member(app, tmp_path, "worker") as worker:
            assert await result_of(first) == "one"
            assert counted(worker) == [1, 0]
            assert await result_of(await runtime.start("echoes", text="two")) == "two"
            assert counted(worker) == [1, 0]

            async def are_shown():
                (row,) = (await worker.statistics("5m")).rows
                return row.ended.get("cold") == 1 and row.ended.get("completed:deep") == 2

            await eventually(are_shown)
