"""Large values on Temporal: histories hold references, a process fetches what it needs, nothing is written twice."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

import pytest

import offramp
from offramp import SLA, App
from offramp.core.reference import reference_in
from offramp.errors import ObjectLost
from tests import s3
from tests.support import Signal, eventually, failure_of, log_of, reach, result_of, types

MIB = 1 << 20
app = App("large", classes=[SLA("now", budget=0.3), SLA("deep", budget=0)])
executed = []
gates = {}


@pytest.fixture(autouse=True)
def _fresh():
    executed.clear()
    gates.clear()
    gates["held"] = Signal()


@app.step(timeout=30)
async def grow(text: str, letter: str) -> str:
    executed.append(("grow", letter))
    return text + letter * MIB


@app.step(short=True)
async def brief(text: str) -> str:
    executed.append(("brief", len(text)))
    return text


@app.step(timeout=30)
async def hold(text: str) -> int:
    executed.append(("hold", len(text)))
    await gates["held"].wait()
    return len(text)


@app.pipeline(sla="deep")
async def large(text: str) -> str:
    first = await grow(text, "a")
    second = await grow(first, "b")
    return await brief(second)


async def body(text: str) -> str:
    first = await grow(text, "a")
    assert await hold(first) == len(first)
    return await grow(first, "b")


app.pipeline(name="leaves", sla="now")(body)
app.pipeline(name="stops", sla="deep")(body)


@app.pipeline(sla="deep")
async def hears() -> int:
    return len(await offramp.signal("go"))


@app.pipeline(sla="deep")
async def loops(rounds: int) -> int:
    text = "x" * MIB
    for number in range(rounds):
        text = (await grow(text, str(number)))[:MIB]
    return len(text)


def url(tmp_path):
    return s3.server().url(f"temporal/{tmp_path.name}")


pytestmark = pytest.mark.skipif(s3.missing() is not None, reason=str(s3.missing()))
TEXT = "i" * (MIB // 2)
LONG = {"max_body_bytes": 4 * MIB}


async def bytes_of(history, run_id):
    return sum(event.ByteSize() for event in await history(run_id))


async def test_inputs_arguments_and_results_travel_as_references(service, history, tmp_path):
    async with service(app, objects=url(tmp_path), **LONG) as runtime:
        handle = await runtime.start("large", text=TEXT)
        assert await result_of(handle) == TEXT + "a" * MIB + "b" * MIB
        journal = await runtime.service.process.store.journal(handle.id)
        record = await runtime.service.get(handle.id)
        kept = {reference_in(entry.value).key for entry in journal}
        assert len(kept) == 2, "the short step returned what the one before it did"
        assert reference_in(record.result).key in kept, "the result is what the last step returned"
        place = runtime.service.process.values.blobs.place
        objects = await listed(place, handle.id)
    # The input, three lists of arguments, two results.
    assert len(objects) == 6, objects
    assert await bytes_of(history, handle.id) < 20_000
    assert executed == [("grow", "a"), ("grow", "b"), ("brief", len(TEXT) + 2 * MIB)]


async def listed(place, run_id):
    import obstore

    return await asyncio.to_thread(lambda: [row["path"] for row in obstore.list(place.store, prefix=run_id).collect()])


async def test_a_demoted_run_takes_its_large_results_along(service, history, tmp_path):
    async with service(app, objects=url(tmp_path), **LONG) as runtime:
        handle = await runtime.start("leaves", text=TEXT)
        await reach(handle, "run.demoted")
        gates["held"].set()
        assert len(await result_of(handle)) == len(TEXT) + 2 * MIB
        assert types(await log_of(handle)).count("run.resumed") == 1
    assert executed == [("grow", "a"), ("hold", len(TEXT) + MIB), ("grow", "b")]
    assert await bytes_of(history, handle.id) < 20_000


async def test_bodies_that_are_rebuilt_see_the_same_again(service, monkeypatch, tmp_path):
    from offramp.engines.temporal import engine

    monkeypatch.setattr(engine, "BODIES_CACHED_MAX", 0)
    async with service(app, objects=url(tmp_path), **LONG) as runtime:
        runtime.worker.engine.history_events_max = 20  # and go on in new histories
        handle = await runtime.start("loops", rounds=5)
        assert await result_of(handle) == MIB
    assert executed == [("grow", str(number)) for number in range(5)]


async def test_a_large_signal_arrives(service, tmp_path):
    async with service(app, objects=url(tmp_path), **LONG) as runtime:
        handle = await runtime.start("hears")
        await reach(handle, "wait.started")
        await handle.signal("go", "s" * MIB)
        assert await result_of(handle) == MIB


async def test_a_value_between_the_limits_is_small_for_the_store_and_large_for_temporal(service, history, tmp_path):
    async with service(app, objects=url(tmp_path), objects_above=8 * MIB, **LONG) as runtime:
        handle = await runtime.start("large", text=TEXT)
        assert len(await result_of(handle)) == len(TEXT) + 2 * MIB
        journal = await runtime.service.process.store.journal(handle.id)
        assert [reference_in(entry.value) for entry in journal] == [None] * 3
    assert await bytes_of(history, handle.id) < 20_000


async def test_a_run_that_needs_what_is_lost_fails_by_name(service, tmp_path):
    async with service(app, objects=url(tmp_path), **LONG) as runtime:
        handle = await runtime.start("leaves", text=TEXT)
        await reach(handle, "step.completed")
        [entry] = await runtime.service.process.store.journal(handle.id)
        await reach(handle, "run.demoted")
        place = runtime.service.process.values.blobs.place
        key = reference_in(entry.value).key
        import obstore

        await asyncio.to_thread(lambda: obstore.delete(place.store, key))
        gates["held"].set()
        error = await failure_of(handle)
    assert isinstance(error, ObjectLost)
    assert "the result of step 'grow'" in str(error)


class Away:
    """A folder that can be away."""

    def __init__(self, path):
        self.path = path

    def leave(self):
        while True:
            with contextlib.suppress(FileNotFoundError):
                self.path.rename(self.path.with_name("away"))
            try:
                self.path.touch(exist_ok=False)  # nothing can be made in its place
            except FileExistsError:  # a process that looked at it made it again meanwhile
                shutil.rmtree(self.path.with_name("away"))
            else:
                return

    def come_back(self):
        self.path.unlink()
        if self.path.with_name("away").exists():
            self.path.with_name("away").rename(self.path)


async def test_a_run_waits_for_a_place_that_is_away_and_repeats_nothing(service, tmp_path, caplog):
    place = Away(tmp_path / "objects")
    async with service(app, objects=str(place.path), **LONG) as runtime:
        await eventually(place.path.exists)  # each process has looked
        place.leave()
        handle = await runtime.start("stops", text=TEXT)
        await eventually(lambda: "cannot be handed to Temporal yet" in caplog.text)
        place.come_back()
        await eventually(lambda: ("hold", len(TEXT) + MIB) in executed)
        place.leave()
        caplog.clear()
        gates["held"].set()
        await eventually(lambda: "objects cannot be" in caplog.text)  # Temporal asks again
        place.come_back()
        assert len(await result_of(handle)) == len(TEXT) + 2 * MIB
    assert executed == [("grow", "a"), ("hold", len(TEXT) + MIB), ("grow", "b")]
