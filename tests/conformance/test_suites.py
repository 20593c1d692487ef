"""Every adapter, every case."""

from __future__ import annotations

import pytest

from offramp.conformance import clock_cases, engine_cases, prove_clock, prove_engine, prove_store, store_cases
from tests.conformance.adapters import CLOCKS, ENGINES, STORES


def plays(cases, harnesses):
    return [
        pytest.param(harness, case, id=f"{harness.name}-{'-'.join(case.obligations)}-{case.id}")
        for case in cases
        for harness in harnesses
        if case.applies(harness.capabilities)
    ]


@pytest.mark.parametrize(("harness", "case"), plays(store_cases(), STORES))
async def test_store(harness, case):
    await prove_store(case, harness)


@pytest.mark.parametrize(("harness", "case"), plays(engine_cases(), ENGINES))
async def test_engine(harness, case):
    await prove_engine(case, harness)


@pytest.mark.parametrize(("harness", "case"), plays(clock_cases(), CLOCKS))
async def test_clock(harness, case):
    await prove_clock(case, harness)
