"""Cases of the runs that wait: listed and counted (S23)."""

from __future__ import annotations

from typing import Literal

from offramp.conformance.case import case, until
from offramp.conformance.sample import DONE, NOW, completed, drafted, started
from offramp.conformance.store_stage import StoreStage, count_of
from offramp.core import events
from offramp.core.events import Draft
from offramp.core.run import RunRecord
from offramp.ports.store import RunLog

Kind = Literal["signal", "sleep"]


def begins(kind: Kind, key: str = "k") -> Draft:
    """The event that a wait begins."""
    return drafted(events.WaitStarted(kind, "go" if kind == "signal" else None, key, None))


def ends(kind: Kind, key: str = "k") -> Draft:
    """The event that a wait ends."""
    return drafted(events.WaitEnded(kind, "go" if kind == "signal" else None, key, "cancelled"))


async def waiting(stage: StoreStage, *waits: Draft, **changes: str) -> tuple[RunRecord, RunLog]:
    """A run with these events."""
    run, log = await stage.running(**changes)
    for event in waits:
        log.append(None, event)
    await log.durable()
    return run, log


@case("S23")
async def a_run_is_listed_while_a_wait_of_it_is_open(stage: StoreStage) -> None:
    run, log = await waiting(stage, begins("signal", "a"), begins("sleep", "b"), ends("signal", "a"))
    await waiting(stage, started(1))
    await waiting(stage, begins("signal"), ends("signal"))
    assert await stage.listed(waiting=True) == [run.id]
    assert len(await stage.listed()) == 3, "a listing of all runs leaves some out"
    log.append(None, ends("sleep", "b"))
    await log.durable()
    assert await stage.listed(waiting=True) == []


@case("S23")
async def a_run_that_has_ended_waits_no_longer(stage: StoreStage) -> None:
    _, log = await waiting(stage, begins("signal"), begins("sleep", "b"))
    await log.finish(DONE, completed(), NOW)
    assert await stage.listed(waiting=True) == []
    assert await stage.store.waiting() == {}


@case("S23")
async def an_event_that_is_written_again_is_one_wait(stage: StoreStage) -> None:
    _, log = await waiting(stage, begins("signal"), begins("signal"))
    assert await stage.store.waiting() == {("conformance", "signal"): 1}
    log.append(None, ends("signal"))
    await log.durable()
    assert await stage.store.waiting() == {}, "a wait of which the start was written twice has not ended"


@case("S12", "S23")
async def waiting_runs_are_listed_by_the_other_filters_too(stage: StoreStage) -> None:
    made = []
    for number in range(8):
        asked = {"tenant": f"t{number % 2}", "session_id": f"s{number // 2 % 2}", "pipeline": f"p{number // 4}"}
        run, _ = await waiting(stage, *([begins("signal")] if number else []), **asked)
        made.append(run.id)
    for limit in (1, 10):
        assert await stage.paged(waiting=True, tenant="t0", limit=limit) == [made[6], made[4], made[2]]
        assert await stage.paged(waiting=True, tenant="t0", session_id="s0", limit=limit) == [made[4]]
        assert await stage.paged(waiting=True, tenant="t1", pipeline="p0", limit=limit) == [made[3], made[1]]
        assert await stage.paged(waiting=True, tenant=None, limit=limit, newest_first=False) == made[1:]
        assert await stage.paged(waiting=True, tenant="t1", status="completed", limit=limit) == []


@case("S23")
async def waiting_runs_are_counted_by_pipeline_and_kind(stage: StoreStage) -> None:
    assert await stage.store.waiting() == {}
    await waiting(stage, begins("signal", "a"), begins("signal", "b"), pipeline="p")
    await waiting(stage, begins("signal", "a"), begins("sleep", "b"), pipeline="p")
    await waiting(stage, begins("sleep"), pipeline="q", tenant="t")
    assert await stage.store.waiting() == {("p", "signal"): 2, ("p", "time"): 1, ("q", "time"): 1}


@case("S23", needs=("shared",))
async def a_wait_ends_in_another_process_than_it_began_in(stage: StoreStage) -> None:
    run, log = await waiting(stage, begins("signal"))
    await stage.leases.release(log.lease)
    peer = await stage.peer()
    [claim] = await peer.leases.claim("b", 1, ["conformance"], NOW)
    after = peer.store.log(claim.lease)
    after.append(None, ends("signal"))
    await after.durable()

    async def visible() -> bool:
        return await count_of(stage.store, run) == 3

    await until(visible)
    assert await stage.listed(waiting=True) == []


@case("S23", needs=("durable", "shared"))
async def waits_outlive_their_process(stage: StoreStage) -> None:
    run, _ = await waiting(stage, begins("signal"))
    after = await stage.end()
    assert await after.store.waiting() == {("conformance", "signal"): 1}
    stored = await after.store.get(run.id)
    assert stored is not None
    assert stored.waits
