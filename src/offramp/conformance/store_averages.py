"""Cases of the averages that processes learn together (S17)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.store_stage import StoreStage
from offramp.core.routing import Observed
from offramp.errors import StoreError


@case("S17")
async def nothing_is_known_before_it_was_learned(stage: StoreStage) -> None:
    assert await stage.store.learn([]) == {}


@case("S17")
async def the_first_observation_is_the_average(stage: StoreStage) -> None:
    assert await stage.store.learn([Observed("answer", 0.25, 8.0)]) == {"answer": 8.0}


@case("S17")
async def an_average_moves_by_the_share_whichever_process_learns(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.store.learn([Observed("answer", 0.25, 8.0)])
    assert await peer.store.learn([Observed("answer", 0.25, 4.0)]) == {"answer": 7.0}
    assert await stage.store.learn([Observed("answer", 0.5, 1.0)]) == {"answer": 4.0}
    assert await peer.store.learn([]) == {"answer": 4.0}, "a learned average is not visible at once"


@case("S17")
async def pipelines_are_learned_apart_and_in_order(stage: StoreStage) -> None:
    await stage.store.learn([Observed("answer", 0.5, 8.0), Observed("audit", 0.5, 64.0)])
    found = await stage.store.learn([Observed("answer", 0.5, 4.0), Observed("answer", 0.5, 2.0)])
    assert found == {"answer": 4.0, "audit": 64.0}


@case("S17", needs=("durable", "shared"))
async def averages_outlive_their_process(stage: StoreStage) -> None:
    await stage.store.learn([Observed("answer", 0.5, 8.0)])
    after = await stage.end()
    assert await after.store.learn([]) == {"answer": 8.0}


@case("S14")
async def a_closed_store_learns_nothing_more(stage: StoreStage) -> None:
    await stage.store.close()
    try:
        await stage.store.learn([Observed("answer", 0.5, 8.0)])
    except StoreError:
        return
    raise AssertionError("a closed store acknowledged what was learned")
