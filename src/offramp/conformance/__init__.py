"""The suites that every store and every engine has to pass, usable by anyone who writes an adapter.

An adapter is handed in as a harness (see `harness.py`); it declares its capabilities. Each case proves obligations
that the ports' docstrings word and number, on a fresh instance. Free of any test framework:

    report = await run_store(MyHarness())
    assert report.ok, report
"""

from offramp.conformance.case import Case, Obligation, engine_obligations, store_obligations
from offramp.conformance.harness import (
    Capability,
    EngineHarness,
    EngineMember,
    EngineSite,
    StoreHarness,
    StoreInstance,
)
from offramp.conformance.host import ScriptedHost
from offramp.conformance.report import Report, Result
from offramp.conformance.suites import engine_cases, prove_engine, prove_store, run_engine, run_store, store_cases

__all__ = [
    "Capability",
    "Case",
    "EngineHarness",
    "EngineMember",
    "EngineSite",
    "Obligation",
    "Report",
    "Result",
    "ScriptedHost",
    "StoreHarness",
    "StoreInstance",
    "engine_cases",
    "engine_obligations",
    "prove_engine",
    "prove_store",
    "run_engine",
    "run_store",
    "store_cases",
    "store_obligations",
]
