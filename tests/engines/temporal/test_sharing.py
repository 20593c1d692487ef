"""Runs that go on at a worker while steps of theirs are in flight in the gateway that demoted them."""

from __future__ import annotations

import asyncio

import pytest

from offramp import SLA, App, Retry, current_run, emit
from offramp.core.journal import DUE, TIMER
from offramp.engines.temporal.held import GO, HeldSteps
from offramp.engines.temporal.hop import Hop
from tests.support import Signal, eventually, failure_of, log_of, of, reach, result_of, types

app = App("sharing", classes=[SLA("now", budget=0.3)])
executed = []
gates = {}


def gate(name):
    return gates.setdefault(name, Signal())


@pytest.fixture(autouse=True)
def _fresh():
    executed.clear()
    gates.clear()


def made(name):
    return executed.count(name)


@app.step(timeout=30, retry=Retry(attempts=2, base=0.01))
async def held(name: str, *, fails: bool = False) -> str:
    executed.append(name)
    emit(f"{name} begins")
    await gate(name).wait()
    emit(f"{name} ends")
    if fails and current_run().attempt == 1:
        raise ValueError(name)
    return name


@app.step(timeout=30, effect="once")
async def charge(name: str) -> str:
    executed.append(name)
    await gate(name).wait()
    return name


@app.step
async def other(name: str) -> str:
    executed.append(name)
    return name


async def branch(name):
    await asyncio.sleep(0.5)  # past the budget: its steps are new after the demotion
    return [await other(f"{name}1"), await other(f"{name}2")]


@app.pipeline(sla="now")
async def beside(fails: bool) -> list[str]:
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(held("slow", fails=fails))
        quick = group.create_task(branch("quick"))
    return [slow.result(), *quick.result(), await other("last")]


@app.pipeline(sla="now")
async def many(count: int) -> list[str]:
    return await asyncio.gather(*(held(f"m{number}") for number in range(count)))


@app.pipeline(sla="now")
async def pays() -> str:
    return await charge("money")


@app.pipeline(sla="now")
async def impatient() -> str:
    await other("first")
    try:
        async with asyncio.timeout(1.5):
            return await held("slow")
    except TimeoutError:
        return await other("instead")


def numbered(seen):
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert types(seen)[-1].startswith("run.")
    return seen


def ends(seen):
    return [event.data["step"] for event in of(seen, "step.completed")]


def silent(gateway):
    """The gateway says nothing of itself any more, and is given up; it does not notice."""
    gateway.engine.membership.keeper.close()


async def test_other_branches_go_on_at_once(service):
    async with service(app) as runtime:
        handle = await runtime.start("beside", fails=False)

        async def both_have_ended():
            steps = (await handle.document())["steps"]
            return [step["status"] for step in steps if step["name"] == "other"] == ["completed", "completed"]

        await eventually(both_have_ended)
        assert not gate("slow").is_set()
        gate("slow").set()
        assert await result_of(handle) == ["slow", "quick1", "quick2", "last"]
        seen = numbered(await log_of(handle))
        document = await handle.document()
    assert {name: made(name) for name in executed} == dict.fromkeys(("slow", "quick1", "quick2", "last"), 1)
    assert ends(seen) == ["other", "other", "held", "other"]
    assert [event.data["delta"] for event in of(seen, "step.delta")] == ["slow begins", "slow ends"]
    assert types(seen).index("run.resumed") < types(seen).index("step.completed")
    assert {step["attempts"] for step in document["steps"]} == {1}


async def test_many_in_flight_are_looked_for_together(service, monkeypatch):
    count, looks, look = 12, [], HeldSteps.look

    async def counted(self, keys):
        looks.append(len(keys))
        return await look(self, keys)

    monkeypatch.setattr(HeldSteps, "look", counted)
    async with service(app) as runtime:
        handle = await runtime.start("many", count=count)
        await eventually(lambda: looks)
        for number in range(count):
            gate(f"m{number}").set()
        assert await result_of(handle) == [f"m{number}" for number in range(count)]
        seen = numbered(await log_of(handle))
    assert ends(seen) == ["held"] * count
    assert len(executed) == count
    assert looks[0] == count
    assert len(looks) <= count + 2


