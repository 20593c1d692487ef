"""A run that is expected to miss its budget does not begin on the fast path, within what its class allows."""

from __future__ import annotations

import msgspec
import pytest

from offramp.engines.leased.engine import LeasedEngine
from offramp.errors import StoreError, StoreTimeout, TenantLimit
from offramp.paths.submission import Submission
from offramp.ports.listing import RunFilter
from offramp.wiring import local
from tests.paths.taught import pasts, teach
from tests.paths.test_early import BUDGET_S, Sure, started, thinking
from tests.support import Signal, eventually, result_of

MIXED = [past for pair in zip(pasts("quick", 1.0, 200), pasts("slow", 30.0, 200), strict=True) for past in pair]
"""Enough for the chance of a slow run to be far below every limit."""


@pytest.fixture
def clock():
    return Sure()


def asking(kind, **given):
    return Submission(pipeline="answer", input=f'{{"kind": "{kind}", "seconds": 1.0}}'.encode(), **given)


async def route_of(runtime, kind, **given):
    decision = await runtime.service.decide(asking(kind, **given))
    return decision.route().shown()


async def test_a_run_like_the_slow_ones_begins_on_the_deep_path_and_says_why(place, clock):
    app, _ = thinking(clock)
    async with started(app, place, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        dry = await route_of(runtime, "slow")
        handle = await runtime.submit(asking("slow"))
        assert (await handle.document())["route"] == msgspec.to_builtins(dry)
        await clock.run_until(result_of(handle), 0.1)
        assert (dry.path, dry.by) == ("deep", "learned")
        assert "took longer than 8 s" in dry.reasons[0]
        assert 1000 * BUDGET_S < dry.predicted_ms.p50 <= dry.predicted_ms.p95
        assert dry.confidence > 10
        quick = await route_of(runtime, "quick")
        assert (quick.path, quick.by) == ("fast", "learned")
        assert quick.predicted_ms.p50 < 2000
        for asked in ({"budget": BUDGET_S}, {"respond_async": True}):
            assert (await route_of(runtime, "slow", **asked)).by == "preference"


async def test_of_doomed_runs_a_few_go_on_as_a_control_and_a_dry_request_never_says_so(clock):
    app, _ = thinking(clock)
    clock.draw = 0.0
    async with started(app, None, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        assert (await route_of(runtime, "slow")).path == "deep"
        handle = await runtime.submit(asking("slow"))
        route = (await handle.document())["route"]
        assert (route["path"], route["by"]) == ("fast", "learned")
        assert route["reasons"][-1].startswith("it is one of the few that go on")
        assert runtime.service.live.verdicts.doubt_of(handle.id) == "control"
        await handle.cancel()


async def test_a_class_that_allows_no_harm_is_told_and_not_decided(clock):
    app, _ = thinking(clock, early_demotion=0)
    async with started(app, None, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        route = await route_of(runtime, "slow")
    assert (route.path, route.by) == ("fast", "default")
    assert route.confidence > 0


async def test_a_pipeline_that_has_made_every_budget_is_told_and_not_decided(clock):
    app, _ = thinking(clock)
    async with started(app, None, clock) as runtime:
        await teach(runtime.service, "answer", "chat", pasts("quick", 1.0, 20))
        route = await route_of(runtime, "slow")
    assert (route.path, route.by) == ("fast", "default")
    assert route.predicted_ms.p50 < 2000


async def test_requests_that_start_no_run_do_not_count(clock):
    """Each verdict on a run that has not ended leaves room for fewer: those of refused and repeated ones do not."""
    app, _ = thinking(clock)
    withdrawn = []
    async with local(app, {"store": "memory:", "tenant_runs": 1}, clock) as runtime:
        service = runtime.service
        await teach(service, "answer", "chat", MIXED)
        withdraw = service.live.verdicts.withdraw
        service.live.verdicts.withdraw = lambda *given: withdrawn.append(given[-1]) or withdraw(*given)
        first = await service.submit(asking("slow", idempotency_key="k"))
        assert (first.record.path, withdrawn) == ("deep", [])
        again = await service.submit(asking("slow", idempotency_key="k"))
        assert (again.attached, withdrawn) == (True, ["demote"])
        with pytest.raises(TenantLimit):
            await service.submit(asking("slow"))
        assert withdrawn == ["demote"] * 2
        await service.cancel(first.record.id)


@pytest.mark.parametrize("turns_up", [True, False])
async def test_a_run_that_the_store_takes_too_late_counts_if_it_turns_up(clock, monkeypatch, turns_up):
    app, _ = thinking(clock)
    ends, withdrawn, start = Signal(), [], LeasedEngine.start

    async def late(*given):
        await ends.wait()
        if not turns_up:
            raise StoreError("the disk is full")
        return await start(*given)

    async with local(app, {"store": "memory:", "write_timeout": 0.1}, clock) as runtime:
        service = runtime.service
        await teach(service, "answer", "chat", MIXED)
        withdraw = service.live.verdicts.withdraw
        service.live.verdicts.withdraw = lambda *given: withdrawn.append(given[-1]) or withdraw(*given)
        monkeypatch.setattr(LeasedEngine, "start", late)
        with pytest.raises(StoreTimeout):
            await service.submit(asking("slow"))
        assert withdrawn == []
        ends.set()

        async def is_decided():
            runs, _ = await service.list(RunFilter())
            return len(runs) == 1 if turns_up else withdrawn

        await eventually(is_decided)
        assert withdrawn == ([] if turns_up else ["demote"])
        for run in (await service.list(RunFilter()))[0]:
            await service.cancel(run["id"])


async def test_a_tenant_learns_nothing_of_the_values_in_another_ones_inputs(clock):
    app, _ = thinking(clock)
    async with started(app, None, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        of_owner, of_other, unknown = [
            await route_of(runtime, kind, tenant=tenant)
            for kind, tenant in (("slow", ""), ("slow", "other"), ("unheard-of", "other"))
        ]
        cells = (await runtime.service.process.store.learned(0, 1_000)).cells
    assert "with the same `kind`" in of_owner.reasons[0]
    assert "slow" not in str(of_owner)
    assert of_other == unknown
    assert (of_owner.confidence, of_other.confidence) == (400, 100), "what all runs took is shared, in round figures"
    assert of_other.reasons == ["about 50% of recent runs like this took longer than 8 s"], "no counts"
    assert any("c:kind:" in cell.name for cell in cells)
    assert not any("slow" in cell.name for cell in cells), "the store has digests of values"
