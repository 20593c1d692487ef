"""Readers: live, late and resumed, here and in another process, read the same bytes in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from offramp import App, emit
from offramp.core import events
from offramp.errors import RunGone
from offramp.paths.deliver import TAIL_BYTES_MAX, TAIL_EVENTS_MAX
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.support import GUARD_S, Signal, assert_one_log, eventually, frames_of, know_each_other, member


def talkative(count, size=10):
    """A pipeline that emits, waits for the test halfway, and emits again."""
    app, halfway, go_on = App("talk"), Signal(), Signal()

    @app.step
    async def talk(part: int) -> None:
        for n in range(count):
            emit(f"{part}.{n} ".ljust(size, "x"))
        if part == 1:
            halfway.set()
            await go_on.wait()

    @app.pipeline(budget=60)
    async def pipe() -> str:
        await talk(1)
        await talk(2)
        return "done"

    return app, halfway, go_on


async def one_by_one(service, run, after=0):
    """A reader that comes back for every part with the number of the last event it has."""
    frames = []
    async with asyncio.timeout(GUARD_S):
        while not frames or frames[-1].type not in events.TERMINAL:
            async with contextlib.aclosing(service.follow(run, after)) as parts:
                async for part in parts:
                    frames += part
                    after = part[-1].seq
                    break
    return frames


async def so_far(service, run):
    """What a reader has before it would have to wait."""
    frames = []
    async with asyncio.timeout(GUARD_S), contextlib.aclosing(service.follow(run, 0, 0.0)) as parts:
        async for part in parts:
            if not part:
                return frames
            frames += part
    raise AssertionError("the run ended")


async def test_without_patience_a_reader_has_all_there_is_and_waits_for_nothing(tmp_path):
    count = TAIL_EVENTS_MAX + 100
    app, halfway, go_on = talkative(count)
    async with (
        member(app, tmp_path, "gateway", poll=60.0) as gateway,
        member(app, tmp_path, "gateway", poll=60.0) as other,
    ):
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await halfway.wait()
        await eventually(lambda: _visible(other, run, count))
        await eventually(lambda: _announced(gateway, run) == count + 2)
        for service in (gateway, other):
            assert [frame.seq for frame in await so_far(service, run)] == list(range(1, count + 3))
        go_on.set()
        assert_one_log(await frames_of(gateway, run))


@pytest.mark.parametrize("count", [3, 700])
async def test_readers_read_the_same_whenever_and_wherever_they_come(tmp_path, count):
    app, halfway, go_on = talkative(count)
    async with (
        member(app, tmp_path, "gateway", poll=0.1) as gateway,
        member(app, tmp_path, "gateway", poll=0.1) as other,
    ):
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        live = [asyncio.ensure_future(frames_of(gateway, run)) for _ in range(3)]
        await halfway.wait()
        await eventually(lambda: _visible(other, run, count))
        seen = [
            *live,
            asyncio.ensure_future(frames_of(gateway, run)),
            asyncio.ensure_future(frames_of(other, run)),
            asyncio.ensure_future(one_by_one(gateway, run)),
            asyncio.ensure_future(one_by_one(other, run)),
        ]
        go_on.set()
        logs = await asyncio.gather(*seen)
        late = [await frames_of(service, run) for service in (gateway, other)]
        whole = late[0]
        for log in [*logs, *late]:
            assert log == whole
        for after in random.Random(1).sample(range(len(whole)), 5):
            assert await frames_of(gateway, run, after) == whole[after:]
            assert await frames_of(other, run, after) == whole[after:]
    assert_one_log(whole)
    assert len(whole) == 2 * count + 6


async def _visible(service, run, count):
    part = await service.process.store.events(run, count)
    return bool(part)


def _announced(service, run):
    """The last number that the writing process announced to readers here: the store has it a moment before."""
    return service.process.feed.topics[run].last


async def test_a_reader_that_has_everything_ends_at_once(tmp_path):
    app, _, go_on = talkative(2)
    go_on.set()
    async with member(app, tmp_path, "local") as service:
        run = (await service.submit(Submission(pipeline="pipe"))).record.id
        whole = await frames_of(service, run)
        for after in (len(whole), len(whole) + 1, 10**9):
            assert await frames_of(service, run, after) == []


async def test_a_slow_reader_misses_nothing_and_costs_bounded_memory(tmp_path):
    app, halfway, go_on = talkative(3 * TAIL_EVENTS_MAX, size=300)
    async with member(app, tmp_path, "gateway") as service:
        run = (await service.submit(Submission(pipeline="pipe"))).record.id
        async with contextlib.aclosing(service.follow(run)) as slow:
            frames = list(await anext(slow))
            await halfway.wait()
            await eventually(lambda: _announced(service, run) == 3 * TAIL_EVENTS_MAX + 2)
            topic = service.process.feed.topics[run]
            assert len(topic.frames) <= TAIL_EVENTS_MAX
            assert topic.size <= TAIL_BYTES_MAX
            go_on.set()
            async for part in slow:
                frames += part
        await eventually(lambda: service.process.feed.unknown(run))
    assert_one_log(frames)
    assert len(frames) == 6 * TAIL_EVENTS_MAX + 6


async def test_silence_yields_an_empty_part_and_loses_nothing(tmp_path):
    app, halfway, go_on = talkative(2)
    async with member(app, tmp_path, "gateway") as service:
        run = (await service.submit(Submission(pipeline="pipe"))).record.id
        await halfway.wait()
        frames, silences = [], 0
        async with asyncio.timeout(GUARD_S), contextlib.aclosing(service.follow(run, idle=0.02)) as parts:
            async for part in parts:
                frames += part
                silences += not part
                if silences == 3:
                    go_on.set()
    assert silences >= 3
    assert_one_log(frames)


class Reads:
    """Counts what a service reads from its store."""

    def __init__(self, service):
        self.looks = 0
        self.of_one_run = 0
        store = service.process.store
        events, get, ahead = store.events, store.get, store.ahead

        async def counted_events(*args, **options):
            self.of_one_run += 1
            return await events(*args, **options)

        async def counted_get(*args):
            self.of_one_run += 1
            return await get(*args)

        async def counted_ahead(positions):
            found = await ahead(positions)
            self.looks += 1
            return found

        store.events, store.get, store.ahead = counted_events, counted_get, counted_ahead

    async def more_looks(self):
        before = self.looks
        await eventually(lambda: self.looks >= before + 3)


async def test_silent_readers_cost_one_look_for_all_of_them(tmp_path):
    app, halfway, go_on = talkative(2)
    async with member(app, tmp_path, "gateway", poll=0.05) as service, asyncio.timeout(GUARD_S):
        run = (await service.submit(Submission(pipeline="pipe"))).record.id
        await halfway.wait()
        waiting = [contextlib.aclosing(service.follow(run, idle=0.02)) for _ in range(5)]
        await eventually(lambda: _announced(service, run) == 4)  # what comes late is no silence
        async with contextlib.AsyncExitStack() as opened:
            readers = [await opened.enter_async_context(one) for one in waiting]
            for reader in readers:
                while await anext(reader):
                    pass  # until there is a silence
            reads = Reads(service)
            seen = [[] for _ in readers]
            silent = [asyncio.ensure_future(parts_of(*each)) for each in zip(readers, seen, strict=True)]
            await reads.more_looks()
            await eventually(lambda: sum(map(len, seen)) > 5)
            assert reads.of_one_run == 0
            go_on.set()
            await asyncio.gather(*silent)
    assert {parts[-1][-1].type for parts in seen} == {"run.completed"}


async def parts_of(reader, seen):
    async for part in reader:
        seen.append(part)


async def test_a_reader_beyond_the_end_is_let_go_when_the_run_ends(tmp_path, monkeypatch):
    """No notification tells it, as nothing is written that it does not have."""
    from offramp.engines.leased.hints import UDPHints

    monkeypatch.setattr(UDPHints, "send", lambda *_: None)
    app, halfway, go_on = talkative(2)
    async with (
        member(app, tmp_path, "gateway", poll=0.05) as gateway,
        member(app, tmp_path, "gateway", poll=0.05) as other,
    ):
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await halfway.wait()
        await eventually(lambda: _visible(other, run, 2))
        reader = asyncio.ensure_future(frames_of(other, run, 10**6))
        await Reads(other).more_looks()
        assert not reader.done()
        go_on.set()
        assert await reader == []


async def test_another_processs_events_arrive_by_hint(tmp_path):
    """No poll comes within the guard: what is read was announced."""
    app, halfway, go_on = talkative(2)
    async with (
        member(app, tmp_path, "gateway", poll=60) as gateway,
        member(app, tmp_path, "gateway", poll=60) as other,
    ):
        await know_each_other(gateway, other)
        run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
        await halfway.wait()
        await eventually(lambda: _visible(other, run, 2))
        reader = asyncio.ensure_future(frames_of(other, run))
        await eventually(lambda: not other.process.feed.unknown(run))
        go_on.set()
        assert_one_log(await reader)


async def test_work_is_taken_by_hint(tmp_path):
    app, _, go_on = talkative(2)
    go_on.set()
    async with (
        member(app, tmp_path, "gateway", poll=60) as gateway,
        member(app, tmp_path, "worker", poll=60) as worker,
    ):
        await know_each_other(gateway, worker)
        run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        assert_one_log(await frames_of(gateway, run))


async def test_without_hints_the_poll_finds_work_and_events(tmp_path, monkeypatch):
    from offramp.engines.leased.hints import UDPHints

    monkeypatch.setattr(UDPHints, "send", lambda *_: None)
    app, _, go_on = talkative(2)
    go_on.set()
    async with (
        member(app, tmp_path, "gateway", poll=0.05) as gateway,
        member(app, tmp_path, "worker", poll=0.05),
    ):
        run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        assert_one_log(await frames_of(gateway, run))


async def test_the_events_of_a_run_past_its_retention_are_gone(tmp_path):
    app, clock = App("kept"), FakeClock()

    @app.pipeline(retention=100)
    async def pipe() -> str:
        return "done"

    async with member(app, tmp_path, "gateway", clock=clock, poll=0.05) as service:
        run = (await service.submit(Submission(pipeline="pipe"))).record.id
        await frames_of(service, run)
        clock.advance(101)
        await eventually(lambda: service.process.feed.unknown(run))
        assert await service.process.store.purge(clock.time()) == 1
        with pytest.raises(RunGone, match="were retained for 100 s"):
            await frames_of(service, run)
        assert (await service.get(run)).purged
        assert (await service.document(run))["steps"] == []


async def test_a_reader_on_another_loop_reads_too(tmp_path):
    app, halfway, go_on = talkative(5)
    async with member(app, tmp_path, "gateway") as service:
        run = (await service.submit(Submission(pipeline="pipe"))).record.id
        here = asyncio.ensure_future(frames_of(service, run))
        await halfway.wait()
        there = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(frames_of(service, run))))
        go_on.set()
        assert await there == await here


async def test_a_gone_reader_leaves_nothing_behind(tmp_path):
    app, halfway, go_on = talkative(2)
    async with member(app, tmp_path, "gateway") as service:
        run = (await service.submit(Submission(pipeline="pipe"))).record.id
        await halfway.wait()
        readers = [asyncio.ensure_future(frames_of(service, run)) for _ in range(5)]
        await eventually(lambda: not service.process.feed.unknown(run) and service.process.feed.topics[run].loops)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert all(not topic.loops for topic in service.process.feed.topics.values())
        go_on.set()
        assert_one_log(await frames_of(service, run))
