"""A pytest plugin for CI: a skipped test fails, so that a missing tool cannot turn the suite green.

A test that cannot run on an operating system or interpreter says so: `skip("platform: needs fork")`
is allowed.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

ALLOWED = "platform:"


# First in the chain, so that it sees the report after all other plugins (including xfail and skip).
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge a test that was skipped by a mark or from inside."""
    report = yield
    if not hasattr(report, "wasxfail"):
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge a module that was skipped while it was imported."""
    report = yield
    refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skipped report into a failed one, unless its reason names the platform."""
    if not report.skipped:
        return
    # pytest's form for a skip: (path, line, "Skipped: reason").
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where no tool may be missing: {reason}"
