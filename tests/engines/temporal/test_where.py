"""A failure on Temporal is where it is on the embedded engine."""

from __future__ import annotations

from tests.execution.test_where import app, check


async def test_a_failure_says_where_it_was_raised(service):
    async with service(app) as runtime:
        await check(runtime)
