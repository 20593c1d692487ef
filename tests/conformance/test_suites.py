"""Every adapter, every case."""

from __future__ import annotations

import pytest

from offramp.conformance import (
    blobs_cases,
    clock_cases,
    engine_cases,
    prove_blobs,
    prove_clock,
    prove_engine,
    prove_store,
    store_cases,
)
from tests import s3, temporal, valkey
from tests.conformance.adapters import CLOCKS, ENGINES, STORES
from tests.conformance.blobs import FOLDER, IN_MEMORY, S3
from tests.conformance.on_redis import EMBEDDED_REDIS, REDIS
from tests.conformance.temporal import TEMPORAL, TEMPORAL_REDIS


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


@pytest.mark.parametrize(("harness", "case"), plays(blobs_cases(), [FOLDER, IN_MEMORY]))
async def test_objects(harness, case):
    await prove_blobs(case, harness)


@pytest.mark.skipif(s3.missing() is not None, reason=str(s3.missing()))
@pytest.mark.parametrize("case", blobs_cases(), ids=lambda case: f"{'-'.join(case.obligations)}-{case.id}")
async def test_objects_in_s3(case):
    await prove_blobs(case, S3)


@pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))
@pytest.mark.parametrize(("harness", "case"), plays(store_cases(), [REDIS]))
async def test_store_on_redis(harness, case):
    await prove_store(case, harness)


@pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))
@pytest.mark.parametrize(("harness", "case"), plays(engine_cases(), [EMBEDDED_REDIS]))
async def test_engine_on_redis(harness, case):
    await prove_engine(case, harness)


@pytest.mark.skipif(temporal.missing() is not None, reason=str(temporal.missing()))
@pytest.mark.parametrize(("harness", "case"), plays(engine_cases(), [TEMPORAL]))
async def test_engine_on_temporal(play, harness, case):
    await play()


@pytest.mark.skipif((missing := temporal.missing() or valkey.missing()) is not None, reason=str(missing))
@pytest.mark.parametrize(("harness", "case"), plays(engine_cases(), [TEMPORAL_REDIS]))
async def test_engine_on_temporal_over_redis(play, harness, case):
    await play()
