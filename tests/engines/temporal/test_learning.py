"""What processes learn of runs on Temporal: the time that a run moves, in whichever process its steps execute."""

from __future__ import annotations

import asyncio

import offramp
from offramp import SLA, App
from offramp.paths.submission import Submission
from tests.support import eventually, result_of

STEP_S = 0.2
WAIT_S = 0.6


def app():
    made = App("learned", classes=[SLA("short", budget=0.3)])

    @made.step
    async def work(number: int) -> int:
        await asyncio.sleep(STEP_S)
        return number

    @made.pipeline(sla="short")
    async def demoted() -> int:
        for number in range(3):
            await work(number)
        return 3

    @made.pipeline(budget=0)
    async def asks() -> int:
        await work(1)
        await offramp.signal("go")
        await offramp.sleep(STEP_S)
        return await work(2)

    return made


async def test_a_run_teaches_how_long_it_moved_on_both_paths(service):
    found = {}
    async with service(app()) as runtime:
        for process in (runtime.service, runtime.worker):
            process.live.learning.on_learned(lambda record, past: found.__setitem__(record.pipeline, (record, past)))
        demoted = await runtime.start("demoted")
        asks = await runtime.submit(Submission(pipeline="asks"))
        assert await result_of(demoted) == 3
        await eventually(lambda: _waits(runtime.service, asks.id))
        await asyncio.sleep(WAIT_S)
        await asks.signal("go")
        assert await result_of(asks) == 2
        await eventually(lambda: found.keys() == {"demoted", "asks"})
        lasted = {name: await _finished(runtime.service, record) for name, (record, _) in found.items()}
    record, past = found["demoted"]
    assert 3 * STEP_S <= past.took_s <= lasted["demoted"] - record.created_at
    assert [name for name, _ in past.steps] == ["work"] * 3
    record, past = found["asks"]
    assert 3 * STEP_S <= past.took_s <= lasted["asks"] - record.created_at - WAIT_S


async def _waits(service, run_id):
    return any(b'"wait.started"' in frame.data for frame in await service.process.store.events(run_id, 0))


async def _finished(service, record):
    return (await service.get(record.id)).finished_at
