"""Cases of the runs of API keys with limits (S27)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.sample import DEMOTION, DONE, NOW, completed
from offramp.conformance.store_stage import StoreStage
from offramp.core.run import first_id
from offramp.ports.store import KeyRuns

ANN, BOB = "acme/ann", "acme/bob"
ALL = first_id(0.0)


@case("S27")
async def the_runs_of_a_key_are_those_it_started(stage: StoreStage) -> None:
    peer = await stage.peer()
    assert await stage.store.runs_of_key(ANN, ALL, 9) == KeyRuns(0, [])
    first, log = await stage.running(api_key=ANN)
    second = await stage.queued(api_key=ANN)
    other = await stage.queued(api_key=BOB)
    await stage.queued()
    for store in (stage.store, peer.store):
        assert await store.runs_of_key(ANN, ALL, 9) == KeyRuns(2, [first.id, second.id])
        assert await store.runs_of_key(ANN, first.id, 9) == KeyRuns(2, [second.id])
        assert await store.runs_of_key(ANN, ALL, 1) == KeyRuns(2, [second.id]), "the newest ids are asked for"
        assert await store.runs_of_key(BOB, ALL, 9) == KeyRuns(1, [other.id])
    await log.finish(DONE, completed(), NOW)
    assert await stage.store.runs_of_key(ANN, ALL, 9) == KeyRuns(1, [first.id, second.id])
    assert (await stage.stored(second)).api_key == ANN


@case("S27", "S9")
async def a_run_of_a_key_is_open_on_both_paths_until_it_ends(stage: StoreStage) -> None:
    run, log = await stage.running(api_key=ANN)
    await stage.store.adopt(log.lease, DEMOTION)
    assert (await stage.store.runs_of_key(ANN, ALL, 9)).open == 1
    await stage.leases.release(log.lease)
    assert (await stage.store.runs_of_key(ANN, ALL, 9)).open == 1
    claim = await stage.leases.claim_one("b", run.id, NOW)
    assert claim is not None
    await stage.store.log(claim.lease).finish(DONE, completed(), NOW)
    assert await stage.store.runs_of_key(ANN, ALL, 9) == KeyRuns(0, [run.id])


@case("S27", "S6")
async def a_run_that_is_created_twice_counts_once(stage: StoreStage) -> None:
    run, log = await stage.running(api_key=ANN)
    again, _ = stage.store.create(run, completed(), owner=None, durable=True)
    await again
    assert await stage.store.runs_of_key(ANN, ALL, 9) == KeyRuns(1, [run.id])
    await log.finish(DONE, completed(), NOW)
    assert (await stage.store.runs_of_key(ANN, ALL, 9)).open == 0


@case("S27", needs=("durable", "shared"))
async def the_runs_of_a_key_outlive_their_process(stage: StoreStage) -> None:
    run = await stage.queued(api_key=ANN)
    after = await stage.end()
    assert await after.store.runs_of_key(ANN, ALL, 9) == KeyRuns(1, [run.id])


@case("S27", "S13", needs=("purge",))
async def a_run_of_a_key_still_counts_as_started_when_its_data_is_removed(stage: StoreStage) -> None:
    run, log = await stage.running(api_key=ANN, retention_s=10.0)
    await log.finish(DONE, completed(), NOW)
    assert await stage.store.purge(NOW + 11) == 1
    assert await stage.store.runs_of_key(ANN, ALL, 9) == KeyRuns(0, [run.id])
