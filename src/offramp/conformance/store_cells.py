"""Cases of what an operator looks at: cells of ended runs, the runs that have not ended, new runs (S16, S17, S24)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.sample import DEMOTION, DONE, NOW, completed, owner
from offramp.conformance.store_stage import StoreStage
from offramp.core.run import RunHead
from offramp.core.stats import COARSE, FINE, KEPT_MINUTES, Cell
from offramp.errors import StoreError
from offramp.ports.store import Parked

NUMBER = int(NOW // 60)


def _cell(number: int = NUMBER, tenant: str = "", width: int = FINE, sla: str = "quick", **counts: int) -> Cell:
    return Cell(tenant, width, number, "answer", sla, counts)


@case("S16")
async def counts_of_cells_add_up_in_every_process(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.store.summed_cells(FINE, NUMBER - 9, NUMBER) == {}
    await stage.store.add_cells([_cell(good=3, bad=1), _cell(sla="slow", good=7)])
    await peer.store.add_cells([_cell(good=2, other=5), _cell(good=1)])
    expected = {("answer", "quick"): {"good": 6, "bad": 1, "other": 5}, ("answer", "slow"): {"good": 7}}
    for store in (stage.store, peer.store):
        assert await store.summed_cells(FINE, NUMBER, NUMBER) == expected


@case("S16")
async def cells_of_a_range_a_width_and_a_tenant_are_summed(stage: StoreStage) -> None:
    await stage.store.add_cells([_cell(NUMBER + place, n=10**place) for place in range(4)])
    await stage.store.add_cells([_cell(tenant="acme", n=5), _cell(width=COARSE, number=NUMBER // COARSE, n=9)])
    for first, last, found in [(0, 3, 1111), (0, 2, 111), (1, 2, 110), (3, 3, 1000)]:
        summed = await stage.store.summed_cells(FINE, NUMBER + first, NUMBER + last)
        assert summed == {("answer", "quick"): {"n": found}}
    assert await stage.store.summed_cells(FINE, NUMBER + 4, NUMBER + 9) == {}
    assert await stage.store.summed_cells(FINE, NUMBER, NUMBER, "acme") == {("answer", "quick"): {"n": 5}}
    assert await stage.store.summed_cells(FINE, NUMBER, NUMBER, "beta") == {}
    number = NUMBER // COARSE
    assert await stage.store.summed_cells(COARSE, number, number) == {("answer", "quick"): {"n": 9}}


@case("S16")
async def cells_are_kept_as_long_as_a_window_reads_them(stage: StoreStage) -> None:
    for width, minutes in KEPT_MINUTES.items():
        oldest, newest = 1_000, 1_000 + minutes // width
        for number in (oldest, newest):
            await stage.store.add_cells([_cell(number, width=width, n=1)])
        assert await stage.store.summed_cells(width, oldest, newest) == {("answer", "quick"): {"n": 2}}


@case("S16", needs=("durable", "shared"))
async def cells_outlive_their_process(stage: StoreStage) -> None:
    await stage.store.add_cells([_cell(n=1)])
    after = await stage.end()
    assert await after.store.summed_cells(FINE, NUMBER, NUMBER) == {("answer", "quick"): {"n": 1}}


@case("S14")
async def a_closed_store_adds_to_no_cell(stage: StoreStage) -> None:
    await stage.store.close()
    try:
        await stage.store.add_cells([_cell(n=1)])
    except StoreError:
        return
    raise AssertionError("a closed store acknowledged counts")


async def _unfinished(stage: StoreStage) -> set[str]:
    return {head.id for head in await stage.store.unfinished(100)}


@case("S17")
async def runs_that_have_not_ended_are_found(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.leases.register(owner("a"))
    running, log = await stage.running(tenant="acme", session_id="s", pipeline="p", sla="slow")
    queued = await stage.queued()
    ended, last = await stage.running()
    await last.finish(DONE, completed(), NOW)
    await log.durable()
    heads = {head.id: head for head in await peer.store.unfinished(100)}
    assert heads.keys() == {running.id, queued.id}, f"not {ended.id}, which has ended, but the others"
    assert heads[running.id] == RunHead(running.id, "acme", "p", "slow", "s", "running", "fast", None, 1, demoted=False)
    assert heads[queued.id][4:] == (None, "queued", "deep", None, 1, False)
    await log.finish(DONE, completed(), NOW)
    assert await _unfinished(stage) == {queued.id}
    assert len(await stage.store.unfinished(0)) == 0


@case("S17")
async def a_run_that_is_parked_has_not_ended(stage: StoreStage) -> None:
    run, log = await stage.running()
    await stage.leases.release(log.lease, Parked(NOW + 60, 0))
    assert await _unfinished(stage) == {run.id}


@case("S17")
async def a_run_of_an_engine_has_not_ended(stage: StoreStage) -> None:
    run = await stage.queued()
    claim = await stage.leases.assign_to_engine(run.id, NOW)
    assert claim is not None
    assert await _unfinished(stage) == {run.id}
    await stage.store.log(claim.lease).finish(DONE, completed(), NOW)
    assert await _unfinished(stage) == set()


@case("S24")
async def new_runs_are_found_by_their_ids_in_order(stage: StoreStage) -> None:
    peer = await stage.peer()
    made = [(await stage.running(tenant=f"t{number}"))[0].id for number in range(5)]
    assert list(await peer.store.ids_after("run_", 9)) == made
    assert list(await peer.store.ids_after(made[1], 2)) == made[2:4]
    assert list(await peer.store.ids_after(made[4], 9)) == []


@case("S5", "S9", "S24")
async def heads_are_those_of_the_given_runs_as_they_are_now(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.running()
    run, log = await stage.running(tenant="acme")
    await stage.store.adopt(log.lease, DEMOTION)
    queued = await stage.queued()
    unknown = stage.record()

    async def heads() -> dict[str, tuple[object, ...]]:
        found = await peer.store.heads([queued.id, unknown.id, run.id])
        return {head.id: (head.status, head.path, head.finished_at, head.seq, head.demoted) for head in found}

    assert await heads() == {run.id: ("running", "deep", None, 1, True), queued.id: ("queued", "deep", None, 1, False)}
    await log.finish(DONE, completed(), NOW + 7)
    assert (await heads())[run.id] == ("completed", "deep", NOW + 7, 2, True)
    assert list(await peer.store.heads([])) == []
