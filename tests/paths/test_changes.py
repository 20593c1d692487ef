"""The log of changes, with an injected clock; nothing here waits for a time."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from offramp import SLA, App, testing
from offramp.core.changes import Wanted
from offramp.paths import changes
from offramp.paths.changes import APART_S, KEPT_S, RESET, Changes
from tests.support import GUARD_S, Signal, eventually, reach


def waiting_app(let_go):
    app = App("waiting", classes=[SLA("quick", budget=5.0)])

    @app.step
    async def note(number: int) -> int:
        return number

    @app.step(timeout=None)
    async def hold() -> None:
        await let_go.wait()

    @app.pipeline(sla="quick")
    async def waits() -> str:
        await hold()
        return "done"

    @app.pipeline(sla="quick")
    async def counts() -> int:
        return sum([await note(number) for number in range(3)])

    return app


class Watched:
    """The changes of a runtime whose looks the test makes."""

    def __init__(self, runtime, clock):
        self.runtime, self.clock = runtime, clock
        self.changes = Changes(runtime.service.process)

    async def begin(self, monkeypatch):
        async def nothing(_changes):
            pass

        monkeypatch.setattr(Changes, "keep_looking", nothing)
        return await self.changes.place(None)

    async def look(self, later_s=0.0):
        self.clock.advance(later_s)
        await self.changes.look()

    async def seen(self, after=0, wanted=Wanted()):  # noqa: B008 - immutable
        """What a reader gets at once."""
        found = []
        async with contextlib.aclosing(self.changes.follow(after, wanted, 0.0)) as parts:
            async for part in parts:
                if not part:
                    break
                for frame in part:
                    told = "reset" if frame.data == RESET else msgspec.json.decode(frame.data)
                    found.append((frame.seq, told if told == "reset" else (told["status"], told["path"])))
        return found


@contextlib.asynccontextmanager
async def watched(monkeypatch):
    let_go, clock = Signal(), testing.FakeClock()
    async with testing.runtime(waiting_app(let_go), clock=clock) as runtime:
        made = Watched(runtime, clock)
        made.let_go = let_go
        before = await runtime.start("waits")
        await reach(before, "step.started")
        await made.begin(monkeypatch)
        made.before = before
        yield made
        let_go.set()


async def test_what_was_there_before_is_no_change_and_its_end_is_one(monkeypatch):
    async with watched(monkeypatch) as made:
        await made.look()
        assert await made.seen() == []
        made.let_go.set()
        await made.before.result()
        await made.look(APART_S)
        assert await made.seen() == [(1, ("completed", "fast"))]


async def test_a_run_changes_at_most_four_times_a_second_but_its_end_is_never_lost(monkeypatch):
    async with watched(monkeypatch) as made:
        run = await made.runtime.start("waits")
        await made.look()
        assert await made.seen() == [(1, ("running", "fast"))]
        made.let_go.set()
        await run.result()
        await made.look(APART_S / 2)
        assert await made.seen(1) == [(2, ("completed", "fast"))], "only the run that had not changed yet"
        await made.look(APART_S / 2)
        assert await made.seen(2) == [(3, ("completed", "fast"))]


async def test_a_run_that_came_and_went_between_two_looks_is_reported_once(monkeypatch):
    async with watched(monkeypatch) as made:
        run = await made.runtime.start("counts")
        assert await run.result() == 3
        for _ in range(3):
            await made.look(1.0)
        assert await made.seen(0, Wanted(pipeline="counts")) == [(1, ("completed", "fast"))]
        assert await made.seen(0, Wanted(tenant="acme")) == []


async def test_nothing_is_lost_while_the_store_cannot_be_read(monkeypatch):
    async with watched(monkeypatch) as made:
        await made.look()
        for _ in range(3):
            await (await made.runtime.start("counts")).result()
        await made.look(600.0)
        assert len(await made.seen()) == 3


async def test_more_new_runs_than_one_look_finds_are_found_by_the_next(monkeypatch):
    async with watched(monkeypatch) as made:
        monkeypatch.setattr(changes, "NEW_MAX", 4)
        for _ in range(12):
            made.clock.advance(2.0)
            await (await made.runtime.start("counts")).result()
        for _ in range(6):
            await made.look(0.1)
        assert len(await made.seen(0, Wanted(pipeline="counts"))) == 12


async def test_changes_are_kept_for_an_hour_and_up_to_a_number(monkeypatch):
    async with watched(monkeypatch) as made:
        monkeypatch.setattr(changes, "KEPT_MAX", 3)

        async def one_more(later_s=APART_S):
            made.clock.advance(later_s)
            await (await made.runtime.start("counts")).result()
            await made.look()

        for _ in range(3):
            await one_more()
        assert [number for number, _ in await made.seen()] == [1, 2, 3]
        await one_more()
        assert await made.seen(0) == [(4, "reset")], "one that was removed was skipped in silence"
        assert [number for number, _ in await made.seen(1)] == [2, 3, 4]
        await one_more(KEPT_S + 1)
        last = made.changes.log.last
        assert await made.seen(1) == [(last, "reset")]
        assert [number for number, _ in await made.seen(last - 1)] == [last]
        assert await made.seen(last + 1) == [(last, "reset")], "a number that does not exist yet"


async def test_a_place_in_another_log_is_a_reset(monkeypatch):
    async with watched(monkeypatch) as made:
        await (await made.runtime.start("counts")).result()
        await made.look()
        era, last = await made.changes.place(None)
        assert last == 1
        assert await made.changes.place(era.id_of(0)) == (era, 0)
        for strange in (
            "other-" + "0" * 16,
            f"{era.name}-",
            f"{era.name}-1",
            f"{era.name}-{'9' * 50}",
            "",
            "-",
            "\x00",
        ):
            assert await made.changes.place(strange) == (era, -1), strange
        assert await made.seen(-1) == [(1, "reset")]


async def test_a_reader_that_takes_nothing_costs_no_memory_and_stops_no_other(monkeypatch):
    async with watched(monkeypatch) as made:
        monkeypatch.setattr(changes, "KEPT_MAX", 2)
        slow = made.changes.follow(0, Wanted(), 0.0)
        await (await made.runtime.start("counts")).result()
        await made.look()
        assert len(await anext(slow)) == 1
        for _ in range(5):
            await (await made.runtime.start("counts")).result()
            await made.look(APART_S)
        assert [number for number, _ in await made.seen(4)] == [5, 6]
        (missed,) = await anext(slow)
        assert (missed.seq, missed.data) == (6, RESET)
        await slow.aclose()


async def test_an_unfinished_run_past_the_most_that_are_followed_is_reported_when_it_has_ended(monkeypatch):
    async with watched(monkeypatch) as made:
        monkeypatch.setattr(changes, "KNOWN_MAX", 1)
        run = await made.runtime.start("waits")
        await reach(run, "step.started")
        for _ in range(5):
            await made.look(0.05)
        assert await made.seen() == [], "a run that is not followed was reported as it did not change"
        made.let_go.set()
        await made.before.result()
        await run.result()
        for _ in range(3):
            await made.look(APART_S)
        assert [told for _, told in await made.seen()] == [("completed", "fast")] * 2


async def test_a_run_that_this_process_has_written_to_is_compared_first(monkeypatch):
    async with watched(monkeypatch) as made:
        runs = [await made.runtime.start("waits") for _ in range(6)]
        for run in runs:
            await reach(run, "step.started")
        await made.look()
        last = made.changes.log.last
        monkeypatch.setattr(changes, "CHECKED_MAX", 2)
        reader = made.changes.follow(last, Wanted(), 0.0)
        assert await anext(reader) == []
        await runs[-1].cancel()
        await reach(runs[-1], "run.cancelled")
        await made.look(APART_S)
        assert await made.seen(last) == [(last + 1, ("cancelled", "fast"))]
        await reader.aclose()


async def test_what_nobody_reads_wakes_no_look_and_a_new_reader_does(monkeypatch):
    looks, look = [], Changes.look

    async def counted(log):
        looks.append(log.log.last)
        await look(log)

    monkeypatch.setattr(changes, "LOOK_UNREAD_S", 3600.0)
    monkeypatch.setattr(changes, "LOOK_S_MIN", 0.0)
    monkeypatch.setattr(Changes, "look", counted)
    async with testing.runtime(waiting_app(Signal())) as runtime:
        log = Changes(runtime.service.process)
        _, last = await log.place(None)
        await eventually(lambda: looks)
        for _ in range(5):
            await (await runtime.start("counts")).result()
        assert len(looks) == 1
        async with asyncio.timeout(GUARD_S), contextlib.aclosing(log.follow(last, Wanted(), GUARD_S)) as parts:
            read = 0
            while read < 5:
                read += len(await anext(parts))
