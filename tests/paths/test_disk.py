"""A disk that is full or cannot be read: what cannot be kept is refused, what was accepted waits."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

import offramp
from offramp import SLA, App, testing
from offramp.errors import StoreError
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.support import Signal, assert_one_log, frames_of, member, result_of

LARGE = msgspec.json.encode({"text": "x" * 200_000})


def fill(service):
    service.process.store.writer.connection.execute("PRAGMA max_page_count = 1")


def free(service):
    service.process.store.writer.connection.execute("PRAGMA max_page_count = 1000000")


def gated():
    app, begun, hold = App("disk"), Signal(), Signal()

    @app.step
    async def gate(text: str) -> str:
        begun.set()
        await hold.wait()
        return text

    @app.pipeline(budget=0.2)
    async def pipe(text: str) -> str:
        return await gate(text)

    return app, begun, hold


async def streamed(service):
    return await frames_of(service, (await service.submit(Submission(pipeline="pipe", input=LARGE))).record.id)


async def test_a_deep_run_that_cannot_be_kept_is_refused(tmp_path):
    app, _, _ = gated()
    async with member(app, tmp_path, "gateway") as service:
        await service.ready()
        fill(service)
        with pytest.raises(StoreError, match="cannot be written"):
            await service.submit(Submission(pipeline="pipe", input=LARGE, respond_async=True))
        free(service)


async def test_the_reader_of_a_fast_run_that_cannot_be_kept_is_told(tmp_path):
    app, _, hold = gated()
    hold.set()
    async with member(app, tmp_path, "gateway", poll=0.05) as service:
        await service.ready()
        fill(service)
        with pytest.raises(StoreError):
            await asyncio.wait_for(streamed(service), 2)
        free(service)


async def test_an_accepted_run_is_demoted_and_completed_once_there_is_room_again(tmp_path, caplog):
    app, begun, hold = gated()
    async with member(app, tmp_path, "local") as service:
        run = (await service.submit(Submission(pipeline="pipe", input=LARGE))).record.id
        await begun.wait()
        async for part in service.follow(run):
            if part[-1].type == "step.started":
                break
        fill(service)
        hold.set()
        reader = asyncio.ensure_future(frames_of(service, run))
        async with asyncio.timeout(20):
            while "cannot be written" not in caplog.text:  # noqa: ASYNC110 - the log is all that tells
                await asyncio.sleep(0.01)
        assert not reader.done()
        free(service)
        frames = await reader
    assert_one_log(frames)
    assert frames[-1].type == "run.completed"


async def test_a_history_that_cannot_be_read_is_asked_for_again(caplog):
    app, clock = App("unreadable", classes=[SLA("batch", budget=0)]), FakeClock()
    refusals = [ValueError("not an entry"), StoreError("locked")]

    @app.step
    async def work() -> str:
        return "done"

    @app.pipeline(sla="batch")
    async def pipe() -> str:
        await offramp.sleep(60)
        return await work()

    async with testing.runtime(app, clock=clock) as runtime:
        store = runtime.service.process.store
        journal = store.journal

        async def refused(run_id):
            if refusals:
                raise refusals.pop(0)
            return await journal(run_id)

        store.journal = refused
        handle = await runtime.start("pipe")
        assert await clock.run_until(result_of(handle)) == "done"
    assert refusals == []
    assert [record.levelname for record in caplog.records if "cannot be resumed" in record.message] == ["ERROR"] * 2


async def test_a_run_that_cannot_be_given_back_for_now_is_given_back_later(tmp_path, caplog):
    app, begun, hold = App("boundary"), Signal(), Signal()

    @app.step
    async def gate() -> int:
        begun.set()
        await hold.wait()
        return 1

    @app.step
    async def after(number: int) -> int:
        return number + 1

    @app.pipeline(budget=0.05)
    async def pipe() -> int:
        return await after(await gate())

    async with member(app, tmp_path, "local") as service:
        leases = service.engine.leases
        release, refusals = leases.release, [StoreError("database or disk is full")] * 2

        async def refused(lease, parked=None):
            if refusals:
                raise refusals.pop()
            await release(lease, parked)

        leases.release = refused
        run = (await service.submit(Submission(pipeline="pipe", input=b"{}"))).record.id
        async with contextlib.aclosing(service.follow(run)) as parts:
            async for part in parts:
                if part[-1].type == "run.demoted":
                    break
        hold.set()
        frames = await frames_of(service, run)
    assert_one_log(frames)
    assert frames[-1].type == "run.completed"
    assert [frame.type for frame in frames].count("run.resumed") == 1
    assert caplog.text.count("cannot be given back yet") == 2
