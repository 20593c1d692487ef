"""Running the suites: every case on a fresh instance, and a report of how it went."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from offramp.conformance import (
    engine_life,
    engine_recovery,
    engine_waiting,
    lease_claims,
    lease_owners,
    lease_signals,
    store_events,
    store_records,
    store_writes,
)
from offramp.conformance.case import Case, cases_in, engine_obligations, store_obligations
from offramp.conformance.engine_stage import EngineStage
from offramp.conformance.harness import Capabilities, EngineHarness, StoreHarness
from offramp.conformance.report import Report
from offramp.conformance.store_stage import StoreStage

CASE_TIMEOUT_S = 20.0
"""A case that waits for what does not come has failed."""


def store_cases() -> list[Case[StoreStage]]:
    """Every case of the store and lease suite."""
    return cases_in(store_writes, store_events, store_records, lease_claims, lease_owners, lease_signals)


def engine_cases() -> list[Case[EngineStage]]:
    """Every case of the engine suite."""
    return cases_in(engine_life, engine_recovery, engine_waiting)


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...


class _Stage(Protocol):
    async def close(self) -> None: ...


StageT = TypeVar("StageT", bound=_Stage)


async def prove(case: Case[StageT], stage: Awaitable[StageT], timeout_s: float = CASE_TIMEOUT_S) -> None:
    """Play one case on a stage that is closed afterwards.

    Raises:
        AssertionError: the adapter does not do what the case proves.
        Exception: whatever else came of it, which is a failure as well.
    """
    played = await stage
    try:
        async with asyncio.timeout(timeout_s) as limit:
            await case.prove(played)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise AssertionError(f"what has to happen did not happen within {timeout_s:g} s") from error
    finally:
        await played.close()


async def prove_store(case: Case[StoreStage], harness: StoreHarness, timeout_s: float = CASE_TIMEOUT_S) -> None:
    """Play one case of the store suite."""
    await prove(case, StoreStage.open(harness), timeout_s)


async def prove_engine(case: Case[EngineStage], harness: EngineHarness, timeout_s: float = CASE_TIMEOUT_S) -> None:
    """Play one case of the engine suite."""
    await prove(case, EngineStage.open(harness), timeout_s)


async def run_store(
    harness: StoreHarness, timeout_s: float = CASE_TIMEOUT_S, cases: Sequence[Case[StoreStage]] | None = None
) -> Report:
    """Prove the obligations of the store and lease ports.

    Args:
        harness: the adapter.
        timeout_s: seconds for one case.
        cases: all of them unless told otherwise.
    """
    report = Report(harness.name, store_obligations())
    await _run(
        report, harness, store_cases() if cases is None else cases, lambda case: prove_store(case, harness, timeout_s)
    )
    return report


async def run_engine(
    harness: EngineHarness, timeout_s: float = CASE_TIMEOUT_S, cases: Sequence[Case[EngineStage]] | None = None
) -> Report:
    """Prove the obligations of the engine port; see `run_store`."""
    report = Report(harness.name, engine_obligations())
    await _run(
        report, harness, engine_cases() if cases is None else cases, lambda case: prove_engine(case, harness, timeout_s)
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
            report.add(case, "failed", _told(error))
        else:
            report.add(case, "passed")


def _told(error: Exception) -> str:
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()
