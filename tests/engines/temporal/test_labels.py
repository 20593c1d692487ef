"""Labels on Temporal are those of the embedded engine."""

from __future__ import annotations

from tests.execution.test_labels import app, check


async def test_calls_of_a_step_are_told_apart(service):
    async with service(app) as runtime:
        await check(runtime)
