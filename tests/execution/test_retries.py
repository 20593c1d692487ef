from __future__ import annotations

import asyncio
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from offramp import App, Retry, current_run, emit, testing
from offramp.errors import CircuitOpen
from offramp.testing import FakeClock
from tests.support import failure_of, log_of, of, reach, result_of, types


class Busy(Exception):
    def __init__(self, retry_after):
        super().__init__("busy")
        self.response = SimpleNamespace(headers={"retry-after": retry_after})


async def test_a_retry_is_announced_so_that_its_deltas_can_be_dropped():
    app = App("retries")

    @app.step(retry=Retry(attempts=3, base=0))
    async def flaky() -> str:
        emit(f"attempt {current_run().attempt}")
        if current_run().attempt < 3:
            raise ValueError(f"no {current_run().attempt}")
        return "done"

    @app.pipeline
    async def pipe() -> str:
        return await flaky()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == "done"
        seen = await log_of(handle)
        [step] = (await handle.document())["steps"]
    assert types(seen)[1:-1] == ["step.started", "step.delta", "step.retrying"] * 2 + [
        *("step.started", "step.delta", "step.completed")
    ]
    assert [event.data["attempt"] for event in seen[1:-1]] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [event.data["error"]["message"] for event in of(seen, "step.retrying")] == [
        "ValueError: no 1",
        "ValueError: no 2",
    ]
    assert len({event.data["key"] for event in seen[1:-1]}) == 1
    assert (step["status"], step["attempts"]) == ("completed", 3)


async def test_the_last_failure_is_final_and_its_own():
    app = App("retries")

    @app.step(retry=Retry(attempts=2, base=0))
    def failing() -> None:
        raise ValueError(f"attempt {current_run().attempt}")

    @app.pipeline
    async def pipe() -> None:
        await failing()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        error = await failure_of(handle)
        seen = await log_of(handle)
    assert (type(error), str(error)) == (ValueError, "attempt 2")
    assert types(seen)[1:] == ["step.started", "step.retrying", "step.started", "step.failed", "run.failed"]
    assert seen[-1].data["error"] == {
        "code": "step-failed",
        "message": "ValueError: attempt 2",
        "step": "failing",
        "attempt": 2,
        "where": {"file": "tests/execution/test_retries.py", "line": 57, "function": "failing"},
    }


async def test_what_is_never_worth_a_retry_gets_none():
    app, calls = App("retries"), []

    @app.step(retry=Retry(attempts=5, base=0, on=OSError, never=FileNotFoundError))
    def missing(kind: str) -> None:
        calls.append(kind)
        raise {"missing": FileNotFoundError, "value": ValueError}[kind]

    @app.pipeline
    async def pipe(kind: str) -> None:
        await missing(kind)

    async with testing.runtime(app) as runtime:
        for kind in ("missing", "value"):
            await failure_of(await runtime.start("pipe", kind=kind))
    assert calls == ["missing", "value"]


async def test_backoff_waits_by_the_clock_with_full_jitter():
    app, clock = App("retries"), FakeClock(seed=3)

    @app.step(retry=Retry(attempts=4, base=1.0, factor=2.0, cap=2.0))
    async def flaky() -> int:
        if current_run().attempt < 4:
            raise ValueError
        return current_run().attempt

    @app.pipeline(budget=60)
    async def pipe() -> int:
        return await flaky()

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        assert await clock.run_until(result_of(handle)) == 4
        delays = [event.data["delay_ms"] for event in of(await log_of(handle), "step.retrying")]
    assert 0 <= delays[0] <= 1000
    assert 0 <= delays[1] <= 2000
    assert 0 <= delays[2] <= 2000
    assert len(set(delays)) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_server_that_asks_for_a_wait_gets_it(form):
    app, clock = App("retries"), FakeClock()

    @app.step(retry=Retry(attempts=2, base=0))
    async def limited() -> str:
        if current_run().attempt == 1:
            raise Busy("5" if form == "seconds" else formatdate(clock.time() + 5, usegmt=True))
        return "served"

    @app.pipeline(budget=60)
    async def pipe() -> str:
        return await limited()

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        retrying = of(await reach(handle, "step.retrying"), "step.retrying")[0]
        assert retrying.data["delay_ms"] == 5000.0
        assert await clock.run_until(result_of(handle)) == "served"
        assert clock.monotonic() >= 5.0


async def test_a_server_that_asks_for_too_long_a_wait_ends_the_step():
    app = App("retries")

    @app.step(retry=Retry(attempts=3, base=0, retry_after_max=10))
    async def limited() -> None:
        raise Busy("11")

    @app.pipeline
    async def pipe() -> None:
        await limited()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert isinstance(await failure_of(handle), Busy)
        assert "step.retrying" not in types(await log_of(handle))


async def test_retry_after_that_nobody_can_read_falls_back_to_backoff():
    app = App("retries")

    @app.step(retry=Retry(attempts=2, base=0))
    async def limited() -> str:
        if current_run().attempt == 1:
            raise Busy("when the moon is full")
        return "served"

    @app.pipeline
    async def pipe() -> str:
        return await limited()

    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("pipe")) == "served"


async def test_the_idempotency_key_is_the_same_in_every_attempt():
    app, keys = App("retries"), []

    @app.step(retry=Retry(attempts=3, base=0))
    async def pay(n: int) -> None:
        keys.append(current_run().idempotency_key)
        if current_run().attempt < 3:
            raise ValueError

    @app.pipeline
    async def pipe() -> None:
        await asyncio.gather(pay(1), pay(2))
        await pay(1)

    async with testing.runtime(app) as runtime:
        await result_of(await runtime.start("pipe"))
    assert len(keys) == 9
    assert len(set(keys)) == 3


@pytest.mark.parametrize("budget", [600, 20])
async def test_an_attempt_that_an_open_breaker_ends_is_not_counted(budget):
    """With a budget of 20 s, the run is demoted before the first wait, and its worker counts on."""
    app, clock = App("retries"), FakeClock()
    raised = [CircuitOpen("stopped", 30.0), CircuitOpen("stopped", 5.0), ValueError(), CircuitOpen("stopped", 5.0)]

    @app.step(retry=Retry(attempts=2, base=0))
    async def write(fails: bool) -> int:
        number = current_run().attempt
        if number <= len(raised):
            raise raised[number - 1]
        if fails:
            raise ValueError(f"attempt {number}")
        return number

    @app.pipeline(budget=budget)
    async def pipe(fails: bool) -> int:
        return await write(fails)

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe", fails=False)
        assert await clock.run_until(result_of(handle)) == 5
        seen = await log_of(handle)
        assert [each.data["delay_ms"] for each in of(seen, "step.retrying")] == [30_000.0, 5_000.0, 0.0, 5_000.0]
        assert ("run.demoted" in types(seen)) == (budget == 20)
        error = await clock.run_until(failure_of(await runtime.start("pipe", fails=True)))
    assert str(error) == "attempt 5"


async def test_a_wrong_key_is_not_tried_again():
    app = App("retries")
    asked = []

    class Unauthorized(Exception):
        status_code = 401

    @app.step(retry=Retry(attempts=3, base=0))
    async def write() -> None:
        asked.append(current_run().attempt)
        raise Unauthorized

    @app.pipeline
    async def pipe() -> None:
        await write()

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert isinstance(await failure_of(handle), Unauthorized)
    assert asked == [1]
