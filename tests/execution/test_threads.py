"""Threads of plain steps: queued ones are handed over, held ones are replaced, shown and not waited for."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from offramp import App, current_run, emit, testing
from offramp.errors import StepTimeout, StillRunning
from offramp.execution.threads import Threads
from offramp.gateway.health import ready
from offramp.gateway.problems import NotReady
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.support import (
    GUARD_S,
    Signal,
    eventually,
    failure_of,
    frames_of,
    log_of,
    member,
    of,
    reach,
    reading,
    result_of,
    types,
)

GRACE_S = 0.5


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def gates():
    """Signals that blocked threads wait for; all are set in the end, so that no thread stays."""
    made = [Signal() for _ in range(4)]
    yield made
    for gate in made:
        gate.set()


def blocks(gate):
    gate.block()


BLOCKS_AT = inspect.getsourcelines(blocks)[1] + 1


def held(service):
    return reading(service, "offramp_threads_held")


def queued(service):
    return service.process.lanes.threads.waiting


def an_app(gates):
    """`stuck` holds a thread past its timeout, `occupied` one as long as it may, `quick` needs one for a moment."""
    app, executed = App("threads"), []

    @app.step(timeout=0.05)
    def stuck(n: int) -> str:
        emit(f"in {n}")
        blocks(gates[n])
        emit(f"late {n}")
        executed.append("late, and cancelled" if current_run().cancelled else "late")
        return "late"

    @app.step
    def occupied(n: int) -> str:
        blocks(gates[n])
        return "free again"

    @app.step
    def quick() -> str:
        executed.append("quick")
        return "quick"

    @app.pipeline(budget=6)
    async def sticks(n: int) -> str:
        try:
            return await stuck(n)
        except StepTimeout as error:
            return str(error)

    @app.pipeline(budget=60)
    async def occupies(n: int) -> str:
        return await occupied(n)

    @app.pipeline(budget=6)
    async def asks() -> str:
        return await quick()

    return app, executed


async def test_a_run_whose_step_waits_for_a_thread_is_handed_over_without_it(tmp_path, clock, gates):
    app, executed = an_app(gates)
    async with (
        member(app, tmp_path, "worker", clock=clock) as worker,
        member(app, tmp_path, "gateway", clock=clock, threads=1) as gateway,
    ):
        runtime = LocalRuntime(gateway)
        other = await runtime.start("occupies", n=0)
        await reach(other, "step.started")
        handle = await runtime.start("asks")
        await eventually(lambda: queued(gateway) == 1)
        clock.advance(6)  # its budget is over
        assert await result_of(handle) == "quick"  # with the gateway's only thread still busy
        seen = await log_of(handle)
        assert queued(gateway) == 0
        gates[0].set()
        assert await result_of(other) == "free again"
        assert worker.id in [event.data.get("worker") for event in seen]
    assert types(seen) == [
        "run.accepted",
        "run.demoted",
        "run.resumed",
        "step.started",
        "step.completed",
        "run.completed",
    ]
    assert executed == ["quick"]


async def test_a_drain_hands_over_what_waits_for_a_thread(tmp_path, gates):
    app, executed = an_app(gates)
    async with (
        member(app, tmp_path, "worker") as worker,
        member(app, tmp_path, "gateway", threads=1, drain_timeout=GUARD_S) as gateway,
    ):
        runtime = LocalRuntime(gateway)
        other = await runtime.start("occupies", n=0)
        await reach(other, "step.started")
        handle = await runtime.start("asks")
        await eventually(lambda: queued(gateway) == 1)
        draining = asyncio.ensure_future(gateway.drain())
        with contextlib.suppress(StillRunning):  # this process hands it over, unless the other one was quicker
            assert await result_of(handle) == "quick"
        await frames_of(worker, handle.id)
        assert not draining.done()  # for what is in flight it does wait
        gates[0].set()
        await draining
    assert executed == ["quick"]


async def test_a_branch_that_waits_for_a_thread_is_handed_over_and_one_that_sleeps_is_no_rest(clock, gates):
    app, executed = an_app(gates)
    quick = app.steps["quick"]

    @app.pipeline(budget=0)
    async def both() -> str:
        async with asyncio.TaskGroup() as group:
            slept = group.create_task(testing_sleep())
            asked = group.create_task(quick())
        return f"{slept.result()} {asked.result()}"

    async def testing_sleep() -> str:
        from offramp import sleep

        await sleep(3600)
        return "slept"

    async with testing.runtime(app, clock=clock, threads=1) as runtime:
        other = await runtime.start("occupies", n=0)
        await reach(other, "step.started")
        handle = await runtime.start("both")
        await reach(handle, "wait.started")
        await eventually(lambda: queued(runtime.service) == 1)
        for _ in range(10):
            clock.advance(0.1)  # it would be parked by now, for an hour
        gates[0].set()
        await reach(handle, "step.completed", "quick")
        assert executed == ["quick"]
        assert await clock.run_until(handle.result(), step=60) == "slept quick"


async def test_a_step_that_is_cancelled_while_it_waits_for_a_thread_never_begins(gates):
    app, executed = an_app(gates)
    async with testing.runtime(app, threads=1) as runtime:
        other = await runtime.start("occupies", n=0)
        await reach(other, "step.started")
        handle = await runtime.start("asks")
        await eventually(lambda: queued(runtime.service) == 1)
        await handle.cancel()
        assert types(await log_of(handle)) == ["run.accepted", "run.cancelled"]
        assert queued(runtime.service) == 0
        gates[0].set()
        assert await result_of(other) == "free again"
        assert await result_of(await runtime.start("asks")) == "quick"
    assert executed == ["quick"]


async def test_threads_that_timed_out_steps_hold_are_replaced_as_often_as_there_are_threads(clock, gates, caplog):
    app, executed = an_app(gates)
    async with testing.runtime(app, clock=clock, threads=1, cancel_grace=GRACE_S) as runtime:
        service = runtime.service
        call = SimpleNamespace(service=service)
        first = await runtime.start("sticks", n=0)
        assert await result_of(first) == "step 'stuck' took longer than its timeout of 0.05 s"
        assert held(service) == 1
        assert await result_of(await runtime.start("asks")) == "quick"  # on another thread
        assert (await ready(call)).status == 200
        assert service.readiness.takes_runs() == (True, "ready")

        await result_of(await runtime.start("sticks", n=1))
        assert held(service) == 2
        with pytest.raises(NotReady) as refused:
            await ready(call)
        assert refused.value.status == 503
        assert f"2 at {__file__}:{BLOCKS_AT} in blocks (step 'stuck')" not in str(refused.value)  # they stand deeper
        assert "2 at " in str(refused.value)
        assert "(step 'stuck')" in str(refused.value)
        assert service.readiness.takes_runs() == (False, str(refused.value))
        await eventually(lambda: "2 threads are held by steps that timed out or were cancelled" in caplog.text)

        waiting = await runtime.start("asks")
        await eventually(lambda: queued(service) == 1)
        gates[1].set()
        assert await result_of(waiting) == "quick"
        await eventually(lambda: held(service) == 1)
        assert (await ready(call)).status == 200
        await eventually(lambda: "enough threads are free again" in caplog.text)
        gates[0].set()
        await eventually(lambda: held(service) == 0)
        assert "late 0" not in [event.data["delta"] for event in of(await log_of(first), "step.delta")]
    assert sorted(executed) == ["late, and cancelled", "late, and cancelled", "quick", "quick"]


async def test_a_thread_that_goes_on_after_the_grace_is_counted_and_its_line_logged(clock, gates, caplog):
    app, _ = an_app(gates)

    def reports(runtime):
        return reading(runtime.service, "offramp_steps_abandoned_total", pipeline="sticks", step="stuck")

    async with testing.runtime(app, clock=clock, threads=2, cancel_grace=GRACE_S) as runtime:
        await result_of(await runtime.start("sticks", n=0))
        await result_of(await runtime.start("sticks", n=1))
        gates[1].set()
        await eventually(lambda: held(runtime.service) == 1)
        assert reports(runtime) == 0
        with caplog.at_level(logging.WARNING, "offramp"):
            clock.advance(GRACE_S)
            await eventually(lambda: reports(runtime) == 1)
        [line] = [record.getMessage() for record in caplog.records if "still runs" in record.getMessage()]
    assert "attempt 1 of step 'stuck' still runs 0.5 s after its timeout or cancellation, at " in line
    assert f"{__file__.rpartition('/')[0].removesuffix('/execution')}/support.py" in line


async def test_a_timeout_counts_from_when_the_code_begins(gates):
    app, _ = an_app(gates)

    @app.step(timeout=0.2)
    def timed() -> str:
        return "in time"

    @app.pipeline(budget=60)
    async def pipe() -> str:
        return await timed()

    async with testing.runtime(app, threads=1) as runtime:
        other = await runtime.start("occupies", n=0)
        await reach(other, "step.started")
        handle = await runtime.start("pipe")
        await eventually(lambda: queued(runtime.service) == 1)
        await asyncio.sleep(0.3)  # longer than the timeout, which must not count yet
        gates[0].set()
        assert await result_of(handle) == "in time"


async def test_an_exception_out_of_a_thread_is_the_steps():
    app = App("raises")

    @app.step
    def fails() -> None:
        raise KeyError("mine")

    @app.pipeline
    async def pipe() -> None:
        await fails()

    async with testing.runtime(app) as runtime:
        error = await failure_of(await runtime.start("pipe"))
    assert (type(error), error.args) == (KeyError, ("mine",))


def ask(threads, loop):
    """Places as attempts ask for them, from within a loop."""

    async def place():
        return threads.place("step")

    return loop.run_until_complete(place())


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_places_are_given_in_order_and_no_more_than_there_may_be(loop):
    threads = Threads(2)
    places = [ask(threads, loop) for _ in range(5)]
    assert [place.is_given for place in places] == [True, True, False, False, False]
    places[3].leave()
    places[0].leave()
    assert [place.is_given for place in places[1:]] == [True, True, False, False]
    places[1].leave()
    places[2].leave()
    assert places[4].is_given
    assert threads.waiting == 0
    threads.close()


def test_threads_that_stood_in_for_held_ones_end_with_these(loop):
    threads, gate, most = Threads(2), threading.Event(), 4
    places = [ask(threads, loop) for _ in range(2)]
    begun = threading.Semaphore(0)

    def work():
        begun.release()
        assert gate.wait(GUARD_S)

    def run(place):
        async def call():
            place.run(work)

        loop.run_until_complete(call())
        assert begun.acquire(timeout=GUARD_S)

    for place in places:
        run(place)
        place.leave()
    more = [ask(threads, loop) for _ in range(3)]
    assert [place.is_given for place in more] == [True, True, False]
    assert not threads.is_short
    for place in more[:2]:
        run(place)
    assert threads.alive == most
    more[0].leave()
    assert threads.is_short
    assert not more[2].is_given  # three are held: one may work, and it does
    gate.set()
    loop.run_until_complete(eventually(lambda: threads.alive == 2 and not threads.held))
    assert more[2].is_given
    threads.close()
    loop.run_until_complete(eventually(lambda: threads.alive == 0))


def test_where_the_system_has_no_more_threads_others_go_on(loop, monkeypatch):
    threads, done = Threads(2), threading.Event()
    first, second = ask(threads, loop), ask(threads, loop)

    async def run(place, call):
        place.run(call)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _self: (_ for _ in ()).throw(RuntimeError("can't start")))
        with pytest.raises(RuntimeError, match="can't start"):
            loop.run_until_complete(run(first, done.set))
    first.leave()
    assert not done.is_set()
    loop.run_until_complete(run(second, done.set))
    assert done.wait(GUARD_S)
    threads.close()
    loop.run_until_complete(eventually(lambda: threads.alive == 0))
    assert threads.busy == 0


SCRIPT = """
import asyncio, threading
from offramp import App
from offramp.errors import StepTimeout

app = App("script")

@app.step(timeout=0.05)
def stuck() -> None:
    threading.Event().wait(600)

@app.pipeline
async def pipe() -> str:
    try:
        await stuck()
    except StepTimeout:
        return "timed out"

async def main() -> None:
    async with app.local() as runtime:
        print(await (await runtime.start("pipe")).result(), flush=True)

asyncio.run(main())
"""


def test_a_program_does_not_wait_at_its_end_for_threads_that_steps_hold(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=GUARD_S * 2, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout.strip()) == (0, "timed out"), done.stderr
