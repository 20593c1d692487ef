from __future__ import annotations

import asyncio
import inspect
import logging
import re
import subprocess
import sys
import threading

import pytest

from offramp import App, per_loop, testing
from offramp.execution import watchdog
from offramp.execution.loops import RunLoops
from tests.support import GUARD_S, Signal, eventually, log_of, of, reach, result_of, types


async def test_a_step_that_blocks_its_loop_is_named_and_new_runs_go_on_meanwhile(caplog):
    app, free, begun = App("blocks"), threading.Event(), Signal()

    @app.step
    async def blocking() -> str:
        begun.set()
        free.wait(GUARD_S)  # the line that blocks
        return "done"

    @app.pipeline
    async def blocked() -> str:
        return await blocking()

    @app.step
    async def quick() -> str:
        return threading.current_thread().name

    @app.pipeline
    async def other() -> str:
        return await quick()

    lines, first = inspect.getsourcelines(inspect.currentframe())
    line = first + next(n for n, text in enumerate(lines) if text.rstrip().endswith("# the line that blocks"))
    with caplog.at_level(logging.WARNING, logger="offramp"):
        async with testing.runtime(app, blocked_after=0.3) as runtime:
            handle = await runtime.start("blocked")
            await begun.wait()
            names = {await result_of(await runtime.start("other")) for _ in range(3)}
            await eventually(lambda: "has been blocked" in caplog.text)
            free.set()
            assert await result_of(handle) == "done"
    assert names == {"offramp-run-1"}
    assert re.search(rf"offramp-run-0 has been blocked for .* by {re.escape(__file__)}:{line} in blocking", caplog.text)
    assert caplog.text.count("offramp-run-0 has been blocked") == 1


LOOKS = """
import gc, threading
from offramp.execution.stacks import standing

class Garbage:
    def __init__(self):
        self.own, self.kept = self, threading.local()

free = threading.Event()
threads = [threading.Thread(target=free.wait) for _ in range(50)]  # whose frames it has to make
for thread in threads:
    thread.start()
gc.set_threshold(30)
gc.collect()
Garbage()
standing(threads[0].ident)
assert gc.isenabled()
free.set()
"""


def test_who_looks_for_what_blocks_a_loop_collects_no_garbage_meanwhile():
    """The process would stand still for ever, on a CPython before 3.11.9."""
    subprocess.run([sys.executable, "-c", LOOKS], check=True, timeout=GUARD_S)


async def test_a_run_on_a_blocked_loop_is_still_demoted_on_time():
    app, free, begun = App("blocks"), Signal(), Signal()

    @app.step
    async def blocking() -> str:
        begun.set()
        free.block()
        return "done"

    @app.pipeline(budget=0.2)
    async def pipe() -> str:
        return await blocking()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        seen = await reach(handle, "run.demoted")
        assert "step.completed" not in types(seen)
        free.set()
        assert await result_of(handle) == "done"
        assert len(of(await log_of(handle), "step.started")) == 1


async def test_without_a_spare_loop_new_runs_wait():
    app, free, begun = App("blocks"), Signal(), Signal()

    @app.pipeline
    async def blocked() -> None:
        begun.set()
        free.block()

    @app.pipeline
    async def other() -> str:
        return threading.current_thread().name

    async with testing.runtime(app, spare_loops=0) as runtime:
        first = await runtime.start("blocked")
        await begun.wait()
        second = await runtime.start("other")
        assert types(await reach(second, "run.accepted")) == ["run.accepted"]
        free.set()
        assert await result_of(second) == "offramp-run-0"
        await result_of(first)


async def test_a_client_per_loop_is_made_once_for_each_loop():
    client = per_loop(object)
    here = client()
    assert client() is here

    def elsewhere():
        async def look():
            return client(), client()

        return asyncio.run(look())

    there, again = await asyncio.to_thread(elsewhere)
    assert there is again
    assert there is not here


def test_a_client_per_loop_needs_a_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        per_loop(object)()


async def test_an_idle_loop_is_left_in_peace_and_a_busy_one_is_watched(monkeypatch):
    beats = []
    beat = watchdog._beat
    monkeypatch.setattr(watchdog, "_beat", lambda loop: (beats.append(loop.name), beat(loop)))
    here, loops = asyncio.get_running_loop(), RunLoops(0)
    dog = watchdog.Watchdog(loops, 60.0, lambda *_, **_told: None)
    try:
        for _ in range(2):
            await eventually(lambda: not loops._busy.is_set())  # the watchdog waits for a run, and wakes nobody
            free, before = asyncio.Event(), len(beats)

            async def run(free=free) -> None:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(free.wait(), here))

            loops.submit(lambda on, run=run: on.loop.create_task(run()))
            await eventually(lambda before=before: len(beats) >= before + 3)
            free.set()
    finally:
        dog.close()
        loops.close()
    assert not dog._thread.is_alive()
