"""Rows of "What may be waited for" in docs/reference/boundary.md about blocking code and processes: each as a case."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import sys
import threading
import warnings

import pytest

from offramp import App, current_run, emit, now, testing
from offramp.errors import OutsideRun
from tests.execution import cpu
from tests.support import GUARD_S, Signal, eventually, reach, result_of


@contextlib.contextmanager
def logged():
    """The lines of the log."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("offramp")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


async def _result(step):
    """What a run of one step without arguments gives."""
    app = App("boundary")
    declared = app.step(step)

    @app.pipeline(budget=GUARD_S)
    async def pipe() -> list:
        return await declared()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # from 3.12 on
        async with testing.runtime(app) as runtime:
            return await result_of(await runtime.start("pipe"))


async def _blocks_a_thread():
    app, free, begun = App("boundary"), threading.Event(), Signal()

    @app.step
    def blocks() -> None:
        begun.set()
        free.wait(GUARD_S)

    @app.pipeline(budget=GUARD_S)
    async def blocked() -> None:
        await blocks()

    @app.pipeline
    async def other() -> str:
        return threading.current_thread().name

    with logged() as lines:
        async with testing.runtime(app, blocked_after=0.05) as runtime:
            handle = await runtime.start("blocked")
            await begun.wait()
            assert await result_of(await runtime.start("other")) == "offramp-run-0"
            free.set()
            await result_of(handle)
    assert not [line for line in lines if "has been blocked" in line]


async def _blocks_the_loop():
    app, free, begun = App("boundary"), threading.Event(), Signal()

    @app.step
    async def blocks() -> str:
        begun.set()
        free.wait(GUARD_S)
        return "done"

    @app.pipeline(budget=0.5)
    async def blocked() -> str:
        return await blocks()

    @app.pipeline
    async def other() -> str:
        return threading.current_thread().name

    with logged() as lines:
        async with testing.runtime(app) as runtime:
            handle = await runtime.start("blocked")
            await begun.wait()
            await reach(handle, "run.demoted")
            await eventually(lambda: [line for line in lines if "has been blocked for" in line])
            # On a busy machine the first spare loop may be late as well, and a second one take the run.
            assert await result_of(await runtime.start("other")) != "offramp-run-0"
            free.set()
            assert await result_of(handle) == "done"
    assert f"{__file__}:" in "".join(line for line in lines if "has been blocked for" in line)


async def _computes_in_threads():
    app, done = App("boundary"), threading.Event()

    @app.step
    def crunch(_n: int) -> None:
        while not done.is_set():
            sum(range(100))

    @app.step
    async def quick(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @app.pipeline(budget=GUARD_S)
    async def crunches() -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(crunch(n))

    @app.pipeline(budget=GUARD_S)
    async def many() -> None:
        n = 0
        while not done.is_set():
            await quick(n)
            n += 1

    def report():
        return [line for line in lines if "which other threads use" in line]

    with logged() as lines:
        async with testing.runtime(app, blocked_after=0.03) as runtime:
            handles = [await runtime.start("crunches"), await runtime.start("many")]
            await eventually(report)
            done.set()
            for handle in handles:
                await result_of(handle)
    assert "in crunch" in report()[0]
    assert 'lane="process"' in report()[0]


def _pool(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(abs, [-1, -2])


async def _pools():
    assert await _result(_step_of(lambda: _pool("fork"))) == [1, 2]
    assert await _result(_step_of(lambda: _pool("forkserver"))) == [1, 2]


def _step_of(function):
    """A step of a function of no arguments."""

    def step() -> list:
        return function()

    return step


async def _pools_in_the_lane():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        assert await result_of(await runtime.start("of_pooled", n=3)) == [3, 2, 1]


def _ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def _forks():
    def ends():
        codes = []
        for end in (lambda: sys.exit(3), lambda: None):
            pid = os.fork()
            if pid == 0:
                end()
                return []
            codes.append(_ended(pid))
        return codes

    assert await _result(_step_of(ends)) == [3, 0]


async def _awaits_in_a_fork():
    async def ends() -> list:
        pid = os.fork()
        if pid == 0:
            await asyncio.sleep(0)
            return []
        return [_ended(pid)]

    assert await _result(ends) == [70]


def _in_child(report):
    with pytest.raises(OutsideRun):
        emit("lost")
    report.put([current_run().step, now().year > 2000])


async def _writes_in_a_fork():
    def tells():
        fork = multiprocessing.get_context("fork")
        report = fork.SimpleQueue()
        child = fork.Process(target=_in_child, args=(report,))
        child.start()
        return report.get()

    assert await _result(_step_of(tells)) == ["step", True]


CASES = {
    "a blocking call in a plain step (`time.sleep`, a blocking client)": _blocks_a_thread,
    'the same in an async step, in a body, or in a plain step with `lane="loop"`': _blocks_the_loop,
    "CPU-bound Python in plain steps": _computes_in_threads,
    "`multiprocessing.Pool` or `Process` in a step, with any start method": _pools,
    'the same in a step with `lane="process"`': _pools_in_the_lane,
    "`os.fork()` in a step": _forks,
    "an `await` in a forked child": _awaits_in_a_fork,
    "`emit`, `current_run`, `now`, `uuid4`, `random` in a forked child": _writes_in_a_fork,
}
"""The first cell of each row, and what executes it."""
