"""A server that is restarted, cut off, or loses its data: nothing is exceeded, and what waits is served afterwards."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from offramp.errors import StoreError
from offramp.limits.redis import adapter, link
from offramp.ports.limits import Done
from tests.limits.redis.processes import limit
from tests.support import eventually

FORGETS = ("--appendonly", "no")


async def test_a_server_that_comes_later_is_waited_for(a_server, place_at, caplog):
    server = a_server()
    place = place_at(server)
    server.kill()
    one = place.join()
    asked = place.ask(one)
    await eventually(lambda: "wait until it answers" in caplog.text)
    assert not asked.all
    server.start()
    await asked.grant()
    assert "are back" in caplog.text


async def test_a_server_that_lost_its_data_learns_what_is_held_and_was_called(a_server, place_at):
    server = a_server(*FORGETS)
    place = place_at(server)
    specs = limit(concurrency=2, rate="4/h", tokens="1k/h")
    one, two = place.join(specs), place.join(specs)
    for limits in (one, two):
        call = place.ask(limits, tokens=100)
        await call.grant()
        limits.done(call.id, Done(tokens=80))
    held = place.ask(one, tokens=50), place.ask(two, tokens=50)
    for each in held:
        await each.grant()
    one.written(held[0].id)
    waiting = place.ask(one, tokens=50)
    await waiting.wait()
    server.kill()
    server.start()
    await eventually(lambda: _counts(place, two, 2, [4, 260]))
    assert (await place.level(two)).waiting["default"].count == 1
    two.withdraw(held[1].id)  # it was not written
    await waiting.grant()
    assert (await place.ask(two, tokens=50).wait()).reason in {"rate", "concurrency"}


async def _counts(place, limits, in_use, used):
    level = await place.level(limits)
    return level.in_use == in_use and [window.used for window in level.windows] == used


async def test_a_server_that_forgot_everything_grants_nothing_to_newcomers_before_others_told(a_server, place_at):
    server = a_server(*FORGETS)
    place = place_at(server)
    specs = limit(concurrency=1)
    one = place.join(specs)
    await place.ask(one).grant()
    server.kill()
    server.start()
    newcomer = place.join(specs)
    assert (await _asked(place, newcomer)).reason == "concurrency"
    assert (await place.level(newcomer)).in_use == 1


async def _asked(place, limits):
    """What an ask waits for that came before all processes had told theirs."""
    asked = place.ask(limits)
    await eventually(lambda: _in_use(place, limits, 1))
    again = place.ask(limits)
    return (await again.wait()) if not asked.granted else None


async def test_a_restart_that_keeps_the_data_counts_no_call_twice(a_server, place_at):
    server = a_server()
    place = place_at(server)
    specs = limit(rate="9/h")
    one = place.join(specs)
    call = place.ask(one)
    await call.grant()
    one.done(call.id, Done())
    held = place.ask(one)
    await held.grant()
    await eventually(lambda: _used(place, one, 2))
    with server.client() as client:
        client.client_kill_filter(_type="normal")
        client.client_kill_filter(_type="pubsub")
    another = place.ask(one)
    await another.grant()
    assert (await place.level(one)).windows[0].used == 3


async def _used(place, limits, count):
    return (await place.level(limits)).windows[0].used == count


async def test_a_restart_from_a_copy_counts_what_was_called_since_the_copy(a_server, place_at, monkeypatch):
    monkeypatch.setattr(adapter, "LATE_S", 0.0)  # the copy is older than that
    server = a_server(*FORGETS)
    place = place_at(server)
    one = place.join(limit(rate="4/h"))
    await place.level(one)
    with server.client() as client:
        client.save()
    for _ in range(3):
        call = place.ask(one)
        await call.grant()
        one.done(call.id, Done())
    await eventually(lambda: _used(place, one, 3))
    server.kill()
    server.start()
    await eventually(lambda: _used(place, one, 3))


@pytest.mark.usefixtures("_soon")
async def test_a_process_with_many_asks_joins_again_in_parts(place, monkeypatch):
    monkeypatch.setattr(adapter, "CALL_OPS_MAX", 20)
    one = place.join(limit(concurrency=3, rate="900/h"))
    held = [place.ask(one) for _ in range(3)]
    for each in held:
        await each.grant()
    waiting = [place.ask(one) for _ in range(200)]
    await waiting[-1].wait()
    one.done(held[0].id, Done())
    await waiting[0].grant()
    sent, call = [], link.Link.call
    monkeypatch.setattr(link.Link, "call", lambda own, packed: (sent.append(_words(packed)), call(own, packed))[1])
    with place.server.client() as client:
        client.delete(*client.scan_iter(f"{place.address.tag}*"))
    await eventually(lambda: any("k" in kinds for kinds in sent))
    one.done(held[1].id, Done())
    await waiting[1].grant()
    level = await place.level(one)
    assert (level.in_use, level.waiting["default"].count, level.windows[0].used) == (3, 198, 5)
    assert max(map(len, sent)) <= 20 + len(["j", "d", "v", "t"])
    kinds = [kind for each in sent for kind in each if kind in "hcAk"]
    assert kinds == [*["h"] * 3, *["A"] * 17, "c", *["A"] * 182, "k"]


def _words(packed):
    return [op[0] for op in msgspec.msgpack.decode(packed)[2]]


async def test_an_answer_that_is_lost_is_asked_for_again(place, line):
    one = place.join(port=line.port)
    first = place.ask(one)
    await first.grant()
    line.lose(1)
    second = place.ask(one)
    await second.grant()
    line.lose(1)
    one.done(first.id, Done())
    await eventually(lambda: line.lost == 2)
    await eventually(lambda: _in_use(place, one, 1))
    assert (await place.level(one)).calls == {"ok": 1}


async def _in_use(place, limits, count):
    return (await place.level(limits)).in_use == count


async def test_what_was_granted_while_cut_off_is_told_afterwards(place, line, caplog):
    specs = limit(concurrency=1)
    near, far = place.join(specs), place.join(specs, port=line.port)
    held = place.ask(near)
    await held.grant()
    waiting = place.ask(far)
    await waiting.wait()
    line.cut()
    near.done(held.id, Done())
    await eventually(lambda: _in_use(place, near, 1))
    assert not waiting.granted
    line.mend()
    await waiting.grant()
    assert (await place.level(near)).in_use == 1
    assert "cannot be reached" in caplog.text or "calls of resources wait" in caplog.text


async def test_levels_of_an_unreachable_server_are_an_error(a_server, place_at):
    server = a_server()
    place = place_at(server)
    one = place.join()
    await one.levels()
    server.kill()
    with pytest.raises(StoreError, match="cannot be reached"):
        await one.levels()
    server.start()
    await eventually(lambda: _answers(one))


async def _answers(limits):
    try:
        return await limits.levels()
    except StoreError:
        return None


async def test_a_closing_process_does_not_wait_for_a_server_that_is_gone(a_server, place_at):
    server = a_server()
    place = place_at(server)
    one = place.join()
    waiting = place.ask(one)
    await waiting.grant()
    server.kill()
    await asyncio.to_thread(one.close)
    assert place.ask(one).refused.why == "closed"
    server.start()
