"""The rows of "What may be waited for" about what a body itself awaits: each coroutine function executes its case.

A case is executed where its run stays on the fast path, is demoted while it waits, is parked, and loses its worker.
Time is the injected clock's; what is waited for by time takes `LONG_S` of it.
"""

from __future__ import annotations

import asyncio
import functools
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import offramp
from offramp import App, testing
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.paths.waiting import deep, parked, started, until
from tests.support import Signal, eventually, frames_of, log_of, member, of, result_of, swept, types

LONG_S = 20.0
"""Past the budget of a demoted run and the least that a run is parked for."""
SHARED_S = 16.0
"""What the first half of a shared deadline takes."""
LEFT_S = 12.0
"""When a run is demoted, and when its worker is gone."""
SIGNALLED_S = 17.0
"""When the signal comes that a case waits for."""
LATE_S = 11.0
"""What jumps of the clock on a busy machine may add; less than what a timer would that counts anew from `LEFT_S`."""


class Case:
    """A pipeline around one wait; `wait` is given this, and gives text."""

    def __init__(self, wait):
        self.app, self.executed, self.entered, self.wait = App("waits"), Counter(), 0, wait

        @self.app.step
        async def work(name: str) -> str:
            self.executed[name] += 1
            return name

        @self.app.step
        async def slow(name: str) -> str:
            self.executed[name] += 1
            await asyncio.get_running_loop().create_future()
            return name

        @self.app.pipeline
        async def pipe() -> list[str]:
            first = await work("first")
            self.entered += 1
            return [first, await self.wait(self), await work("last")]

        self.work, self.slow = work, slow

    async def _signals(self, service, run_id, clock):
        await until(lambda: self.entered and clock.monotonic() >= SIGNALLED_S)
        await service.signal(run_id, "go", b'"signalled"')

    async def ends(self, service, run_id, clock, expected, took_s):
        """See the run through, and call it again with its journal."""
        ends = asyncio.create_task(frames_of(service, run_id))
        if expected == "signalled":
            await asyncio.gather(self._signals(service, run_id, clock), clock.run_until(ends, 0.25))
        await clock.run_until(ends, 0.25)
        record = await service.get(run_id)
        assert record.status == "completed", record.error
        assert record.result == b'["first","%s","last"]' % expected.encode()
        took = record.finished_at - record.created_at
        assert not took_s or took_s <= took < took_s + LATE_S, f"it took {took:g} s"
        replayed = await service.replay(run_id)
        assert (replayed.outcome.result, replayed.executed) == (record.result, [])
        assert (self.executed["first"], self.executed["last"]) == (1, 1)
        return record


async def stays_fast(wait, *expected):
    case, clock = Case(wait), FakeClock()
    async with testing.runtime(case.app, clock=clock) as runtime:
        handle = await runtime.submit(Submission(pipeline="pipe", budget=60.0))
        assert (await case.ends(runtime.service, handle.id, clock, *expected)).path == "fast"


async def is_demoted(wait, *expected):
    case, clock = Case(wait), FakeClock()
    async with testing.runtime(case.app, clock=clock) as runtime:
        handle = await runtime.submit(Submission(pipeline="pipe", budget=LEFT_S))
        assert (await case.ends(runtime.service, handle.id, clock, *expected)).path == "deep"


async def is_parked(wait, *expected):
    case, clock = Case(wait), FakeClock()
    async with started(case.app, None, clock) as runtime:
        handle = await runtime.submit(deep("pipe"))
        await parked(runtime.service, handle.id, clock=clock)
        await case.ends(runtime.service, handle.id, clock, *expected)
        assert types(await log_of(handle)).count("run.resumed") == 1


