"""Processes that are killed, stopped or forked: their permits end with their leases, and what they called counts."""

from __future__ import annotations

import asyncio
import os

from offramp.ports.limits import Done
from tests.limits.redis.processes import CONTINUE, KILL, STOP, limit
from tests.support import eventually


async def test_permits_of_a_killed_process_end_with_its_lease(place):
    peer = await place.peer(2, concurrency=2)
    one = place.join()
    waiting = place.ask(one)
    assert (await waiting.wait()).reason == "concurrency"
    peer.signal(KILL)
    place.expire(peer.own)
    await waiting.grant()
    assert (await place.level(one)).in_use == 1


async def test_what_a_killed_process_called_counts(place):
    peer = await place.peer(3, rate="4/h")
    assert await peer.says("end") == "ended"
    one = place.join(limit(rate="4/h"))
    await eventually(lambda: _used(place, one, 3))
    peer.signal(KILL)
    place.expire(peer.own)
    await eventually(lambda: _in_use(place, one, 0))
    await place.ask(one).grant()
    assert (await place.ask(one).wait()).reason == "rate"


async def _used(place, limits, count):
    return (await place.level(limits)).windows[0].used == count


async def _in_use(place, limits, count):
    return (await place.level(limits)).in_use == count


async def test_waiters_of_a_killed_process_are_passed_over(place):
    one = place.join(limit(concurrency=1))
    held = place.ask(one)
    await held.grant()
    peer = await place.peer(0, concurrency=1)
    assert await peer.says("ask") == "asked"
    await eventually(lambda: _waits(place, one, 1))
    mine = place.ask(one)
    await mine.wait()
    peer.signal(KILL)
    place.expire(peer.own)
    await eventually(lambda: _waits(place, one, 1))
    one.done(held.id, Done())
    await mine.grant()


async def _waits(place, limits, count):
    level = await place.level(limits)
    return sum(each.count for each in level.waiting.values()) == count


async def test_a_process_that_was_stopped_for_longer_than_its_lease_believes_no_grant_of_before(place):
    given = {"concurrency": 1, "lease_s": 1.0}
    one = place.join(limit(concurrency=1), lease_s=1.0)
    held = place.ask(one)
    await held.grant()
    peer = await place.peer(0, **given)
    assert await peer.says("ask") == "asked"
    await eventually(lambda: _waits(place, one, 1))
    peer.signal(STOP)
    one.done(held.id, Done())  # it goes to the stopped one, and from there to the next
    mine = place.ask(one)
    await mine.grant()
    peer.signal(CONTINUE)
    await eventually(lambda: _waits(place, one, 1))  # it asks again
    assert (await place.level(one)).in_use == 1
    one.done(mine.id, Done())
    assert await peer.line() == "granted"


async def test_a_process_that_lost_its_lease_says_so_and_tells_what_it_holds(place, caplog):
    one, two = place.join(), place.join()
    held = [place.ask(one), place.ask(one)]
    for each in held:
        await each.grant()
    waiting = place.ask(one)
    await waiting.wait()
    one.written(held[0].id)
    place.expire(one.own)
    await place.level(two)
    await eventually(lambda: "no longer knows this process" in caplog.text)
    await eventually(lambda: _in_use(place, two, 2))
    one.done(held[0].id, Done())
    await waiting.grant()
    assert (await place.level(two)).in_use == 2


async def test_a_forked_child_holds_nothing_and_asks_for_itself(place):
    one = place.join()
    await place.ask(one).grant()
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            granted = []
            answers = place.ask(one)
            while not answers.granted:
                pass
            granted.append(one.own)
            os.write(writes, b"granted")
        finally:
            os._exit(0)
    os.close(writes)
    try:
        assert await asyncio.to_thread(os.read, reads, 100) == b"granted"
    finally:
        os.close(reads)
        await asyncio.to_thread(os.waitpid, child, 0)
    assert (await place.level(one)).in_use == 2
