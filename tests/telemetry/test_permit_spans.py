"""The span of a wait for a permit."""

from __future__ import annotations

from offramp.testing import FakeClock
from tests.permits import Toy
from tests.permitted import opened
from tests.support import (
    result_of,
)


async def test_the_span_of_a_wait_says_what_it_was_for(tmp_path, memory):
    clock, limits = FakeClock(), Toy(expected_s=3.0, reason="rate", api=0)
    async with opened(tmp_path, limits, clock=clock) as runtime:
        handle = await runtime.start("fast", lane="loop")
        await limits.waits.wait()
        clock.advance(2.0)
        limits.grant("api")
        assert await result_of(handle) == "loop"
    span = memory.one("wait api")
    shown = {name.removeprefix("offramp."): value for name, value in span.attributes.items()}
    assert (shown["wait.resource"], shown["wait.reason"], shown["wait.ahead"]) == ("api", "rate", 0)
    assert (shown["wait.expected_ms"], shown["waited_ms"]) == (3000.0, 2000.0)
    assert (shown["run.id"], shown["step.name"]) == (handle.id, "loop")
