"""A step that takes down its worker again and again ends its run; what was in flight beside it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter

import httpx
import psutil
import pytest

from offramp.execution.quarantine import Quarantine
from tests import temporal
from tests.engines.temporal.test_kills import GUARD_S, Place, events, outcome, submit

DEATHS = 3
"""The setting here; the first death may go uncounted, as the step's start need not be on disk by then."""


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path, temporal.server())
    made._env["OFFRAMP_PROCESS_DEATHS"] = str(DEATHS)
    return made


def test_a_step_that_kills_its_workers_ends_its_run_and_no_other(place):
    with contextlib.ExitStack() as stack:
        worker, gateway = stack.enter_context(place.worker()), stack.enter_context(place.gateway())
        bystander = submit(gateway, "deep", "by")
        place.reached("by-held")
        run = submit(gateway, "kills", "k")
        for death in range(DEATHS + 1):
            worker.process.wait(30)
            if death == DEATHS - 2:
                place.let_go("by-held")  # which has died as often as a step may that is no suspect
            worker = stack.enter_context(place.worker())
            if outcome_is_known(gateway, run, worker):
                break
        document = outcome(gateway, run)
        assert outcome(gateway, bystander)["result"] == ["by-first", "by-held", "by-last"]
        log = events(gateway, run)
    assert (document["status"], document["error"]["code"]) == ("failed", "step-killed-process")
    assert (document["error"]["step"], document["steps"][0]["status"]) == ("deadly", "failed")
    assert [event["type"] for event in log][-2:] == ["step.failed", "run.failed"]
    counted = Counter(step for step, _ in place.executed())
    assert DEATHS <= counted["k"] <= DEATHS + 1
    assert counted["by-first"] == counted["by-last"] == 1
    assert "k-last" not in counted


def test_a_step_that_holds_the_interpreter_ends_its_run_and_no_other(place):
    with place.gateway(workers=2) as gateway, hung_ones_killed(gateway):
        bystander = submit(gateway, "deep", "by")
        place.reached("by-held")
        run = submit(gateway, "freezes", "f")
        place.reached("f", 2)
        place.let_go("by-held")
        gateway.wait_for("it hung, and is killed")
        document = outcome(gateway, run, patience_s=2 * GUARD_S)
        assert outcome(gateway, bystander)["result"] == ["by-first", "by-held", "by-last"]
    assert (document["status"], document["error"]["code"]) == ("failed", "step-killed-process")
    assert document["error"]["step"] == "frozen"
    assert "fell silent" in document["error"]["message"]
    assert DEATHS <= Counter(step for step, _ in place.executed())["f"] <= DEATHS + 1


@contextlib.contextmanager
def hung_ones_killed(gateway):
    """One that hangs does not hear that its gateway is gone."""
    try:
        yield
    finally:
        for worker in psutil.Process(gateway.process.pid).children():
            worker.kill()


def outcome_is_known(gateway, run, worker):
    """Whether the run ended before this worker did."""
    while worker.process.poll() is None:
        if httpx.get(f"{gateway.url}/v1/runs/{run}").json()["status"] == "failed":
            return True
        time.sleep(0.05)
    return False


def test_workers_that_are_told_to_stop_do_not_count(place):
    place._env["OFFRAMP_DRAIN_TIMEOUT"] = "3.1"
    with contextlib.ExitStack() as stack:
        worker, gateway = stack.enter_context(place.worker()), stack.enter_context(place.gateway())
        run = submit(gateway, "deep", "d")
        for times in range(1, DEATHS + 3):
            place.reached("d-held", times)
            worker.send(signal.SIGTERM)
            worker.end()
            worker = stack.enter_context(place.worker())
        place.reached("d-held", DEATHS + 3)
        place.let_go("d-held")
        assert outcome(gateway, run)["result"] == ["d-first", "d-held", "d-last"]


async def test_the_worst_executes_beside_no_other():
    quarantine, inside = Quarantine(), []

    async def execute(name, deaths, gate):
        async with quarantine.place(deaths):
            inside.append(name)
            await gate.wait()
            inside.remove(name)

    gates = [asyncio.Event() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        for number, deaths in enumerate((1, 1, 2, 0, 2)):
            group.create_task(execute(number, deaths, gates[number]))
        await asyncio.sleep(0)
        assert inside == [0, 1, 3], "one that is worse began beside others"
        gates[0].set()
        await asyncio.sleep(0)
        gates[1].set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert inside == [3, 2], "the worst has to have its turn alone"
        gates[2].set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert inside == [3, 4]
        for gate in gates:
            gate.set()
    assert inside == []
