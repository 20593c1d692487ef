"""What went in and out of steps on Temporal is what it is on the embedded engine."""

from __future__ import annotations

from tests.paths.inspected import app, check


async def test_on_temporal(service):
    async with service(app) as runtime:
        await check(runtime)
