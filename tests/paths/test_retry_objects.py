"""Retries that copy large results: the copies are no write of the store, and go where no run is started."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from offramp import SLA, App
from offramp.errors import ObjectLost, ObjectsUnavailable, Overloaded, RunGone, StoreError, StoreTimeout
from offramp.paths import retrying
from offramp.ports.listing import RunFilter
from offramp.stores.blobs.blobs import PlacedBlobs
from offramp.testing import FakeClock, runtime
from tests.conformance.blobs import CutMemory
from tests.support import Signal, eventually, failure_of, result_of

SIZE = 5000
TIMEOUT_S = 0.5
executed = []
app = App("copied", classes=[SLA("batch", budget=0)])


@app.step
async def make(letter: str) -> str:
    executed.append(letter)
    return letter * SIZE


@app.step
async def send(size: int) -> int:
    executed.append("send")
    if executed.count("send") == 1:
        raise ValueError("it is down")
    return size


@app.pipeline(sla="batch")
async def deliver() -> int:
    return await send(len(await make("x")) + len(await make("y")))


class Slow(CutMemory):
    """Holds every write for a retry until it is let go."""

    def __init__(self):
        super().__init__()
        self.old, self.lost, self.held, self.go = None, None, Signal(), Signal()
        self.begun, self.ended = [], []

    def write(self, key, data):
        if self.old is not None and not key.startswith(self.old):
            self.begun.append(key)
            self.held.set()
            self.go.block()
            super().write(key, data)
            self.ended.append(key)
        else:
            super().write(key, data)

    def read(self, key, start, length):
        if key == self.lost:  # not before another one is being copied
            self.held.block()
            del self.objects[key]
        return super().read(key, start, length)

    def owners(self):
        return {key.partition("/")[0] for key in self.objects if key.startswith("run_")}


class Desk:
    """A runtime with one failed run, whose two large results are objects."""

    def __init__(self, made, run, place):
        self.made, self.run, self.place = made, run, place
        self.service, self.process = made.service, made.service.process

    async def runs(self):
        return {record.id for record in (await self.process.store.runs(RunFilter())).runs}

    async def started_nothing(self):
        """Nothing is left of the retry, once all is over."""
        await eventually(lambda: 1 <= len(self.place.begun) == len(self.place.ended))
        await eventually(lambda: self.place.owners() == {self.run.id})
        assert await self.runs() == {self.run.id}
        assert (await self.run.document())["retried_as"] == []


@pytest.fixture
async def opened():
    executed.clear()
    places = []

    @contextlib.asynccontextmanager
    async def open_desk(**settings):
        given = {"objects": "memory:", "objects_above": 2000} | settings
        async with runtime(app, **given) as made:
            place = Slow()
            places.append(place)
            made.service.process.values.blobs = PlacedBlobs(place)
            run = await made.start("deliver")
            assert isinstance(await failure_of(run), ValueError)
            place.old = run.id
            yield Desk(made, run, place)

    yield open_desk
    for place in places:
        place.go.set()


async def test_copies_may_take_longer_than_a_write_of_the_store(opened):
    async with opened(write_timeout=TIMEOUT_S) as desk:
        retry = asyncio.ensure_future(desk.run.retry())
        await desk.place.held.wait()
        began = time.monotonic()
        await eventually(lambda: time.monotonic() > began + 2 * TIMEOUT_S)
        assert await desk.service.ready() == (True, "ready")
        desk.place.go.set()
        assert await result_of(await retry) == 2 * SIZE
        assert executed == ["x", "y", "send", "send"]


@pytest.mark.parametrize("ends", ["late", "cancelled", "stopping"])
async def test_a_request_that_ends_during_the_copies_starts_nothing(opened, ends):
    async with opened(**({"objects_patience": 0.0, "write_timeout": TIMEOUT_S} if ends == "late" else {})) as desk:
        retry = asyncio.ensure_future(desk.run.retry())
        await desk.place.held.wait()
        if ends == "late":
            with pytest.raises(ObjectsUnavailable, match="nothing was started"):
                await retry
        elif ends == "cancelled":
            retry.cancel()
            with pytest.raises(asyncio.CancelledError):
                await retry
        else:
            await desk.service.drain()
        desk.place.go.set()
        if ends == "stopping":
            with pytest.raises(Overloaded):
                await retry
        await desk.started_nothing()


@pytest.mark.parametrize("error", [StoreError("not written"), RunGone("it has ended"), RuntimeError("a bug")], ids=repr)
async def test_a_start_that_fails_leaves_no_copies(opened, error, monkeypatch):
    async with opened() as desk:
        desk.place.go.set()

        async def refuses(*_given):
            assert len(desk.place.owners()) == 2
            raise error

        monkeypatch.setattr(desk.service.engine, "start", refuses)
        with pytest.raises(type(error)):
            await desk.run.retry()
        await desk.started_nothing()


async def test_an_object_that_is_lost_leaves_no_copies_of_others(opened):
    async with opened() as desk:
        desk.place.go.set()
        desk.place.lost = next(key for key in desk.place.objects if key.startswith("run_"))
        with pytest.raises(ObjectLost):
            await desk.run.retry()
        await desk.started_nothing()


async def test_a_run_that_starts_after_its_request_was_refused_keeps_its_copies(opened, monkeypatch):
    async with opened(write_timeout=TIMEOUT_S) as desk:
        desk.place.go.set()
        start, go = desk.service.engine.start, Signal()

        async def late(*given):
            await go.wait()
            return await start(*given)

        monkeypatch.setattr(desk.service.engine, "start", late)
        with pytest.raises(StoreTimeout):
            await desk.run.retry()
        go.set()

        async def completed():
            [new] = await desk.runs() - {desk.run.id} or [None]
            return new is not None and (await desk.service.get(new)).status == "completed"

        await eventually(completed)
        assert len(desk.place.owners()) == 2


@pytest.mark.parametrize("answers", [True, False], ids=["answers later", "never answers"])
async def test_copies_are_removed_later_if_the_store_cannot_be_asked(opened, answers, monkeypatch, caplog):
    clock = FakeClock()
    async with opened(clock=clock) as desk:
        desk.place.go.set()
        get, asked = desk.process.store.get, []

        async def fails(*_given):
            raise StoreError("not written")

        async def unanswered(run_id, *given):
            if run_id == desk.run.id:
                return await get(run_id, *given)
            asked.append(run_id)
            if answers and len(asked) == 2:
                return await get(run_id, *given)
            raise StoreError("it cannot be asked")

        monkeypatch.setattr(desk.service.engine, "start", fails)
        monkeypatch.setattr(desk.process.store, "get", unanswered)
        with pytest.raises(StoreError, match="not written"):
            await desk.run.retry()
        await eventually(lambda: len(asked) == 1)
        assert len(desk.place.owners()) == 2
        assert clock.monotonic() < retrying.FORGET_AGAIN_S
        await clock.run_until(eventually(lambda: len(asked) == 2), 1.0)
        if answers:
            await desk.started_nothing()
        else:
            await eventually(lambda: f"objects of {asked[0]}" in caplog.text)
            assert "it cannot be asked" in caplog.text
        assert len(asked) == 2


async def test_copies_that_are_cancelled_end_once_nothing_is_being_written(opened):
    async with opened() as desk:
        entries = await desk.process.store.journal(desk.run.id)
        copying = asyncio.ensure_future(desk.process.values.copies(entries, "run_new"))
        await eventually(lambda: len(desk.place.begun) == 2)
        for _ in range(2):
            copying.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not copying.done()
        desk.place.go.set()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert len(desk.place.begun) == len(desk.place.ended)
