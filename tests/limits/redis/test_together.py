"""Several processes that make calls at once, over a server that is killed and started again among them."""

from __future__ import annotations

import asyncio
import json
import sys

from tests import valkey
from tests.limits.redis.processes import ROOT, limit
from tests.support import eventually

CALLS, PROCESSES, AT_ONCE = 150, 3, 2
GUARD_S = 60.0


async def test_no_more_calls_are_under_way_than_allowed_while_the_server_is_killed(a_server, place_at):
    server = a_server()
    place = place_at(server)
    counter = f"{valkey.server().port}:under way {place.address.prefix} {server.port}"
    spec = json.dumps({"concurrency": AT_ONCE, "rate": "1000/s"})
    callers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.limits.redis.caller", place.url, counter, str(CALLS), spec),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    try:
        async with asyncio.timeout(GUARD_S):
            for caller in callers:
                assert await caller.stdout.readline() == b"begun\n"
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            most = [int(await caller.stdout.readline()) for caller in callers]
            assert [await caller.wait() for caller in callers] == [0] * PROCESSES
    finally:
        for caller in callers:
            if caller.returncode is None:
                caller.kill()
                await caller.wait()
    assert 1 <= max(most) <= AT_ONCE
    one = place.join(limit(concurrency=AT_ONCE, rate="1000/s"))
    await eventually(lambda: _is_over(place, one))


async def _is_over(place, limits):
    """Every call is counted, once, and no permit is left."""
    level = await place.level(limits)
    return level.in_use == 0 and level.calls == {"ok": PROCESSES * CALLS}
