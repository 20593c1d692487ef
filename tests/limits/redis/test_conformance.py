"""The adapter over Redis passes every case of the limits' suite."""

from __future__ import annotations

import pytest

from offramp.conformance import limits_cases, prove_limits
from tests.limits.redis.site import REDIS


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{'-'.join(case.obligations)}-{case.id}")
        for case in limits_cases()
        if case.applies(REDIS.capabilities)
    ],
)
async def test_limits(case):
    await prove_limits(case, REDIS)
