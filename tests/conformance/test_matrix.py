"""The page of adapters and obligations, the command that writes it, and the obligations themselves."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from offramp.conformance import (
    Report,
    blobs_cases,
    blobs_obligations,
    clock_cases,
    clock_obligations,
    engine_cases,
    engine_obligations,
    limits_cases,
    limits_obligations,
    run_store,
    store_cases,
    store_obligations,
)
from offramp.conformance.__main__ import main, named
from offramp.conformance.matrix import page
from offramp.ports import blobs, clock, engine, learning, outbox, store
from tests.conformance.adapters import ALONE, CLOCKS, ENGINES, EVERYTHING, STORES, Memory
from tests.conformance.blobs import OBJECTS
from tests.conformance.broken.lacking import Lacking
from tests.conformance.on_redis import EMBEDDED_REDIS, REDIS
from tests.conformance.temporal import TEMPORAL, TEMPORAL_REDIS
from tests.limits.redis.site import REDIS as LIMITS_ON_REDIS
from tests.limits.sites import LIMITS

METHODS_MAX = 12
"""Of one protocol, beside those of the protocols that it joins."""
UNNUMBERED = {"RunTaker", "RunControl", "RunHost", "Sender", "Timer"}
"""What an adapter is given, or gives."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "contributing" / "conformance.md"


def protocols(module):
    return [made for made in vars(module).values() if is_protocol(made) and made.__module__ == module.__name__]


def is_protocol(made):
    return inspect.isclass(made) and getattr(made, "_is_protocol", False)


def methods(port):
    """Those that it does not have from a protocol that it joins."""
    return [name for name, made in vars(port).items() if not name.startswith("_") and inspect.isfunction(made)]


PORTS = [port for module in (store, learning, engine, outbox, blobs, clock) for port in protocols(module)]


def passed(harness, cases, obligations):
    """What a suite finds when every case that applies passes, which test_suites.py sees to case by case."""
    report = Report(harness.name, harness.capabilities, obligations)
    for case in cases:
        report.add(case, "passed" if case.applies(harness.capabilities) else "not declared")
    assert report.ok, str(report)
    return report


def test_the_page_is_what_the_suites_find():
    stores = [passed(harness, store_cases(), store_obligations()) for harness in [*STORES, REDIS]]
    engines = [
        passed(harness, engine_cases(), engine_obligations())
        for harness in [*ENGINES, EMBEDDED_REDIS, TEMPORAL, TEMPORAL_REDIS]
    ]
    blobs = [passed(harness, blobs_cases(), blobs_obligations()) for harness in OBJECTS]
    clocks = [passed(harness, clock_cases(), clock_obligations()) for harness in CLOCKS]
    limits = [passed(harness, limits_cases(), limits_obligations()) for harness in [*LIMITS, LIMITS_ON_REDIS]]
    assert PAGE.read_text(encoding="utf-8") == page(stores, engines, blobs, clocks, limits), (
        "write it again: python -m offramp.conformance tests.conformance.temporal:EVERY"
        " --matrix docs/contributing/conformance.md"
    )


def test_the_command_says_what_it_found(capsys, tmp_path):
    assert main(["tests.conformance.adapters:MEMORY", "--matrix", str(tmp_path / "page.md")]) == 0
    assert re.match(r"memory: \d+ passed, 0 failed, \d+ not declared\n", capsys.readouterr().out)
    assert "| S2 |" in (tmp_path / "page.md").read_text()


def test_the_command_fails_with_an_adapter_that_does(capsys):
    assert main(["tests.conformance.broken.lacking:BROKEN"]) == 1
    out = capsys.readouterr().out
    assert "runs_are_claimed_by_priority_then_age (Q3)" in out


def test_a_name_that_leads_nowhere_is_said():
    with pytest.raises(SystemExit, match=r"^expected MODULE:HARNESS, got 'tests.conformance.adapters:NONE'"):
        named("tests.conformance.adapters:NONE")


@pytest.mark.parametrize(
    ("cases", "obligations"),
    [
        (store_cases, store_obligations),
        (engine_cases, engine_obligations),
        (blobs_cases, blobs_obligations),
        (clock_cases, clock_obligations),
        (limits_cases, limits_obligations),
    ],
)
def test_every_obligation_has_a_case_and_every_case_an_obligation(cases, obligations):
    cited = {cited for case in cases() for cited in case.obligations}
    assert cited == {obligation.id for obligation in obligations()}
    assert all(case.obligations for case in cases())
    assert not [name for name, count in Counter(case.id for case in cases()).items() if count > 1]


@pytest.mark.parametrize("port", [port for port in PORTS if port.__name__ not in UNNUMBERED])
def test_every_method_of_a_port_names_its_obligations(port):
    every = store_obligations() + engine_obligations() + blobs_obligations() + clock_obligations()
    known = {obligation.id for obligation in every}
    for name in methods(port):
        cited = set(re.findall(r"\b[SQWNCB]\d+\b", vars(port)[name].__doc__))
        assert cited, f"{port.__name__}.{name} cites no obligation"
        assert cited <= known, f"{port.__name__}.{name} cites {cited - known}"


def test_no_port_is_too_large_to_be_read_at_once():
    assert {port.__name__ for port in PORTS} >= {"Runs", "Logs", "Ownership", "DeepRuns", "Joined"}
    assert {port.__name__: len(methods(port)) for port in PORTS if len(methods(port)) > METHODS_MAX} == {}


@pytest.mark.parametrize(
    ("capability", "obligations"),
    [("signals", {"Q8", "Q12"}), ("purge", {"S13"}), ("webhooks", {"W1", "W2", "W3", "W4", "W5", "W6"})],
)
async def test_what_is_not_declared_has_to_be_refused(capability, obligations):
    silent = Memory()
    silent.capabilities = ALONE - {capability}
    report = await run_store(silent)
    assert {cited for failed in report.failures for cited in failed.obligations} == obligations
    assert {report.of(obligation) for obligation in obligations} == {"FAILED"}


@pytest.mark.parametrize(("capability", "obligations"), [("shared", ("Q1",)), ("durable", ("S2", "W4"))])
async def test_a_process_that_is_not_declared_has_to_be_refused(capability, obligations):
    class Silent(Memory):
        capabilities = EVERYTHING - {capability}

        async def reopen(self, instance):
            return await self.open()

        crash = reopen

    cases = [case for case in store_cases() if case.lacks == capability]
    report = await run_store(Silent(), cases=cases)
    assert [failed.obligations for failed in report.failures] == [obligations]


async def test_what_is_refused_counts_as_kept_but_not_as_passed():
    report = await run_store(Lacking())
    assert report.ok, str(report)
    assert {report.of("S2"), report.of("Q8"), report.of("S13"), report.of("W1")} == {"refused"}
    assert report.of("S1") == "passed"
