"""`current_run().replaying`, and the filter that drops what a body logs again."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest

import offramp
from offramp import App, Retry, current_run, testing
from offramp.cli.logs import show_logs
from offramp.paths.submission import Submission
from offramp.telemetry import ReplayFilter
from tests.paths.waiting import is_parked
from tests.support import Signal, eventually, frames_of, log_of, member, reach, result_of


class Said:
    """What bodies say, and whether they knew that they repeat themselves."""

    def __init__(self):
        self.lines = []

    def __call__(self, what):
        self.lines.append((what, current_run().replaying))

    def of(self, replaying):
        return [what for what, was in self.lines if was is replaying]


@pytest.fixture
def notes():
    return Said()


@pytest.fixture
def app():
    return App("says")


async def test_a_body_is_new_the_first_time_and_replaying_the_second(app, notes):
    @app.step
    async def work(n: int) -> int:
        notes("in a step")
        return n

    @app.pipeline
    async def pipe() -> int:
        notes("begins")
        first = await work(1)
        notes("between")
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(work(n))
        await offramp.sleep(0.001)
        notes("ends")
        return first

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await result_of(handle)
        assert notes.of(True) == []
        first, notes.lines = notes.of(False), []
        await runtime.service.replay(handle.id)
    assert first == ["begins", "in a step", "between", *["in a step"] * 3, "ends"]
    # Behind the last recorded result it is new: nothing says whether an earlier execution came there.
    assert notes.lines == [("begins", True), ("between", True), ("ends", False)]


async def test_it_lasts_until_the_step_that_was_interrupted(app, notes, tmp_path):
    begun, again, hold = Signal(), Signal(), Signal()

    @app.step(retry=Retry(attempts=1))
    async def work(n: int) -> int:
        notes("in a step")
        if n == 2:
            (again if begun.is_set() else begun).set()
            await hold.wait()
        return n

    @app.pipeline(budget=0)
    async def pipe() -> None:
        notes("begins")
        await work(1)
        notes("before")
        await work(2)
        notes("after")

    async with member(app, tmp_path, "worker", owner="a") as first:
        run = (await first.submit(Submission(pipeline="pipe"))).record.id
        await begun.wait()
        await first.process.store.log(first.live.get(run).lease).durable()
        assert notes.lines == [("begins", False), ("in a step", False), ("before", False), ("in a step", False)]
        notes.lines = []
        first.live.drop(first.live.get(run))  # as a process does that lost its lease
        await first.engine.retire("a")
        await again.wait()
        hold.set()
        await frames_of(first, run)
    assert notes.lines == [("begins", True), ("before", True), ("in a step", False), ("after", False)]


@pytest.mark.parametrize("recorded_before", [True, False])
@pytest.mark.parametrize("waits_for", ["signal", "sleep"])
async def test_a_woken_run_replays_up_to_what_it_waited_for(app, notes, waits_for, recorded_before):
    clock = testing.FakeClock()

    @app.step
    async def work() -> None:
        pass

    @app.pipeline(budget=0)
    async def pipe() -> None:
        notes("begins")
        if recorded_before:
            await work()
            notes("before")
        if waits_for == "signal":
            await offramp.signal("go")
        else:
            await offramp.sleep(3600)
        notes("after")

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await reach(handle, "wait.started")
        clock.advance(1)
        await eventually(lambda: is_parked(runtime.service, handle.id))
        first, notes.lines = notes.lines, []
        if waits_for == "signal":
            await handle.signal("go")
        await clock.run_until(log_of(handle), step=60)
    before = ["begins", "before"] if recorded_before else ["begins"]
    assert first == [(what, False) for what in before]
    assert notes.lines == [*((what, True) for what in before), ("after", False)]


async def test_other_code_behind_the_recorded_steps_is_new_though_a_step_was_interrupted(app, notes):
    """Code that changed: what was interrupted is never called again, and must not keep everything silent."""
    changed, begun = [], Signal()

    @app.step
    async def work(n: int) -> int:
        begun.set()
        if not changed:
            await asyncio.get_running_loop().create_future()
        return n

    @app.pipeline(budget=0)
    async def pipe() -> None:
        notes("begins")
        await work(2 if changed else 1)
        notes("after")

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        changed.append(1)
        notes.lines = []
        service = runtime.service
        service.live.drop(service.live.get(handle.id))
        await service.engine.retire(service.process.id)
        await log_of(handle)
    assert notes.lines == [("begins", True), ("after", False)]


# The filter.


@pytest.fixture
def stream():
    logger, made = logging.getLogger("says"), io.StringIO()
    handler = logging.StreamHandler(made)
    handler.addFilter(ReplayFilter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield made
    logger.removeHandler(handler)


def logging_app(name):
    app = App("says")

    @app.step
    async def work() -> None:
        logging.getLogger(name).info("in a step")

    @app.pipeline
    async def pipe() -> None:
        logging.getLogger(name).info("begins")
        await work()
        logging.getLogger(name).info("ends")

    return app


async def test_the_filter_drops_what_a_replay_logs_again(stream):
    async with testing.runtime(logging_app("says.below")) as runtime:
        handle = await runtime.start("pipe")
        await result_of(handle)
        await runtime.service.replay(handle.id)
    logging.getLogger("says").info("outside")
    assert stream.getvalue().split("\n") == ["begins", "in a step", "ends", "ends", "outside", ""]


async def test_serve_and_worker_drop_them_by_themselves(capsys):
    logger = logging.getLogger("offramp")
    before = logger.propagate, logger.level, list(logger.handlers)
    show_logs("worker")
    try:
        async with testing.runtime(logging_app("offramp.mine")) as runtime:
            handle = await runtime.start("pipe")
            await result_of(handle)
            await runtime.service.replay(handle.id)
    finally:
        logger.propagate, logger.level, logger.handlers[:] = before
    lines = [line.split(" ", 1)[-1].strip() for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if line in {"begins", "in a step", "ends"}] == [
        "begins",
        "in a step",
        "ends",
        "ends",
    ]
