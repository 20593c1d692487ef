"""Readers in one process of runs that another executes, told over Redis. No poll comes within the guard."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from offramp import App, current_run, emit
from offramp.errors import StoreError
from offramp.paths.submission import Submission
from offramp.stores.redis.address import Address
from tests import valkey
from tests.support import GUARD_S, Signal, assert_one_log, eventually, frames_of, member

pytestmark = pytest.mark.skipif(valkey.missing() is not None, reason=valkey.missing() or "")

NEVER = {"poll": 60, "lease": 60}
STREAMS = 50


def waiting():
    """A pipeline whose first step waits for the test, and a second step after it; where the steps were executed."""
    app, begun, go_on = App("talk"), Signal(), Signal()

    @app.step
    async def first() -> None:
        emit("a")
        begun.set()
        await go_on.wait()
        emit("b")

    @app.step
    async def second() -> str:
        emit("c")
        return current_run().path

    @app.pipeline(budget=60)
    async def pipe() -> str:
        await first()
        return await second()

    return app, begun, go_on


@pytest.fixture
def server(tmp_path):
    made = valkey.Server(tmp_path)
    yield made
    made.kill()


def channels(server, url):
    """The channels of runs that somebody is subscribed to, and how many connections are subscribed to anything."""
    prefix = Address.parse(url).key_of("events", "")
    with server.client() as client:
        found = {name.decode().removeprefix(prefix) for name in client.pubsub_channels(f"{prefix}*")}
        return found, sum(one["sub"] != "0" for one in client.client_list())


def connections(server):
    with server.client() as client:
        return len(client.client_list()) - 1


async def read_into(seen, service, run):
    """A reader that returns and looks into the store while that is unavailable."""
    async with asyncio.timeout(GUARD_S):
        while not seen or not seen[-1].terminal:
            with contextlib.suppress(StoreError):
                async with contextlib.aclosing(service.follow(run, len(seen))) as parts:
                    async for part in parts:
                        seen.extend(part)
            await asyncio.sleep(0.01)


async def test_another_processs_events_arrive_over_one_connection_for_all_streams(tmp_path, server):
    app, _, go_on = waiting()
    url = server.url()
    async with (
        member(app, tmp_path, "worker", store=url, **NEVER),
        member(app, tmp_path, "gateway", store=url, **NEVER) as gateway,
    ):
        submitted = [Submission(pipeline="pipe", respond_async=True) for _ in range(STREAMS)]
        runs = [(await gateway.submit(one)).record.id for one in submitted]
        one = asyncio.ensure_future(frames_of(gateway, runs[0]))
        await eventually(lambda: channels(server, url) == ({runs[0]}, 2))
        before = connections(server)
        rest = [asyncio.ensure_future(frames_of(gateway, run)) for run in runs for _ in range(2)]
        await eventually(lambda: channels(server, url) == (set(runs), 2))
        assert connections(server) <= before + 3, "readers share the connections that read"
        go_on.set()
        for reader in [one, *rest]:
            assert_one_log(await reader)
        await eventually(lambda: channels(server, url) == (set(), 2))


async def test_a_run_that_executes_here_is_listened_for_once_it_is_demoted(tmp_path, server):
    app, begun, go_on = waiting()
    url = server.url()
    async with member(app, tmp_path, "gateway", store=url, **NEVER) as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        reader = asyncio.ensure_future(frames_of(gateway, run))
        other = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        elsewhere = asyncio.ensure_future(frames_of(gateway, other))
        await begun.wait()
        await eventually(lambda: channels(server, url)[0])
        assert channels(server, url)[0] == {other}
        live = gateway.live.get(run)
        leaving = asyncio.ensure_future(gateway.demoter.demote(live, "budget"))
        await eventually(lambda: channels(server, url)[0] == {run, other})
        go_on.set()  # its step in flight went on here; the next one is a worker's
        async with member(app, tmp_path, "worker", store=url, **NEVER):
            assert_one_log(await reader)
            assert_one_log(await elsewhere)
        await leaving
    assert b'"result":"deep"' in (await reader)[-1].data


async def test_after_redis_was_away_readers_and_workers_look_at_once(tmp_path, server):
    app, begun, go_on = waiting()
    url = server.url()
    async with (
        member(app, tmp_path, "worker", store=url, **NEVER),
        member(app, tmp_path, "gateway", store=url, **NEVER) as gateway,
        member(app, tmp_path, "gateway", store=url, **NEVER) as other,
    ):
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await begun.wait()
        seen = []
        reader = asyncio.ensure_future(read_into(seen, other, run))
        await eventually(lambda: seen and seen[-1].type == "step.delta")  # it has all there is, and waits
        await eventually(lambda: channels(server, url)[0] == {run})
        server.kill()
        go_on.set()
        late = asyncio.ensure_future(gateway.submit(Submission(pipeline="pipe", respond_async=True)))
        server.start()
        await reader
        assert_one_log(seen)
        assert_one_log(await frames_of(gateway, (await late).record.id))


async def test_work_that_was_queued_while_nobody_could_hear_is_taken_at_once(tmp_path, server, monkeypatch):
    from offramp.stores.redis.hints import RedisHints

    app, _, go_on = waiting()
    go_on.set()
    url = server.url()
    async with (
        member(app, tmp_path, "worker", store=url, **NEVER),
        member(app, tmp_path, "gateway", store=url, **NEVER) as gateway,
    ):
        await eventually(lambda: channels(server, url)[1] == 2)
        with monkeypatch.context() as lost:
            lost.setattr(RedisHints, "send", lambda *_: None)
            run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        with server.client() as client, contextlib.suppress(Exception):
            client.client_kill_filter(_type="pubsub")
        assert_one_log(await frames_of(gateway, run))
