from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from offramp import App, per_loop, testing
from offramp.core.codec import Signature
from offramp.execution import watchdog
from offramp.execution.loops import RunLoops
from offramp.execution.stacks import standing
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
    assert "offramp-run-0" not in names
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
    """The process would stand still, on a CPython before 3.11.9."""
    subprocess.run([sys.executable, "-c", LOOKS], check=True, timeout=GUARD_S)


@contextlib.contextmanager
def elsewhere(function, *arguments):
    """A thread that executes a function from before the block until what it waits for ends."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    yield thread
    thread.join(GUARD_S)
    assert not thread.is_alive()


async def test_a_thread_stands_in_the_innermost_code_of_the_users():
    free = threading.Event()

    def waits() -> None:
        free.wait(GUARD_S)

    with elsewhere(waits) as thread:
        await eventually(lambda: standing(thread.ident) and "in waits" in standing(thread.ident).line)
        assert "test_loops.py" in standing(thread.ident).line
        assert "free.wait(GUARD_S)" in standing(thread.ident).line
        free.set()
    assert standing(thread.ident) is None


async def test_the_runtimes_own_code_is_nobodys_even_if_a_user_called_it():
    loops = RunLoops(0)

    def calls() -> None:
        loops.wait_until_busy()

    try:
        with elsewhere(calls) as thread:
            await eventually(lambda: "wait" in codes_of(thread)[:2])
            assert "calls" in codes_of(thread)
            assert standing(thread.ident) is None
            loops.end_watch()
    finally:
        loops.close()


def codes_of(thread):
    frame, found = sys._current_frames().get(thread.ident), []
    while frame is not None:
        found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found


async def test_pipelines_that_are_installed_as_a_package_are_the_users_and_what_they_call_is_not():
    free, installed = threading.Event(), Path(sysconfig.get_path("purelib"))
    names = {"wait": free.wait, "GUARD_S": GUARD_S}
    exec(compile("def library():\n    wait(GUARD_S)", installed / "library.py", "exec"), names)
    exec(compile("def step():\n    library()", installed / "desk.py", "exec"), names)
    signature = Signature(names["step"], "step 'step'")
    with elsewhere(signature.call, names["step"], ()) as thread:
        await eventually(lambda: "library" in codes_of(thread))
        assert standing(thread.ident).line.startswith(f"{installed / 'desk.py'}:2 in step")
        free.set()
    free.clear()
    with elsewhere(names["library"]) as thread:  # by something that is not a step: a library's own thread
        await eventually(lambda: "library" in codes_of(thread))
        assert standing(thread.ident) is None
        free.set()


@contextlib.asynccontextmanager
async def crunching(app, threads, **settings):
    """A runtime with so many threads that compute, until the block ends."""
    done = threading.Event()

    @app.step
    def crunch(_n: int) -> int:
        steps = 0
        while not done.is_set():
            steps += sum(range(100))
        return steps

    @app.pipeline(budget=GUARD_S)
    async def crunches() -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(threads):
                group.create_task(crunch(n))

    async with testing.runtime(app, **settings) as runtime:
        handle = await runtime.start("crunches")
        await reach(handle, "step.started")
        try:
            yield runtime
        finally:
            done.set()
        await result_of(handle)


async def test_short_steps_are_not_blamed_for_the_threads_that_compute(caplog):
    app = App("contended")

    @app.step
    async def nothing(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @app.pipeline(budget=GUARD_S)
    async def many() -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(500):
                group.create_task(nothing(n))

    with caplog.at_level(logging.WARNING, logger="offramp"):
        async with crunching(app, 4) as runtime:
            await result_of(await runtime.start("many"))
            assert len(runtime.service.process.loops.loops) == 1
    assert "make the step a plain" not in caplog.text


async def test_threads_that_compute_are_named_when_the_loop_waits_for_the_interpreter(caplog):
    app = App("contended")

    @app.step
    async def nothing(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @app.pipeline(budget=GUARD_S)
    async def many() -> None:
        n = 0
        while not is_reported():
            await nothing(n)
            n += 1

    def is_reported() -> bool:
        return "for the interpreter, which other threads use" in caplog.text

    with caplog.at_level(logging.WARNING, logger="offramp"):
        async with crunching(app, 4, blocked_after=0.03) as runtime:
            handle = await runtime.start("many")
            await eventually(is_reported)
            await result_of(handle)
    assert re.search(r"offramp-run-0 has waited .*test_loops\.py:\d+ in crunch \(.*lane=\"process\"", caplog.text)


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
    beat = watchdog.beat
    monkeypatch.setattr(watchdog, "beat", lambda loop: (beats.append(loop.name), beat(loop)))
    here, loops = asyncio.get_running_loop(), RunLoops(0)
    dog = watchdog.Watchdog(loops, 60.0, lambda *_, **_facts: None)
    try:
        for _ in range(2):
            await eventually(lambda: not loops.busy.is_set())  # the watchdog waits for a run, and wakes nobody
            free, before = asyncio.Event(), len(beats)

            async def run(free=free) -> None:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(free.wait(), here))

            loops.submit(lambda on, run=run: on.loop.create_task(run()))
            await eventually(lambda before=before: len(beats) >= before + 3)
            free.set()
    finally:
        dog.close()
        loops.close()
    assert not dog.thread.is_alive()
