"""What an operator does to a service: kill -9, SIGTERM, a rolling restart. Nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter

import pytest

from tests.chaos.client import Asked, Client, Seen
from tests.chaos.invariants import executions, violations
from tests.chaos.serving import GUARD_S, PATIENT, RECOVERY_S, Serving

pytestmark = pytest.mark.timeout(200)


@contextlib.contextmanager
def serving(home, **options):
    made = Serving(home, **options)
    try:
        yield made
    finally:
        made.close()


async def up(service):
    await asyncio.to_thread(service.start)
    await asyncio.to_thread(service.wait_until_up)


async def stopped(service):
    assert await asyncio.to_thread(service.terminate) == 0, service.log.read_text()


async def until(condition):
    async with asyncio.timeout(GUARD_S):
        while not condition():  # noqa: ASYNC110 - nothing tells what another process does
            await asyncio.sleep(0.01)


def ask(client, *asked):
    """Clients that follow their runs to the end, and what they see."""
    seen = [Seen(one) for one in asked]
    return seen, [asyncio.create_task(client.follow(one)) for one in seen]


async def looked_back(client, seen):
    for one in seen:
        await client.look_back(one)


def assert_kept(home, seen, *services):
    interruptions = [item for service in services for item in service.interruptions]
    silent = {pid for service in services for pid in service.silent()}
    found = violations(home, seen, interruptions, silent)
    assert not found, "\n".join(found)


@pytest.mark.chaos
async def test_kill_9_of_everything_with_a_demoted_and_a_deep_run_in_flight(tmp_path):
    with serving(tmp_path, lease=10) as service:  # the default lease: a restarted process does not wait for it
        async with Client(service.url) as client:
            await up(service)
            demoted = Asked("sequence", {"steps": 8, "seconds": 0.6}, budget=0.3)
            deep = Asked("sequence", {"steps": 8, "seconds": 0.6}, "deep")
            seen, following = ask(client, demoted, deep)
            await until(lambda: all(one.first("run.demoted") or one.asked is deep for one in seen))
            await until(lambda: all(finished(one) >= 2 for one in seen))
            before = {one.run: finished(one) for one in seen}
            heard = {one.run: one.last for one in seen}
            service.kill_all()
            began = time.monotonic()
            await up(service)
            await asyncio.wait_for(asyncio.gather(*following), GUARD_S)
            took = time.monotonic() - began
            await looked_back(client, seen)
            await stopped(service)
    assert took < RECOVERY_S
    counts = Counter(key.partition(":")[0] for key, runs in executions(tmp_path).items() if len(runs) > 1)
    for one in seen:
        assert one.outcome == "run.completed"
        assert one.last > heard[one.run]
        assert before[one.run] >= 2
        assert counts[one.run] <= 1  # of each, the step in flight and no other
    assert_kept(tmp_path, seen, service)


def finished(one):
    return sum(frame.type == "step.completed" for frame in one.frames)


async def test_sigterm_with_30_fast_and_10_deep_runs_in_flight(tmp_path):
    with serving(tmp_path, **PATIENT) as service:
        async with Client(service.url) as client:
            await up(service)
            fast = [Asked("sequence", {"steps": 5, "seconds": 0.3}) for _ in range(30)]
            deep = [Asked("sequence", {"steps": 6, "seconds": 0.3}, "deep") for _ in range(10)]
            seen, following = ask(client, *fast, *deep)
            await until(lambda: all(one.first("step.started") for one in seen))
            await stopped(service)
            told = [one for one in seen if one.asked.how == "stream"]
            await until(lambda: all(one.streams for one in told))
            await up(service)
            await asyncio.wait_for(asyncio.gather(*following), GUARD_S)
            await looked_back(client, seen)
            await stopped(service)
    assert len(told) == 30
    assert {one.streams[0] for one in told} <= {"run.demoted", "run.completed"}
    for one in told:
        demoted = one.first("run.demoted")
        assert demoted is None or json.loads(demoted.data)["reason"] == "drain"
    assert Counter(one.outcome for one in seen) == {"run.completed": 40}
    assert [runs for runs in executions(tmp_path).values() if len(runs) > 1] == []
    assert_kept(tmp_path, seen, service)


async def test_a_rolling_restart_of_two_gateways_under_load_loses_nothing(tmp_path):
    with serving(tmp_path, workers=1, **PATIENT) as one, serving(tmp_path, workers=1, **PATIENT) as other:
        async with Client(one.url, other.url) as client:
            await asyncio.gather(up(one), up(other))
            seen, ending = [], asyncio.Event()

            async def load(number):
                while not ending.is_set():
                    asked = [
                        Asked("sequence", {"steps": 4, "seconds": 0.05}, sla="brief"),
                        Asked("fan", {"branches": 3}),
                        Asked("chatty", {"steps": 2}, "deep"),
                    ][number % 3]
                    mine, following = ask(client, asked)
                    seen.extend(mine)
                    await asyncio.gather(*following)

            loads = [asyncio.create_task(load(number)) for number in range(9)]
            for service in (one, other, one):
                await until(lambda: len(seen) > 30)
                await stopped(service)
                await up(service)
            ending.set()
            await asyncio.wait_for(asyncio.gather(*loads), GUARD_S)
            await looked_back(client, seen)
            await asyncio.gather(stopped(one), stopped(other))
    assert {one.outcome for one in seen} == {"run.completed"}
    assert [runs for runs in executions(tmp_path).values() if len(runs) > 1] == []
    assert_kept(tmp_path, seen, one, other)
