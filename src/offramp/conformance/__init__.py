"""The suites that every store, engine and clock has to pass, usable by anyone who writes an adapter.

An adapter is handed in as a harness (see `harness.py`); it declares its capabilities. Each case proves obligations
that the ports' docstrings word and number, on a fresh instance. Free of any test framework:

    report = await run_store(MyHarness())
    assert report.ok, report
"""

from offramp.conformance.case import (
    Case,
    Obligation,
    blobs_obligations,
    clock_obligations,
    engine_obligations,
    limits_obligations,
    store_obligations,
)
from offramp.conformance.harness import (
    BlobsHarness,
    Capability,
    ClockHarness,
    EngineHarness,
    EngineMember,
    EngineSite,
    LimitsHarness,
    LimitsSite,
    StoreHarness,
    StoreInstance,
)
from offramp.conformance.host import ScriptedHost
from offramp.conformance.report import Report, Result
from offramp.conformance.suites import (
    blobs_cases,
    clock_cases,
    engine_cases,
    limits_cases,
    prove_blobs,
    prove_clock,
    prove_engine,
    prove_limits,
    prove_store,
    run_blobs,
    run_clock,
    run_engine,
    run_limits,
    run_store,
    store_cases,
)

__all__ = [
    "BlobsHarness",
    "Capability",
    "Case",
    "ClockHarness",
    "EngineHarness",
    "EngineMember",
    "EngineSite",
    "LimitsHarness",
    "LimitsSite",
    "Obligation",
    "Report",
    "Result",
    "ScriptedHost",
    "StoreHarness",
    "StoreInstance",
    "blobs_cases",
    "blobs_obligations",
    "clock_cases",
    "clock_obligations",
    "engine_cases",
    "engine_obligations",
    "limits_cases",
    "limits_obligations",
    "prove_blobs",
    "prove_clock",
    "prove_engine",
    "prove_limits",
    "prove_store",
    "run_blobs",
    "run_clock",
    "run_engine",
    "run_limits",
    "run_store",
    "store_cases",
    "store_obligations",
]
