"""Every adapter of limits, every case."""

from __future__ import annotations

import pytest

from offramp.conformance import limits_cases, prove_limits
from tests.limits.sites import LIMITS


@pytest.mark.parametrize(
    ("harness", "case"),
    [
        pytest.param(harness, case, id=f"{harness.name}-{'-'.join(case.obligations)}-{case.id}")
        for case in limits_cases()
        for harness in LIMITS
        if case.applies(harness.capabilities)
    ],
)
async def test_limits(harness, case):
    await prove_limits(case, harness)
