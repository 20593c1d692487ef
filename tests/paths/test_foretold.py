"""A run that learns of a wait longer than the rest of its budget is demoted at once, at any `early_demotion`."""

from __future__ import annotations

import asyncio

import pytest

import offramp
from offramp import SLA, App, Retry, current_run
from offramp.wiring import local
from tests.support import Signal, log_of, of, reach, result_of

app = App("foretold", classes=[SLA("trusting", early_demotion=0)])
patient = Retry(attempts=2, base=0.0)


class Busy(Exception):
    """A provider's refusal."""

    retry_after = 30


def refused_once() -> str:
    if current_run().attempt == 1:
        raise Busy
    return current_run().path


@app.step(retry=patient)
async def on_a_loop() -> str:
    return refused_once()


@app.step(retry=patient)
def in_a_thread() -> str:
    return refused_once()


@app.step(retry=patient, lane="process")
def in_a_process() -> str:
    return refused_once()


@app.step(retry=Retry(attempts=2, base=10_000.0, cap=10_000.0))
async def backs_off() -> str:
    return refused_once() if current_run().attempt == 2 else str(1 / 0)


@app.step
async def sleeps() -> str:
    await offramp.sleep(30)
    return "deep"


STEPS = {step.spec.name: step for step in (on_a_loop, in_a_thread, in_a_process, backs_off, sleeps)}


@app.pipeline(sla="trusting")
async def calls(step: str) -> str:
    return await STEPS[step]()


@app.pipeline(sla="trusting")
async def waits(for_: str) -> str:
    await (offramp.sleep(30) if for_ == "time" else offramp.signal("answer", timeout=30))
    return current_run().path


async def assert_demoted_at_once(handle):
    """No time passes until the run is demoted, and it is demoted once."""
    [*_, demoted] = await reach(handle, "run.demoted")
    assert (demoted.data["reason"], demoted.data["elapsed_ms"]) == ("predicted", 0.0)


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_has_to_wait_demotes_its_run(place, clock, step):
    async with local(app, {"store": "memory:"} if place is None else {"data": str(place)}, clock) as runtime:
        handle = await runtime.start("calls", step=step)
        await assert_demoted_at_once(handle)
        assert await clock.run_until(result_of(handle), 10.0) == "deep"
        assert len(of(await log_of(handle), "run.demoted")) == 1
        document = await handle.document()
    assert (document["path"], document["demotion"]["reason"]) == ("deep", "predicted")
    [why] = document["demotion"]["reasons"]
    assert why.startswith("the run has to wait for ")
    assert why.endswith(" s, and 6 s of the budget are left")
    assert clock.monotonic() >= 30


@pytest.mark.parametrize("what", ["time", "signal"])
async def test_a_body_that_has_to_wait_demotes_its_run(place, clock, what):
    async with local(app, {"store": "memory:"} if place is None else {"data": str(place)}, clock) as runtime:
        handle = await runtime.start("waits", for_=what)
        await assert_demoted_at_once(handle)
        await handle.signal("answer", True)
        assert await clock.run_until(result_of(handle), 10.0) == "deep"


async def test_a_step_that_has_to_wait_beside_another_in_flight_demotes_its_run(clock):
    app, goes_on = App("beside"), Signal()

    @app.step
    async def works() -> str:
        await goes_on.wait()
        return current_run().path

    @app.step(retry=patient)
    async def busy() -> str:
        return refused_once()

    @app.pipeline
    async def both() -> list[str]:
        return await asyncio.gather(works(), busy())

    async with local(app, {"store": "memory:"}, clock) as runtime:
        handle = await runtime.start("both")
        await assert_demoted_at_once(handle)
        goes_on.set()
        assert await clock.run_until(result_of(handle), 10.0) == ["deep", "deep"]
        assert len(of(await log_of(handle), "step.started")) == 3  # no step was interrupted


@pytest.mark.parametrize("how", ["timeout", "sleep"])
async def test_a_wait_that_the_body_ends_in_time_demotes_nothing(clock, how):
    app = App("hurries")

    @app.step(retry=patient)
    async def busy() -> str:
        return refused_once()

    @app.pipeline
    async def hurries() -> str:
        if how == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(busy(), 2)
            return current_run().path
        calling = asyncio.ensure_future(busy())
        sleeping = asyncio.ensure_future(offramp.sleep(2))
        await asyncio.wait({calling, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        calling.cancel()
        return current_run().path

    async with local(app, {"store": "memory:"}, clock) as runtime:
        handle = await runtime.start("hurries")
        await reach(handle, "step.retrying")
        assert await clock.run_until(result_of(handle), 0.02) == "fast"


async def test_a_sleep_that_the_timeout_of_its_step_ends_in_time_demotes_nothing(clock):
    app = App("cuts")

    @app.step(timeout=2)
    async def naps() -> None:
        await offramp.sleep(30)

    @app.pipeline
    async def cuts() -> str:
        with pytest.raises(TimeoutError):
            await naps()
        return current_run().path

    async with local(app, {"store": "memory:"}) as runtime:
        assert await result_of(await runtime.start("cuts")) == "fast"
