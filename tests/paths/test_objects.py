"""Large results go to objects and come back, wherever a run goes on; nothing refers to what is not kept."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offramp import App, Retry
from offramp.core.reference import reference_in
from offramp.errors import ObjectLost, ObjectsUnavailable
from offramp.paths.live import Watcher
from offramp.paths.local import Handle
from offramp.paths.purge import purge
from offramp.paths.submission import Submission
from offramp.stores.blobs.blobs import PlacedBlobs
from offramp.testing import FakeClock, runtime
from tests import s3
from tests.conformance.blobs import CutMemory
from tests.paths import large_victim
from tests.support import GUARD_S, Signal, eventually, failure_of, frames_of, log_of, member, reach, result_of, types

MIB = 1 << 20
app = App("large")
executed = []


@app.step(retry=Retry(attempts=3, base=0.001))
async def make(size: int, letter: str = "x") -> str:
    executed.append(letter)
    return letter * size


@app.step(lane="process")
def make_elsewhere(size: int) -> str:
    return "p" * size


@app.step(effect="once")
async def make_once(size: int) -> str:
    executed.append("once")
    return "o" * size


@app.pipeline(budget=60)
async def returns(size: int) -> str:
    return await make(size)


@app.pipeline(budget=60)
async def counts(size: int) -> int:
    return len(await make(size)) + len(await make(size, "y"))


@app.pipeline(budget=60)
async def pays(size: int) -> int:
    return len(await make_once(size))


@app.pipeline(budget=60)
async def crosses(size: int) -> int:
    return len(await make_elsewhere(size))


@app.pipeline(budget=60)
async def builds(size: int) -> str:
    return "b" * size


@app.pipeline(budget=0)
async def goes_on(size: int) -> int:
    first = await make(size)
    return len(first) + len(await held(first[:1]))


gate: dict[str, Signal] = {}


@app.step
async def held(letter: str) -> str:
    executed.append("held")
    await gate["held"].wait()
    return letter


@pytest.fixture(autouse=True)
def _fresh():
    executed.clear()
    gate["held"] = Signal()


def files(folder):
    """The objects of runs; at its start a process writes one more, and removes it, to see whether it can."""
    return sorted(path.relative_to(folder) for path in Path(folder).glob("run_*/*"))


def local(tmp_path, **settings):
    return app.local(data=str(tmp_path / "data"), objects=str(tmp_path / "objects"), **settings)


async def values(runtime, handle):
    return [entry.value for entry in await runtime.service.process.store.journal(handle.id)]


async def test_large_results_are_objects_and_small_ones_are_not(tmp_path):
    async with local(tmp_path) as runtime:
        large, small = await runtime.start("returns", size=MIB), await runtime.start("returns", size=1000)
        assert await result_of(large) == "x" * MIB
        assert await result_of(small) == "x" * 1000
        [entry] = await values(runtime, large)
        reference = reference_in(entry)
        assert reference.size == MIB + 2, "what is kept is the JSON"
        record = await runtime.service.get(large.id)
        assert record.result == entry, "the same bytes are one object, however often they are returned"
        assert files(tmp_path / "objects") == [Path(reference.key)]
        assert await values(runtime, small) == [b'"%s"' % (b"x" * 1000)]
        document = await large.document()
        [completed] = [event for event in await log_of(large) if event.type == "run.completed"]
    assert document["result"] is None
    assert completed.data["result_url"] == document["links"]["result"]


@pytest.mark.parametrize("above", [1024, 4096])
async def test_what_is_large_is_a_setting(tmp_path, above):
    async with local(tmp_path, objects_above=above) as runtime:
        for size, is_object in ((above - 2, False), (above - 1, True)):
            handle = await runtime.start("builds", size=size)
            assert await result_of(handle) == "b" * size
            assert (reference_in((await runtime.service.get(handle.id)).result) is not None) is is_object
            ended = (await log_of(handle))[-1].data
            assert ("result_url" in ended) is is_object


async def test_without_a_place_everything_stays_in_the_store(tmp_path):
    async with app.local(data=str(tmp_path)) as runtime:
        handle = await runtime.start("returns", size=MIB)
        assert await result_of(handle) == "x" * MIB
        assert await values(runtime, handle) == [b'"%s"' % (b"x" * MIB)]


async def test_a_process_lane_too(tmp_path):
    async with local(tmp_path) as runtime:
        handle = await runtime.start("crosses", size=MIB)
        assert await result_of(handle) == MIB
        assert reference_in((await values(runtime, handle))[0]) is not None


async def test_a_replay_reads_them_and_writes_nothing(tmp_path):
    async with local(tmp_path) as runtime:
        handle = await runtime.start("counts", size=MIB)
        assert await result_of(handle) == 2 * MIB
        before = files(tmp_path / "objects")
        outcome, again, *_ = await runtime.service.replay(handle.id)
    assert (outcome.result, again, len(before)) == (b"2097152", [], 2)
    assert files(tmp_path / "objects") == before


@pytest.mark.skipif(s3.missing() is not None, reason=str(s3.missing()))
async def test_a_bucket_serves_as_well(tmp_path):
    url = s3.server().url(f"paths/{tmp_path.name}")
    async with app.local(data=str(tmp_path), objects=url) as runtime:
        handle = await runtime.start("returns", size=MIB)
        assert await result_of(handle) == "x" * MIB
        assert reference_in((await values(runtime, handle))[0]) is not None
        assert (await runtime.service.replay(handle.id)).executed == []


# Places that are unavailable.


class Late(CutMemory):
    """Tells when a run was refused."""

    def __init__(self):
        super().__init__()
        self.refused = Signal()

    def write(self, key, data):
        try:
            super().write(key, data)
        except ObjectsUnavailable:
            if key.startswith("run_"):
                self.refused.set()
            raise


def placed(runtime, place):
    runtime.service.process.values.blobs = PlacedBlobs(place)
    return place


async def test_a_finished_step_waits_for_a_place_that_is_away_and_is_not_executed_again(tmp_path, caplog):
    async with local(tmp_path) as runtime:
        place = placed(runtime, Late())
        place.away = True
        handle = await runtime.start("counts", size=MIB)
        await place.refused.wait()
        await reach(handle, "step.started")
        [step] = (await handle.document())["steps"]
        assert step["status"] == "running"
        place.away = False
        assert await result_of(handle) == 2 * MIB
        assert "step.retrying" not in types(await log_of(handle))
    assert executed == ["x", "y"]
    told = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
    assert len(told) == 1, told
    assert "the result of step 'make'" in told[0]


@pytest.mark.parametrize(("pipeline", "step"), [("counts", "make"), ("pays", "make_once")])
async def test_it_waits_only_so_long_then_the_step_has_failed_and_is_not_repeated(tmp_path, pipeline, step):
    async with local(tmp_path, objects_patience=0.3) as runtime:
        placed(runtime, Late()).away = True
        handle = await runtime.start(pipeline, size=MIB)
        error = await failure_of(handle)
        document = await handle.document()
    assert isinstance(error, ObjectsUnavailable)
    assert len(executed) == 1, "the step was executed again, to return the same to nowhere"
    assert (document["error"]["code"], document["error"]["step"]) == ("objects", step)


async def test_a_result_of_the_pipeline_itself_waits_too(tmp_path):
    async with local(tmp_path) as runtime:
        place = placed(runtime, Late())
        place.away = True
        handle = await runtime.start("builds", size=MIB)
        await place.refused.wait()
        await handle.cancel()
        assert types(await log_of(handle))[-1] == "run.cancelled", "a run that waits for its place can be cancelled"


async def test_a_run_goes_on_when_what_it_needs_is_back(tmp_path):
    service = functools.partial(local, tmp_path, drain_timeout=0.2)
    async with service() as runtime:
        handle = await runtime.start("goes_on", size=MIB)
        await eventually(lambda: "held" in executed)
    gate["held"].set()
    (tmp_path / "objects").rename(tmp_path / "away")
    (tmp_path / "objects").touch()
    async with service() as runtime:
        again = Handle(runtime.service, handle.id, "goes_on", Watcher())
        await eventually(lambda: runtime.service.deep.starting)
        await asyncio.sleep(0.1)
        assert runtime.service.deep.starting == 1, "a run was begun without what it had finished"
        (tmp_path / "objects").unlink()
        (tmp_path / "away").rename(tmp_path / "objects")
        assert await result_of(again) == MIB + 1
    assert executed == ["x", "held", "held"]


@pytest.mark.parametrize("data", [None, b'"' + b"y" * MIB + b'"'], ids=["removed", "changed"])
async def test_a_run_whose_finished_step_is_lost_fails_by_name(tmp_path, data):
    service = functools.partial(local, tmp_path, drain_timeout=0.2)
    async with service() as runtime:
        handle = await runtime.start("goes_on", size=MIB)
        await eventually(lambda: "held" in executed)
    gate["held"].set()
    [name] = files(tmp_path / "objects")
    path = tmp_path / "objects" / name
    path.unlink() if data is None else path.write_bytes(data)
    async with service() as runtime:
        again = Handle(runtime.service, handle.id, "goes_on", Watcher())
        error = await failure_of(again)
    assert isinstance(error, ObjectLost)
    assert "the result of step 'make'" in str(error)
    assert executed == ["x", "held"]


async def test_a_check_of_unfinished_runs_reads_them_or_says_that_it_cannot(tmp_path):
    async with local(tmp_path) as runtime:
        handle = await runtime.start("goes_on", size=MIB)
        await eventually(lambda: "held" in executed)
        await runtime.service.live.get(handle.id).log.durable()  # what it finished is written behind
        [verdict] = [each async for each in runtime.service.check()]
        assert verdict.problem is None
        [name] = files(tmp_path / "objects")
        (tmp_path / "objects" / name).rename(tmp_path / "kept")
        [verdict] = [each async for each in runtime.service.check()]
        assert "the result of step 'make'" in verdict.problem
        runtime.service.process.values.blobs = None  # as without --objects
        with pytest.raises(ObjectsUnavailable, match="give this process the --objects that the others have"):
            [each async for each in runtime.service.check()]
        await handle.cancel()
        gate["held"].set()
        await log_of(handle)


# The end of a run's data.


class Stubborn(PlacedBlobs):
    """Deletes when the test lets it."""

    stubborn = True

    async def delete(self, run_ids):
        if self.stubborn and run_ids[0].startswith("run_"):
            raise ObjectsUnavailable("not now")
        await super().delete(run_ids)


async def test_objects_go_with_their_run_and_a_run_that_has_some_left_stays_due():
    clock = FakeClock()
    async with runtime(app, clock=clock, objects="memory:", purge_every=86_400) as made:
        process = made.service.process
        process.values.blobs = blobs = Stubborn(CutMemory())
        first = await made.start("returns", size=MIB)
        assert await clock.run_until(first.result()) == "x" * MIB
        orphan = await blobs.put(first.id, b"an attempt that was lost put this, and nothing refers to it")
        record = await made.service.get(first.id)
        clock.advance(record.retention_s + 1)
        other = await made.start("returns", size=MIB)
        await clock.run_until(other.result())
        with pytest.raises(ObjectsUnavailable):
            await purge(process)
        assert not (await made.service.get(first.id)).purged, "its objects are there, and nobody would know"
        blobs.stubborn = False
        await purge(process)
        assert (await made.service.get(first.id)).purged
        assert [key.partition("/")[0] for key in blobs.place.objects] == [other.id]
        assert orphan.run_id == first.id


# A process that dies.


@contextlib.contextmanager
def process(folder, owner, objects):
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.paths.large_victim", owner, objects],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"OFFRAMP_TEST_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait(GUARD_S)
        child.stdout.close()


async def test_a_process_that_dies_between_an_object_and_its_entry_leaves_nothing_wrong(tmp_path):
    objects = str(tmp_path / "objects")
    settings = {"objects": objects, "lease": 0.5, "poll": 0.1}
    async with member(large_victim.app, tmp_path, "gateway", owner="gateway", **settings) as gateway:
        with process(tmp_path, "first", objects) as first:
            run = (await gateway.submit(Submission(pipeline="makes"))).record.id
            assert await asyncio.to_thread(first.wait, GUARD_S) == -signal.SIGKILL
        [entry] = await gateway.process.store.journal(run)
        assert entry.name == "make"
        orphaned = files(objects)
        with process(tmp_path, "second", objects):
            frames = await frames_of(gateway, run)
        assert frames[-1].type == "run.completed"
        kept = [reference_in(entry.value).key for entry in await gateway.process.store.journal(run)]
    assert len(orphaned) == 2
    assert sorted(map(str, files(objects))) == sorted(kept), "put again, the same bytes are the same object"
    assert (tmp_path / "executed").read_text().split() == ["a", "b", "b"]