async def test_a_gateway_that_is_given_up_is_not_waited_for_and_writes_nothing_more(service):
    async with service(app) as runtime:
        handle = await runtime.start("beside", fails=False)
        await eventually(lambda: made("quick2"))
        silent(runtime.service)
        await runtime.worker.retire(runtime.service.id)
        await eventually(lambda: made("slow") == 2)
        gate("slow").set()
        assert await result_of(handle) == ["slow", "quick1", "quick2", "last"]
        seen = numbered(await log_of(handle))
    assert made("slow") == 2
    assert ends(seen).count("held") == 1
    assert [event.data["error"]["code"] for event in of(seen, "step.retrying")] == ["interrupted"]


async def test_a_delivery_is_found_without_its_signal(service, monkeypatch):
    sent = Hop.send

    async def only_go(self, run_id, signal):
        if signal == GO:
            await sent(self, run_id, signal)

    monkeypatch.setattr(Hop, "send", only_go)
    async with service(app) as runtime:
        handle = await runtime.start("beside", fails=False)
        await eventually(lambda: made("quick2"))
        gate("slow").set()
        assert await result_of(handle) == ["slow", "quick1", "quick2", "last"]
        numbered(await log_of(handle))
    assert made("slow") == 1


async def goes_on_without_its_gateway(runtime):
    """A run that was demoted there, and whose body has not been asked to begin."""
    handle = await runtime.start("beside", fails=False)
    await reach(handle, "run.demoted")
    await asyncio.sleep(0.5)
    assert not made("quick1"), "the body began before the run was let go, or though nobody told it to"
    silent(runtime.service)
    await runtime.worker.retire(runtime.service.id)
    await eventually(lambda: made("slow") == 2)
    gate("slow").set()
    assert await result_of(handle) == ["slow", "quick1", "quick2", "last"]
    numbered(await log_of(handle))


async def test_a_gateway_that_dies_before_it_lets_go_leaves_the_run_to_others(service, monkeypatch):
    async def never(self, run_id):
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Hop, "assigned", never)
    async with service(app, drain_timeout=0.2) as runtime:
        await goes_on_without_its_gateway(runtime)


async def test_a_gateway_that_dies_before_it_has_said_so_is_found_dead(service, monkeypatch):
    async def nothing(self, run_id, signal):
        pass

    monkeypatch.setattr(Hop, "send", nothing)
    async with service(app) as runtime:
        await goes_on_without_its_gateway(runtime)


async def test_the_next_attempt_is_made_at_a_worker(service):
    async with service(app) as runtime:
        handle = await runtime.start("beside", fails=True)
        await eventually(lambda: made("quick2"))
        gate("slow").set()
        assert await result_of(handle) == ["slow", "quick1", "quick2", "last"]
        seen = numbered(await log_of(handle))
    assert made("slow") == 2
    assert [event.data["attempt"] for event in of(seen, "step.started") if event.data["step"] == "held"] == [1, 2]
    assert [event.data["error"]["code"] for event in of(seen, "step.retrying")] == ["step-failed"]


async def test_an_effect_that_is_in_flight_is_waited_for(service):
    async with service(app) as runtime:
        handle = await runtime.start("pays")
        await reach(handle, "run.resumed")
        gate("money").set()
        assert await result_of(handle) == "money"
    assert made("money") == 1


async def test_an_effect_whose_gateway_is_given_up_is_not_repeated(service):
    async with service(app) as runtime:
        handle = await runtime.start("pays")
        await reach(handle, "run.resumed")
        silent(runtime.service)
        await runtime.worker.retire(runtime.service.id)
        assert type(await failure_of(handle)).__name__ == "EffectUnknown"
        gate("money").set()
    assert made("money") == 1


async def test_a_body_that_gives_up_what_is_in_flight_goes_on(service):
    async with service(app) as runtime:
        handle = await runtime.start("impatient")
        assert await result_of(handle) == "instead"
        gate("slow").set()
        seen = numbered(await log_of(handle))
        entries = await runtime.service.process.store.journal(handle.id)
    assert [entry.name for entry in entries] == ["other", DUE, TIMER, "other"]
    assert "held" not in ends(seen)


async def test_a_run_is_cancelled_with_what_is_in_flight_in_its_gateway(service):
    async with service(app) as runtime:
        handle = await runtime.start("beside", fails=False)
        await eventually(lambda: made("quick2"))
        await handle.cancel()
        seen = types(numbered(await log_of(handle)))
        await eventually(lambda: not runtime.service.live.all())
    assert seen[-1] == "run.cancelled"
    assert "step.retrying" not in seen, "no attempt follows in a run that is cancelled"
    assert made("slow") == 1