async def is_taken_over(wait, *expected):
    case, clock = Case(wait), FakeClock()
    settings = {"clock": clock, "lease": 600.0, "drain_timeout": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        async with member(case.app, Path(folder), "gateway", owner="gateway", **settings) as gateway:
            async with member(case.app, Path(folder), "worker", owner="old", **settings) as old:
                run = (await gateway.submit(deep("pipe"))).record.id
                await until(lambda: case.entered)
                clock.advance(0.25)  # timers are written down in case the process dies
                live = old.live.get(run)
                if live is not None:
                    await swept(live.execution)
                    await live.log.durable() if live.execution.scope.gate.is_open else None
                clock.advance(LEFT_S)
                await gateway.retire("old")
            async with member(case.app, Path(folder), "worker", owner="new", **settings):
                await case.ends(gateway, run, clock, *expected)


def everywhere(wait, expected, took_s=LONG_S, *, parks=False):
    """A case that ends alike wherever its run is executed; one that takes no time is only replayed."""

    async def execute():
        await stays_fast(wait, expected, took_s)
        if parks:
            await is_parked(wait, expected, took_s)
        if took_s:
            await is_demoted(wait, expected, took_s)
            await is_taken_over(wait, expected, took_s)

    return execute


def both(*cases):
    async def execute():
        for case in cases:
            await case()

    return execute


# What is waited for.


async def a_step(case):
    return await case.work("step")


async def a_signal(_case):
    return await offramp.signal("go")


async def a_signal_in_time(_case):
    async with asyncio.timeout(LONG_S):
        return await offramp.signal("go")


async def own_sleep(_case):
    await offramp.sleep(LONG_S)
    return "slept"


async def plain_sleep(_case):
    return await asyncio.sleep(LONG_S, "slept")


async def sleep_beside_a_step(case):
    nap, step = asyncio.create_task(asyncio.sleep(LONG_S, "slept")), asyncio.create_task(case.work("step"))
    return f"{await step} {await nap}"


async def by_timeout(awaitable):
    async with asyncio.timeout(LONG_S):
        return await awaitable


async def by_timeout_at(awaitable):
    async with asyncio.timeout_at(asyncio.get_running_loop().time() + LONG_S):
        return await awaitable


async def by_wait_for(awaitable):
    return await asyncio.wait_for(awaitable, LONG_S)


async def by_wait(awaitable):
    task = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait([task], timeout=LONG_S)
    if done:
        return task.result()
    task.cancel()
    await asyncio.wait([task])
    raise TimeoutError


async def by_as_completed(awaitable):
    task = asyncio.ensure_future(awaitable)
    try:
        for future in asyncio.as_completed([task], timeout=LONG_S):
            return await future
    finally:
        task.cancel()
        await asyncio.wait([task])


async def by_call_later(awaitable):
    task = asyncio.ensure_future(awaitable)
    asyncio.get_running_loop().call_later(LONG_S, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise TimeoutError from None


async def by_call_at(awaitable):
    task, loop = asyncio.ensure_future(awaitable), asyncio.get_running_loop()
    loop.call_at(loop.time() + LONG_S, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise TimeoutError from None


def limits(*ways):
    """Each of these around a step that never ends, a signal that comes, and one that does not."""

    async def late(way, around, case):
        try:
            return await way(around(case))
        except TimeoutError:
            return "late"

    def of_one(way):
        def cases(around, *expected, **where):
            return everywhere(functools.partial(late, way, around), *expected, **where)

        return both(
            cases(lambda case: case.slow("slow"), "late"),
            cases(lambda _case: offramp.signal("go"), "signalled", SIGNALLED_S, parks=True),
            cases(lambda _case: offramp.signal("never"), "late", parks=True),
            cases(lambda case: case.work("quick"), "quick", 0.0),
        )

    return both(*(of_one(way) for way in ways))


async def a_shared_deadline(case):
    """Its second half begins where the first one has ended, wherever that is."""
    loop, late = asyncio.get_running_loop(), 0
    deadline = loop.time() + LONG_S
    for part in (SHARED_S, LONG_S):
        try:
            async with asyncio.timeout_at(deadline), asyncio.timeout(part):
                await case.slow("slow")
        except TimeoutError:
            late += 1
    return f"{late} late, over: {loop.time() >= deadline}"


async def gathered(case):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(case.work(name)) for name in "ab"]
        tasks.append(group.create_task(asyncio.sleep(LONG_S, "slept")))
    return " ".join([*await asyncio.gather(case.work("c"), case.work("d")), *(task.result() for task in tasks)])


async def between_branches(case):
    queue, arrived, seen = asyncio.Queue(1), asyncio.Event(), []

    async def produce():
        for name in "abc":
            await queue.put(await case.work(name))
            if name == "a":  # then the other branch waits for the next
                await asyncio.sleep(LONG_S)
        arrived.set()

    async def consume():
        while len(seen) < 3:
            seen.append(await queue.get())
        await arrived.wait()

    await asyncio.gather(produce(), consume())
    return " ".join(seen)


async def in_turn(case):
    lock, two, seen = asyncio.Lock(), asyncio.Semaphore(2), []

    async def branch(name):
        async with two:
            await asyncio.sleep(LONG_S / 2)
            async with lock:
                seen.append(await case.work(name))

    await asyncio.gather(*(branch(name) for name in "abcd"))
    return " ".join(seen)


# What cannot be journaled.


def repeated(blocks):
    """A wait on what is not journaled: it is begun again wherever the body is called again."""

    async def execute():
        begun = Counter()

        async def wait(case):
            begun["times"] += 1
            return await blocks(case)

        await stays_fast(wait, "done", 0.0)
        assert begun["times"] == 2, "once, and once more by the replay"

    return execute


async def in_a_thread(_case):
    return await asyncio.to_thread(lambda: "done")


async def blocking(_case):
    time.sleep(0.001)  # noqa: ASYNC251 - what the row is about
    return "done"


async def foreign(_case):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    threading.Thread(target=lambda: loop.call_soon_threadsafe(future.set_result, "done")).start()
    return await future


async def cut_after_50_ms():
    """A demotion does not wait for it for longer than `BOUNDARY_GRACE_S`; the next process begins it again."""
    begun, ended = [], Signal()

    async def wait(_case):
        begun.append(1)
        if len(begun) == 1:
            async with asyncio.timeout(3600):
                await asyncio.get_running_loop().create_future()
        ended.set()
        return "done"

    case, clock = Case(wait), FakeClock()
    async with testing.runtime(case.app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await eventually(lambda: begun)
        assert await clock.run_until(result_of(handle), 0.01) == ["first", "done", "last"]
        [demoted] = of(await log_of(handle), "run.demoted")
    assert demoted.data["reason"] == "budget"
    assert len(begun) == 2
    assert clock.monotonic() < 10.0


LIBRARY = """
import asyncio
async def call(seconds):
    try:
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
    except TimeoutError:
        return "done"
"""


async def by_a_library(_case):
    made = {"__name__": "somelibrary.client"}
    exec(compile(LIBRARY, f"{sysconfig.get_path('purelib')}/somelibrary/client.py", "exec"), made)
    return await made["call"](0.01)


CASES = {
    "a step": everywhere(a_step, "step", 0.0),
    "`offramp.signal(name)`": everywhere(a_signal, "signalled", SIGNALLED_S, parks=True),
    "`offramp.sleep(s)`": everywhere(own_sleep, "slept", parks=True),
    "`asyncio.sleep(s)`": both(
        everywhere(plain_sleep, "slept", parks=True), everywhere(sleep_beside_a_step, "step slept", parks=True)
    ),
    "`asyncio.timeout(s)`, `asyncio.timeout_at(t)`": limits(by_timeout, by_timeout_at),
    "`asyncio.wait_for(aw, s)`": limits(by_wait_for),
    "`asyncio.wait(aws, timeout=s)`": limits(by_wait),
    "`asyncio.as_completed(aws, timeout=s)`": limits(by_as_completed),
    "`loop.call_later(s, f)`, `loop.call_at(t, f)`": limits(by_call_later, by_call_at),
    "`loop.time()`": everywhere(a_shared_deadline, "2 late, over: True"),
    "`asyncio.TaskGroup`, `asyncio.gather`": everywhere(gathered, "c d a b slept", parks=True),
    "queues, events and conditions between branches": everywhere(between_branches, "a b c"),
    "`asyncio.Lock`, `asyncio.Semaphore`": everywhere(in_turn, "a b c d"),
    "`asyncio.to_thread(f)`": repeated(in_a_thread),
    "`time.sleep(s)`, and any computation": repeated(blocking),
    "a wait for something outside the run: a thread's future, an HTTP client": both(repeated(foreign), cut_after_50_ms),
    "a timer that an installed library sets for itself": repeated(by_a_library),
}
