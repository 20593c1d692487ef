"""The suites bite: a planted bug makes cases of its obligation fail, and no others."""

from __future__ import annotations

import asyncio

import pytest

from offramp.conformance import (
    blobs_obligations,
    clock_obligations,
    engine_cases,
    engine_obligations,
    run_blobs,
    run_clock,
    run_engine,
    run_store,
    store_cases,
    store_obligations,
)
from tests.conformance.adapters import SQLITE, FakeTime, Memory
from tests.conformance.blobs import InMemory
from tests.conformance.broken import blobs, clock, engine, entrusted, learned, leases, outbox, rules, sqlite, store
from tests.conformance.broken.marks import bugs_in

PATIENCE_S = 0.6

RULES = bugs_in(rules)
# Rules of many runs, which statements restate; so is the expiry of an owner.
IN_SQL = {"holds", "unpark", "is_overdue", "acknowledge"}
STORES = bugs_in(store, leases, entrusted, outbox, learned)
DATABASES = bugs_in(sqlite)
ENGINES = bugs_in(engine)
CLOCKS = bugs_in(clock)
BLOBS = bugs_in(blobs)


def assert_bitten(obligation, *reports):
    """Only cases that prove the obligation failed, and at least one of them."""
    failures = [failed for report in reports for failed in report.failures]
    assert failures, f"no case noticed a broken {obligation}"
    missed = {failed.case: failed.error for failed in failures if obligation not in failed.obligations}
    assert not missed, f"{obligation} is broken, and so seems what has nothing to do with it: {missed}"


@pytest.mark.parametrize("bug", STORES)
async def test_a_broken_store_fails_at_its_obligation_alone(bug):
    assert_bitten(bug.breaks, await run_store(Memory(bug), PATIENCE_S))


@pytest.mark.parametrize("bug", RULES)
async def test_a_broken_rule_of_ownership_fails_at_its_obligation_alone(bug, monkeypatch):
    rules.plant(bug, monkeypatch)
    assert_bitten(bug.breaks, await run_store(Memory(), PATIENCE_S))


@pytest.mark.parametrize("bug", [bug for bug in RULES if bug.rule not in IN_SQL and bug is not rules.barren_expiry])
async def test_sqlite_asks_the_table_of_ownership(bug, monkeypatch):
    rules.plant(bug, monkeypatch)
    cases = [case for case in store_cases() if bug.breaks in case.obligations]
    assert_bitten(bug.breaks, await run_store(SQLITE, PATIENCE_S, cases))


@pytest.mark.parametrize("bug", DATABASES)
async def test_a_database_that_breaks_its_promise_fails_at_its_obligation_alone(bug):
    cases = [case for case in store_cases() if "durable" in case.needs]
    assert_bitten(bug.breaks, await run_store(bug(), PATIENCE_S, cases))


@pytest.mark.parametrize("bug", ENGINES)
async def test_a_broken_engine_fails_at_its_obligation_alone(bug, monkeypatch):
    if bug.plants is not None:
        rules.plant(bug.plants, monkeypatch)
    # At the same time: a case that fails has waited for what does not come.
    plays = [run_engine(bug(), PATIENCE_S, [case]) for case in engine_cases()]
    assert_bitten(bug.breaks, *await asyncio.gather(*plays))


@pytest.mark.parametrize("bug", CLOCKS)
async def test_a_broken_clock_fails_at_its_obligation_alone(bug):
    assert_bitten(bug.breaks, await run_clock(FakeTime(bug), PATIENCE_S))


@pytest.mark.parametrize("bug", BLOBS)
async def test_broken_objects_fail_at_their_obligation_alone(bug):
    assert_bitten(bug.breaks, await run_blobs(InMemory(bug), PATIENCE_S))


async def test_the_vehicle_of_the_broken_engines_is_sound():
    report = await run_engine(engine.Sound())
    assert report.ok, str(report)


def test_every_obligation_is_bitten():
    planted = {bug.breaks for bug in RULES + STORES + DATABASES + ENGINES + CLOCKS + BLOBS}
    known = store_obligations() + engine_obligations() + clock_obligations() + blobs_obligations()
    assert planted == {obligation.id for obligation in known}
