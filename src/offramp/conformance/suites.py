"""Running the suites: every case on a fresh instance, and a report of how it went."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from offramp.conformance import (
    blobs_objects,
    clock_timers,
    engine_life,
    engine_recovery,
    engine_waiting,
    lease_claims,
    lease_engine,
    lease_order,
    lease_owners,
    lease_signals,
    limits_order,
    limits_permits,
    limits_windows,
    outbox_claims,
    outbox_due,
    store_cells,
    store_events,
    store_keys,
    store_learned,
    store_records,
    store_secret,
    store_waits,
    store_writes,
)
from offramp.conformance.blobs_stage import BlobsStage
from offramp.conformance.case import (
    PATIENCE_S,
    Case,
    blobs_obligations,
    cases_in,
    clock_obligations,
    engine_obligations,
    limits_obligations,
    store_obligations,
)
from offramp.conformance.clock_stage import ClockStage
from offramp.conformance.engine_stage import EngineStage
from offramp.conformance.harness import (
    BlobsHarness,
    Capabilities,
    ClockHarness,
    EngineHarness,
    LimitsHarness,
    StoreHarness,
)
from offramp.conformance.limits_stage import LimitsStage
from offramp.conformance.report import Report
from offramp.conformance.store_stage import StoreStage

PATIENCE_DEFAULT_S = 10.0
BACKSTOPS_PER_PATIENCE = 10
"""A case that hangs inside the adapter ends after this many times the patience."""


def store_cases() -> list[Case[StoreStage]]:
    """Every case of the store, lease and outbox suite."""
    return cases_in(
        *(store_writes, store_events, store_records, store_secret, store_cells, store_learned, store_waits),
        *(store_keys,),
        *(lease_claims, lease_order, lease_owners, lease_signals, lease_engine),
        *(outbox_due, outbox_claims),
    )


def engine_cases() -> list[Case[EngineStage]]:
    """Every case of the engine suite."""
    return cases_in(engine_life, engine_recovery, engine_waiting)


def clock_cases() -> list[Case[ClockStage]]:
    """Every case of the clock suite."""
    return cases_in(clock_timers)


def blobs_cases() -> list[Case[BlobsStage]]:
    """Every case of the blobs suite."""
    return cases_in(blobs_objects)


def limits_cases() -> list[Case[LimitsStage]]:
    """Every case of the limits suite."""
    return cases_in(limits_permits, limits_windows, limits_order)


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...


class _Stage(Protocol):
    async def close(self) -> None: ...


StageT = TypeVar("StageT", bound=_Stage)


async def prove(case: Case[StageT], stage: Awaitable[StageT], patience_s: float = PATIENCE_DEFAULT_S) -> None:
    """Play one case on a stage that is closed afterwards.

    Args:
        case: what to play.
        stage: opens the stage.
        patience_s: seconds that it waits for an expected event.

    Raises:
        AssertionError: the adapter does not do what the case proves.
        Exception: any other error, which is a failure as well.
    """
    PATIENCE_S.set(patience_s)
    played = await stage
    try:
        async with asyncio.timeout(BACKSTOPS_PER_PATIENCE * patience_s):
            await case.prove(played)
    finally:
        await played.close()


async def prove_store(case: Case[StoreStage], harness: StoreHarness, patience_s: float = PATIENCE_DEFAULT_S) -> None:
    """Play one case of the store suite."""
    await prove(case, StoreStage.open(harness), patience_s)


async def prove_engine(case: Case[EngineStage], harness: EngineHarness, patience_s: float = PATIENCE_DEFAULT_S) -> None:
    """Play one case of the engine suite."""
    await prove(case, EngineStage.open(harness), patience_s)


async def prove_clock(case: Case[ClockStage], harness: ClockHarness, patience_s: float = PATIENCE_DEFAULT_S) -> None:
    """Play one case of the clock suite."""
    await prove(case, ClockStage.open(harness), patience_s)


async def prove_blobs(case: Case[BlobsStage], harness: BlobsHarness, patience_s: float = PATIENCE_DEFAULT_S) -> None:
    """Play one case of the blobs suite."""
    await prove(case, BlobsStage.open(harness), patience_s)


async def prove_limits(case: Case[LimitsStage], harness: LimitsHarness, patience_s: float = PATIENCE_DEFAULT_S) -> None:
    """Play one case of the limits suite."""
    await prove(case, LimitsStage.open(harness), patience_s)


async def run_store(
    harness: StoreHarness, patience_s: float = PATIENCE_DEFAULT_S, cases: Sequence[Case[StoreStage]] | None = None
) -> Report:
    """Prove the obligations of the store, lease and outbox ports.

    Args:
        harness: the adapter.
        patience_s: seconds that a case waits for an expected event.
        cases: all of them by default.
    """
    report = Report(harness.name, harness.capabilities, store_obligations())
    await _run(
        report, harness, store_cases() if cases is None else cases, lambda case: prove_store(case, harness, patience_s)
    )
    return report


async def run_engine(
    harness: EngineHarness, patience_s: float = PATIENCE_DEFAULT_S, cases: Sequence[Case[EngineStage]] | None = None
) -> Report:
    """Prove the obligations of the engine port; see `run_store`."""
    report = Report(harness.name, harness.capabilities, engine_obligations())
    await _run(
        report,
        harness,
        engine_cases() if cases is None else cases,
        lambda case: prove_engine(case, harness, patience_s),
    )
    return report


async def run_clock(harness: ClockHarness, patience_s: float = PATIENCE_DEFAULT_S) -> Report:
    """Prove the obligations of the clock port; see `run_store`."""
    report = Report(harness.name, harness.capabilities, clock_obligations())
    await _run(report, harness, clock_cases(), lambda case: prove_clock(case, harness, patience_s))
    return report


async def run_blobs(harness: BlobsHarness, patience_s: float = PATIENCE_DEFAULT_S) -> Report:
    """Prove the obligations of the blobs port; see `run_store`."""
    report = Report(harness.name, harness.capabilities, blobs_obligations())
    await _run(report, harness, blobs_cases(), lambda case: prove_blobs(case, harness, patience_s))
    return report


async def run_limits(
    harness: LimitsHarness, patience_s: float = PATIENCE_DEFAULT_S, cases: Sequence[Case[LimitsStage]] | None = None
) -> Report:
    """Prove the obligations of the limits port; see `run_store`."""
    report = Report(harness.name, harness.capabilities, limits_obligations())
    await _run(
        report,
        harness,
        limits_cases() if cases is None else cases,
        lambda case: prove_limits(case, harness, patience_s),
    )
    return report


async def _run(
    report: Report, harness: _Named, cases: Sequence[Case[Any]], play: Callable[[Case[Any]], Awaitable[None]]
) -> None:
    for case in cases:
        if not case.applies(harness.capabilities):
            report.add(case, "not declared")
            continue
        try:
            await play(case)
        except Exception as error:  # noqa: BLE001 - whatever an adapter raises is its failure, and the next case goes on
            report.add(case, "failed", _text_of(error))
        else:
            report.add(case, "passed")


def _text_of(error: Exception) -> str:
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()
