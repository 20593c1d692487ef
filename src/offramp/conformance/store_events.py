"""Cases of the event log: numbers, the end, listeners and readers (S4, S5, S7, S10, S15)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from offramp.conformance.case import case, until
from offramp.conformance.sample import DONE, NOW, completed, delta, entry, started
from offramp.conformance.store_stage import StoreStage, claimed_one, count_of, frames_of, numbers_of, refused
from offramp.core.events import Frame, decode
from offramp.core.run import RunRecord
from offramp.ports.store import EVENTS_READ_BYTES, Batch, Store

ANSWER_S = 5.0
"""Seconds that a listener waits for a read of the store."""


@case("S4")
async def events_are_numbered_from_one_without_a_gap(stage: StoreStage) -> None:
    run, log = await stage.running()
    for number in range(100):
        log.append(entry(number) if number % 3 else None, started(number) if number % 2 else delta("x"))
        log.append(entry(1000 + number), None)
    await log.durable()
    assert await numbers_of(stage.store, run) == list(range(1, 102))


@case("S4")
async def an_event_keeps_its_number_and_its_bytes(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    seen: list[Frame] = []
    for number in range(10):
        log.append(None, started(number))
        await log.durable()
        now = await frames_of(peer.store, run)
        assert now[: len(seen)] == seen, f"events changed after they were visible: {seen} became {now}"
        seen = now
    assert [decode(frame.data).seq for frame in seen] == [frame.seq for frame in seen]
    assert [decode(frame.data).run_id for frame in seen] == [run.id] * len(seen)


@case("S4")
async def numbers_go_on_where_the_owner_before_stopped(stage: StoreStage) -> None:
    peer = await stage.peer()
    run, log = await stage.running()
    log.append(None, started(1))
    await log.durable()
    await stage.leases.release(log.lease)
    claim = await claimed_one(peer.leases, "b")
    other = peer.store.log(claim.lease)
    other.append(None, started(2))
    await other.durable()
    await peer.leases.release(claim.lease)
    claim = await claimed_one(stage.leases, "a")
    await stage.store.log(claim.lease).finish(DONE, completed(), NOW)
    assert await numbers_of(peer.store, run) == [1, 2, 3, 4]


@case("S5")
async def outcome_and_terminal_event_are_visible_together(stage: StoreStage) -> None:
    run, log = await stage.running()
    log.append(entry(1), started(1))
    await log.finish(DONE, completed(), NOW + 1)
    stored = await stage.stored(run)
    assert (stored.status, stored.result, stored.finished_at) == ("completed", b'"done"', NOW + 1)
    assert [frame.type for frame in await frames_of(stage.store, run)][-1] == "run.completed"


@case("S5")
async def after_the_terminal_event_nothing_is_appended(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    log.append(entry(1), started(1))
    await refused(log.durable(), "an append to a run that has ended")
    assert await count_of(stage.store, run) == 2
    assert await stage.store.journal(run.id) == []


@case("S5")
async def a_run_ends_once(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    await refused(log.finish(DONE, completed(), NOW + 1), "a second outcome")
    stored = await stage.stored(run)
    assert stored.finished_at == NOW, "a second outcome took the place of the first"
    assert await count_of(stage.store, run) == 2


@case("S5")
async def a_run_that_has_ended_is_nobodys(stage: StoreStage) -> None:
    run, log = await stage.running()
    await log.finish(DONE, completed(), NOW)
    await refused(stage.leases.release(log.lease), "a release of a run that has ended")
    assert await stage.leases.retire("a") == 0, "a run that has ended still has an owner"
    assert (await stage.stored(run)).status == "completed"


class _Audience:
    """A listener that checks, during each call, whether a reader in another process sees the event already."""

    def __init__(self, reader: Store) -> None:
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self.received: list[tuple[int, bytes]] = []
        self.unseen: list[int] = []
        self._looks: list[asyncio.Task[None]] = []

    def __call__(self, batches: list[Batch]) -> None:
        for batch in batches:
            last = batch.first + len(batch.frames) - 1
            self._look(last, self._reader.events(batch.run_id, last - 1))
            self.received += [(batch.first + place, data) for place, data in enumerate(batch.frames)]

    def _look(self, seq: int, reading: Coroutine[Any, Any, list[Frame]]) -> None:
        async def look() -> None:
            if seq not in [frame.seq for frame in await reading]:
                self.unseen.append(seq)

        looking = look()
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if not here:
            asyncio.run_coroutine_threadsafe(looking, self._loop).result(ANSWER_S)
            return
        try:
            looking.send(None)
        except StopIteration:
            return
        # A store that calls listeners on this loop and reads with it: the read cannot end before the listener returns.
        looking.close()
        self._looks.append(self._loop.create_task(look()))

    async def complete(self, count: int) -> list[int]:
        """Wait for so many events; returns those that no reader could see when the listener was called."""
        await until(lambda: len(self.received) >= count)
        await asyncio.gather(*self._looks)
        return self.unseen


async def _performance(stage: StoreStage) -> tuple[RunRecord, _Audience]:
    audience = _Audience((await stage.peer()).store)
    stage.store.listen(audience)
    run, log = await stage.running()
    for number in range(20):
        log.append(None, delta(str(number)))
        if number % 7 == 0:
            await log.durable()
    await log.finish(DONE, completed(), NOW)
    return run, audience


@case("S7")
async def listeners_hear_what_everybody_can_see(stage: StoreStage) -> None:
    run, audience = await _performance(stage)
    unseen = await audience.complete(len(await frames_of(stage.store, run)))
    assert not unseen, f"delivered to a listener before another process could read them: events {unseen}"


@case("S7")
async def listeners_hear_every_event_once_and_in_order(stage: StoreStage) -> None:
    run, audience = await _performance(stage)
    stored = [(frame.seq, frame.data) for frame in await frames_of(stage.store, run)]
    await audience.complete(len(stored))
    assert audience.received == stored, f"expected {stored}, got {audience.received}"


@case("S10")
async def events_are_read_from_where_the_reader_was(stage: StoreStage) -> None:
    run, log = await stage.running()
    for number in range(9):
        log.append(None, started(number))
    await log.durable()
    whole = await frames_of(stage.store, run)
    for after in range(11):
        rest = await frames_of(stage.store, run, after)
        assert rest == whole[after:], f"after {after} came {[frame.seq for frame in rest]}"


@case("S10")
async def deltas_are_skipped_without_renumbering(stage: StoreStage) -> None:
    run, log = await stage.running()
    for number in range(3):
        log.append(None, started(number))
        for text in "abc":
            log.append(None, delta(text))
    await log.durable()
    kept = [frame for frame in await frames_of(stage.store, run) if frame.type != "step.delta"]
    assert await frames_of(stage.store, run, skip_deltas=True) == kept
    assert await frames_of(stage.store, run, kept[-2].seq, skip_deltas=True) == kept[-1:]


@case("S10")
async def a_long_log_does_not_come_in_one_piece(stage: StoreStage) -> None:
    run, log = await stage.running()
    for _ in range(4_000):
        log.append(None, delta("x" * 1_000))
    await log.durable()
    first = await stage.store.events(run.id, 0)
    size = sum(len(frame.data) for frame in first[:-1])
    assert first, "one read gave nothing"
    assert size < EVENTS_READ_BYTES, f"one read gave {len(first)} of 4,001 events: more than {size} bytes"
    assert await count_of(stage.store, run) == 4_001


@case("S10")
async def line_breaks_in_an_event_make_no_second_one(stage: StoreStage) -> None:
    text = "one\ntwo\r\n\u2028three"
    run, log = await stage.running()
    log.append(None, delta(text))
    await log.durable()
    frames = await stage.store.events(run.id, 1)
    assert [decode(frame.data).data["delta"] for frame in frames] == [text]


@case("S15")
async def only_readers_that_are_behind_have_to_look(stage: StoreStage) -> None:
    runs = [await stage.running() for _ in range(30)]
    for run, log in runs:
        log.append(None, started(1))
        await log.durable()
        assert await count_of(stage.store, run) == 2
    positions = {run.id: place % 3 for place, (run, _) in enumerate(runs)}
    behind = {run_id for run_id, position in positions.items() if position < 2}
    assert set(await stage.store.ahead(positions)) == behind
    assert not await stage.store.ahead({})


@case("S15")
async def a_reader_of_what_has_ended_or_is_unknown_has_to_look(stage: StoreStage) -> None:
    run, log = await stage.running()
    far = {run.id: 1_000}
    assert not await stage.store.ahead(far), "nothing follows yet, and the run goes on"
    await log.finish(DONE, completed(), NOW)
    assert list(await stage.store.ahead(far)) == [run.id]
    assert list(await stage.store.ahead({"run_unknown": 0})) == ["run_unknown"]
