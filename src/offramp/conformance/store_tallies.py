"""Cases of the counts of service levels (S16)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.sample import NOW
from offramp.conformance.store_stage import StoreStage
from offramp.core.slo import KEPT_MINUTES, Counts, Tally, minute_of
from offramp.errors import StoreError

MINUTE = minute_of(NOW)


@case("S16")
async def without_tallies_no_class_has_counts(stage: StoreStage) -> None:
    assert await stage.store.tallied(0) == {}
    await stage.store.tally([])
    assert await stage.store.tallied(0) == {}


@case("S16")
async def tallies_of_a_minute_add_up(stage: StoreStage) -> None:
    peer = await stage.peer()
    await stage.store.tally([Tally("quick", MINUTE, Counts(3, 1))])
    assert await peer.store.tallied(MINUTE) == {"quick": Counts(3, 1)}, "counts are not visible at once"
    await peer.store.tally([Tally("quick", MINUTE, Counts(2, 0)), Tally("quick", MINUTE, Counts(0, 5))])
    for store in (stage.store, peer.store):
        assert await store.tallied(MINUTE) == {"quick": Counts(5, 6)}


@case("S16")
async def minutes_from_the_given_one_on_are_summed(stage: StoreStage) -> None:
    await stage.store.tally([Tally("quick", MINUTE + place, Counts(1, 10**place)) for place in range(4)])
    sums = [await stage.store.tallied(MINUTE + place) for place in range(5)]
    assert sums == [
        {"quick": Counts(4, 1111)},
        {"quick": Counts(3, 1110)},
        {"quick": Counts(2, 1100)},
        {"quick": Counts(1, 1000)},
        {},
    ]


@case("S16")
async def classes_are_counted_apart(stage: StoreStage) -> None:
    await stage.store.tally([Tally("quick", MINUTE, Counts(1, 0)), Tally("batch", MINUTE, Counts(0, 2))])
    await stage.store.tally([Tally("batch", MINUTE + 1, Counts(4, 0))])
    assert await stage.store.tallied(MINUTE) == {"quick": Counts(1, 0), "batch": Counts(4, 2)}
    assert await stage.store.tallied(MINUTE + 1) == {"batch": Counts(4, 0)}


@case("S16")
async def tenants_are_counted_apart(stage: StoreStage) -> None:
    await stage.store.tally([Tally("quick", MINUTE, Counts(1, 2))])
    await stage.store.tally(
        [Tally("quick", MINUTE, Counts(3, 0), "acme"), Tally("quick", MINUTE + 60, Counts(0, 4), "beta")]
    )
    assert await stage.store.tallied(MINUTE) == {"quick": Counts(1, 2)}, "a tenant's counts were added to all"
    assert await stage.store.tallied(MINUTE, "acme") == {"quick": Counts(3, 0)}
    assert await stage.store.tallied(MINUTE, "beta") == {"quick": Counts(0, 4)}
    assert await stage.store.tallied(MINUTE + 1, "acme") == {}
    assert await stage.store.tallied(MINUTE, "other") == {}


@case("S16")
async def a_tenants_counts_add_up_and_are_kept(stage: StoreStage) -> None:
    peer = await stage.peer()
    for place, store in enumerate((stage.store, peer.store)):
        await store.tally([Tally("quick", MINUTE + place, Counts(1, place), "acme")])
    await stage.store.tally([Tally("quick", MINUTE + KEPT_MINUTES, Counts(0, 1), "acme")])
    assert await stage.store.tallied(MINUTE, "acme") == {"quick": Counts(2, 2)}


@case("S16")
async def counts_are_kept_for_the_whole_budget(stage: StoreStage) -> None:
    await stage.store.tally([Tally("quick", MINUTE, Counts(1, 0))])
    await stage.store.tally([Tally("quick", MINUTE + KEPT_MINUTES, Counts(0, 1))])
    assert await stage.store.tallied(MINUTE) == {"quick": Counts(1, 1)}, "counts were removed that are still needed"


@case("S16", needs=("durable", "shared"))
async def counts_outlive_their_process(stage: StoreStage) -> None:
    await stage.store.tally([Tally("quick", MINUTE, Counts(1, 2))])
    after = await stage.end()
    assert await after.store.tallied(MINUTE) == {"quick": Counts(1, 2)}


@case("S14")
async def a_closed_store_counts_nothing_more(stage: StoreStage) -> None:
    await stage.store.close()
    try:
        await stage.store.tally([Tally("quick", MINUTE, Counts(1, 0))])
    except StoreError:
        return
    raise AssertionError("a closed store acknowledged counts")
