"""The reference desk on Temporal with its runs in Redis, two gateways and two workers, each of which dies or leaves.

Nothing that was acknowledged is lost, no event is missing or repeated, no finished step is executed again.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter

import pytest

from tests import temporal, valkey
from tests.chaos.client import Asked, Client, Seen
from tests.mixed.place import GUARD_S, ROOT, Place

missing = temporal.missing() or valkey.missing()
pytestmark = [pytest.mark.skipif(missing is not None, reason=missing or ""), pytest.mark.timeout(120)]

SOURCE = "src"


@pytest.fixture
def redis(tmp_path):
    made = valkey.Server(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def place(tmp_path, redis):
    made = Place(tmp_path, temporal.server(), redis)
    yield made
    made.close()


def audit(how="stream", **given):
    return Asked("audit", {"path": SOURCE}, how, **given)


def explain():
    return Asked("explain", {"question": "How do I write a context manager?"})


def ask(client, *asked):
    """What clients see who follow their runs to the end, and their tasks."""
    seen = [Seen(one) for one in asked]
    return seen, [asyncio.create_task(client.follow(one)) for one in seen]


async def until(condition):
    async with asyncio.timeout(GUARD_S):
        while not condition():  # noqa: ASYNC110 - nothing tells what another process does
            await asyncio.sleep(0.01)


async def ended(following):
    await asyncio.wait_for(asyncio.gather(*following), GUARD_S)


def finished(one):
    return sum(frame.type == "step.completed" for frame in one.frames)


async def assert_whole(client, seen):
    """Every run completed, its events 1 to n once, and the same when read again."""
    for one in seen:
        await client.look_back(one)
        assert one.wrong == []
        assert one.outcome == "run.completed", one.frames[-1].data[:600]
        assert [frame.seq for frame in one.frames] == list(range(1, len(one.frames) + 1))
        assert [frame.data for frame in one.again] == [frame.data for frame in one.frames]
        assert one.document["status"] == "completed"


async def test_a_stream_whose_gateway_is_killed_goes_on_at_the_other(place):
    (first, second), _ = await asyncio.to_thread(place.open)
    async with Client(first.url) as client:
        seen, following = ask(client, audit("deep"), audit(budget=30))
        deep, fast = seen
        await until(lambda: finished(deep) >= 2 and finished(fast) >= 2)
        assert fast.first("run.demoted") is None, "it is executed by the gateway that dies"
        heard = [one.last for one in seen]
        first.send(signal.SIGKILL)
        client.urls = [second.url]
        await ended(following)
        await assert_whole(client, seen)
    assert all(one.last > last for one, last in zip(seen, heard, strict=True))
    assert place.repeated(first) == []
    assert place.executed_again(seen) == []


async def test_what_a_killed_worker_executed_goes_on_at_the_other(place):
    gateways, workers = await asyncio.to_thread(place.open)
    async with Client(*(gateway.url for gateway in gateways)) as client:
        seen, following = ask(client, audit("deep"), audit(budget=0.2))
        await until(lambda: all(finished(one) >= 2 for one in seen) and seen[1].first("run.demoted"))
        pids = {worker.process.pid: worker for worker in workers}
        await until(lambda: in_flight(place, pids))
        victim = pids[in_flight(place, pids)[0]]
        victim.send(signal.SIGKILL)
        await ended(following)
        await assert_whole(client, seen)
    assert place.repeated(victim) == []
    assert place.executed_again(seen) == []


def in_flight(place, pids):
    made = [one for executions in place.executions().values() for one in executions]
    return [one["pid"] for one in made if not one["ended"] and one["pid"] in pids]


async def test_a_gateway_that_is_told_to_stop_hands_everything_over(place):
    (first, second), _ = await asyncio.to_thread(place.open)
    async with Client(first.url) as client:
        with place.answers_held():
            seen, following = ask(client, *[explain() for _ in range(20)], *[audit("deep") for _ in range(5)])
            await until(lambda: place.begun("write") == 20 and all(one.run for one in seen))
            first.send(signal.SIGTERM)
            await asyncio.to_thread(first.wait_for, "draining")
            client.urls = [second.url]
            await until(lambda: all(one.streams for one in seen[:20]))
        code, _, said = await asyncio.to_thread(first.end)
        assert code == 0, said
        await ended(following)
        await assert_whole(client, seen)
    assert Counter(one.streams[0] for one in seen[:20]) == {"run.demoted": 20}
    assert {json.loads(one.first("run.demoted").data)["reason"] for one in seen[:20]} == {"drain"}
    assert place.repeated() == []


async def test_redis_may_be_killed_and_come_back(place, redis):
    gateways, _ = await asyncio.to_thread(place.open)
    async with Client(*(gateway.url for gateway in gateways)) as client:
        seen, following = ask(client, audit("deep"), audit(budget=0.3), audit(budget=30), explain())
        await until(lambda: all(finished(one) >= 2 for one in seen))
        await asyncio.to_thread(redis.kill)
        await asyncio.to_thread(redis.start)
        late, following_late = ask(client, audit("deep"), explain())
        await ended([*following, *following_late])
        await assert_whole(client, [*seen, *late])
    assert place.repeated() == []


def test_the_demonstration_is_the_same(redis, tmp_path):
    options = ["--engine", temporal.server().url(uuid.uuid4().hex), "--store", redis.url()]
    options += ["--objects", (tmp_path / "objects").as_uri()]  # an audit's findings are more than a history carries
    demo = [sys.executable, "examples/reference_desk/demo.py", *options]
    ended = subprocess.run(demo, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"run\.demoted after .* \(budget\)", ended.stdout)
    assert "none missing, none repeated" in ended.stdout
