"""Permits in process lanes: those of the step are lent to the child, which tells what becomes of them."""

from __future__ import annotations

import threading
from typing import Any

from offramp import App, emit
from offramp.core.limits.messages import Done, Granted, Refused, Waits
from offramp.errors import LaneDied
from offramp.execution.borrowing import Borrower, LaneLimits
from offramp.execution.clock import SystemClock
from offramp.execution.context import current
from offramp.execution.holding import IDLE_S_MAX
from offramp.execution.lending import Loan
from offramp.ports.limits import Held
from offramp.testing import FakeClock
from tests.permits import Toy, uses
from tests.permitted import opened
from tests.support import Signal, eventually, failure_of, log_of, of, reach, result_of

app = App("lent")


@app.step(lane="process", timeout=30)
def calls() -> list[str]:
    holder = current.get().holder
    within = holder.ask("other").within
    held = holder.take("api")
    assert holder.take("api") is None
    holder.limits.written(held.id)
    holder.limits.slow(held.id)
    holder.limits.done(held.id, Done(how="ok", tokens=7))
    return [held.id, *within]


@app.step(lane="process", timeout=30)
def dies() -> None:
    import os

    current.get().holder.take("api")
    os._exit(3)


@app.step(lane="process", timeout=30)
def waits() -> str:
    holder = current.get().holder
    ask = holder.ask("api")
    with holder.waiting(ask, lambda: None) as say:
        say(Waits("rate", 3, 2.0))
        emit("waits")
        while True:
            threading.Event().wait(0.01)


@app.step(lane="process", timeout=30)
def asks() -> str:
    holder, answers = current.get().holder, []
    holder.limits.ask(holder.ask("api"), answers.append)
    return type(answers[0]).__name__


STEPS = {step.spec.name: step for step in (calls, dies, waits, asks)}
uses(calls, "api", "other")
uses(dies, "api")


@app.pipeline(budget=60)
async def line(step: str) -> Any:
    return await STEPS[step]()


async def test_the_parent_does_what_the_child_says_of_a_permit_and_withdraws_the_others(tmp_path):
    limits = Toy(api=1, other=1)
    async with opened(tmp_path, limits, app=app) as runtime:
        held, *within = await result_of(await runtime.start("line", step="calls"))
    api, other = limits.asked
    assert (held, set(within)) == (api.id, {api.id, other.id})
    assert limits.dones == [(api.id, "ok")]
    assert limits.withdrawn == [other.id]
    assert limits.in_use == 0


async def test_the_permit_of_a_child_that_dies_comes_back_as_cancelled(tmp_path):
    limits = Toy(api=1)
    async with opened(tmp_path, limits, app=app) as runtime:
        assert isinstance(await failure_of(await runtime.start("line", step="dies")), LaneDied)
    assert limits.dones == [(limits.asked[0].id, "cancelled")]
    assert limits.free == {"api": 1}


async def test_what_a_child_waits_for_is_said_by_its_parent(tmp_path):
    clock, limits = FakeClock(), Toy(api=0)
    async with opened(tmp_path, limits, app=app, clock=clock) as runtime:
        handle = await runtime.start("line", step="waits")
        await reach(handle, "step.delta")
        run = runtime.service.live.get(handle.id)
        await eventually(lambda: run.execution.scope.gate.stills_within(clock.monotonic()))
        clock.advance(0.3)
        [said] = of(await reach(handle, "step.waiting"), "step.waiting")
        assert (said.data["reason"], said.data["ahead"], said.data["expected_ms"]) == ("rate", 3, 2000.0)
        await handle.cancel()
        await log_of(handle)


async def test_a_child_that_cannot_reach_the_limits_is_told_so(tmp_path):
    async with opened(tmp_path, Toy(api=1), app=app) as runtime:
        assert await result_of(await runtime.start("line", step="asks")) == "Refused"


class Here:
    """Leads to the same limits, in this process."""

    def __init__(self, limits):
        self.limits = limits
        self.opened = 0

    def open(self, _clock):
        self.opened += 1
        return self.limits


def test_a_child_asks_for_what_it_was_not_lent_by_itself():
    limits, news = Toy(api=1), []
    place = Here(limits)
    lane = LaneLimits(place, SystemClock())
    loan = Loan("run_1:0:x", "write", "batch", "acme", -1, retries=True, permits={"api": Held("p1", 5)})
    holder = Borrower(loan, "run_1", lane, news.append, lambda: None)
    assert place.opened == 0
    answers = []
    ask = holder.ask("api")
    assert (ask.id, ask.run_id, ask.sla, ask.tenant, ask.priority) == ("run_1:0:x.000000", "run_1", "batch", "acme", -1)
    assert ask.within == ("p1",)
    holder.limits.ask(ask, answers.append)
    holder.limits.written(ask.id)
    holder.limits.done(ask.id, Done())
    assert (answers, limits.dones, place.opened, news) == ([Granted()], [(ask.id, "ok")], 1, [])
    assert holder.take("api") == Held("p1", 5)
    assert holder.ask("api").within == ()
    assert len(news) == 1
    lane.close()
    holder.limits.ask(holder.ask("api"), answers.append)
    assert isinstance(answers[-1], (Granted, Refused))


async def test_an_attempt_does_not_keep_its_permits_while_it_waits_for_a_thread(tmp_path):
    """What has the place may be waiting for the permit: neither would ever go on."""
    busy, clock = App("busy"), FakeClock()
    begun, go = Signal(), threading.Event()

    @busy.step
    def holds() -> None:
        begun.set()
        go.wait()

    @busy.step
    def thread() -> str:
        return "ran"

    uses(thread, "api")

    @busy.pipeline(budget=60)
    async def blocks() -> None:
        await holds()

    @busy.pipeline(budget=60)
    async def line() -> str:
        return await thread()

    limits = Toy(api=1)
    async with opened(tmp_path, limits, app=busy, clock=clock, threads=1) as runtime:
        first = await runtime.start("blocks")
        await begun.wait()
        handle = await runtime.start("line")
        await eventually(lambda: limits.in_use == 1)
        await eventually(lambda: runtime.service.process.lanes.threads.waiting == 1)
        clock.advance(IDLE_S_MAX)
        await eventually(lambda: limits.in_use == 0)
        go.set()
        await result_of(first)
        assert await result_of(handle) == "ran"
    assert len(limits.asked) == 2
    assert limits.free == {"api": 1}


async def test_an_attempt_does_not_keep_its_permits_while_it_waits_for_a_child(tmp_path):
    clock, limits = FakeClock(), Toy(api=1, other=1)
    async with opened(tmp_path, limits, app=app, clock=clock) as runtime:
        first = await runtime.start("line", step="waits")
        await reach(first, "step.delta")
        handle = await runtime.start("line", step="calls")
        await reach(handle, "step.started")
        await eventually(lambda: limits.in_use == 2)
        clock.advance(IDLE_S_MAX)
        await eventually(lambda: limits.in_use == 0)
        await handle.cancel()
        await first.cancel()
        await log_of(handle)
        await log_of(first)
    assert len(limits.asked) == 2
