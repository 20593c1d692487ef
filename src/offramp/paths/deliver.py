"""Delivery of the event log: live, late and resumed readers get the same bytes in the same order.

The feed keeps the newest events of followed runs in memory; a reader that is further behind reads the store, so
memory stays bounded however slow a reader is.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

from offramp.core.events import Frame, first_bytes
from offramp.errors import RunGone, StoreError
from offramp.ports.commit import call_threadsafe
from offramp.ports.store import EVENTS_READ_BYTES, Batch, Store

FIRST_READER_WITHIN_S = 1.0
"""Seconds in which the client usually begins to follow its run; later readers get the first events from the store."""
GOLDEN_RATIO = 0.618033988749895
"""The fractional parts of its multiples fill the unit interval evenly, whatever their number."""
TAIL_EVENTS_MAX = 512
TAIL_BYTES_MAX = 256 * 1024
"""The part of a followed run's log that stays in memory, per run."""


class _Reader:
    """A reader of a run's events: its last number, and whether the store is known to have more.

    Belongs to one loop; other threads set only `behind`. Events do not move its timer; when due, the timer checks
    whether there was one: a waiting stream costs little, a flowing one nothing.
    """

    __slots__ = ("_due", "_loop", "_timer", "_wait", "after", "behind", "notified")

    def __init__(self, after: int, loop: asyncio.AbstractEventLoop) -> None:
        self.after = after
        self.behind = False
        self.notified = False
        self._loop = loop
        self._wait: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def notify(self) -> None:
        """Wake the reader, as there may be new events."""
        self.notified = True
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)

    async def woken(self, seconds: float | None) -> bool:
        """Whether it was notified within that time, since `notified` was last cleared; None waits without limit.

        A time shorter than the previous one may last as long as that one.
        """
        if not self.notified:
            self._wait = self._loop.create_future()
            if seconds is not None:
                self._due = self._loop.time() + seconds
                if self._timer is None:
                    self._timer = self._loop.call_at(self._due, self._look)
            try:
                await self._wait
            finally:
                self._wait = None
        return self.notified

    def _look(self) -> None:
        self._timer = None
        if self._wait is None:
            return  # the next wait starts it again
        if self._due <= self._loop.time():
            self._wake_up()
        else:
            self._timer = self._loop.call_at(self._due, self._look)

    def close(self) -> None:
        """Cancel the timer: the reader has left."""
        if self._timer is not None:
            self._timer.cancel()


class _Topic:
    """The newest events of one run, and its readers."""

    __slots__ = ("complete", "followed", "frames", "handed_over", "last", "loops", "readers", "run_id", "size")

    def __init__(self, run_id: str, *, complete: bool = False) -> None:
        self.run_id = run_id
        self.complete = complete
        self.followed = False
        self.handed_over = False
        self.frames: deque[Frame] = deque()
        self.size = 0
        self.last = 0
        self.readers = 0
        self.loops: dict[asyncio.AbstractEventLoop, set[_Reader]] = {}

    def add(self, batch: Batch) -> None:
        if batch.first != self.last + 1:
            self.frames.clear()  # another process wrote in between; the store has those events
            self.size, self.complete = 0, False
        for seq, data in enumerate(batch.frames, start=batch.first):
            self.frames.append(Frame(seq, data))
            self.size += len(data)
            self.last = seq
        while len(self.frames) > TAIL_EVENTS_MAX or (self.size > TAIL_BYTES_MAX and len(self.frames) > 1):
            self.size -= len(self.frames.popleft().data)
            self.complete = False

    def after(self, seq: int) -> list[Frame] | None:
        """The known events after `seq`, bounded as a read of the store; None if the store must be asked."""
        if not self.frames:
            return [] if self.complete else None
        if self.frames[0].seq > seq + 1:
            return None
        # From the end, where readers usually are: indexing a deque takes constant time there.
        frames = (self.frames[-place] for place in range(self.last - seq, 0, -1))
        return list(frames) if self.size <= EVENTS_READ_BYTES else first_bytes(frames, EVENTS_READ_BYTES)

    def common_seq(self) -> int:
        """The number up to which every reader has the events; requires a reader."""
        return min([reader.after for readers in self.loops.values() for reader in readers])

    def set_behind(self) -> None:
        """Note that the store has more events than some reader."""
        for readers in self.loops.values():
            for reader in readers:
                reader.behind = True

    def over(self) -> bool:
        """Whether the newest event is the terminal one."""
        return bool(self.frames) and self.frames[-1].terminal


class Feed:
    """Wakes readers when events of their run become visible.

    Args:
        follow: called, with a lock held, for a run that has readers here and may get events from another process.
        unfollow: called when either no longer holds.
    """

    def __init__(
        self, follow: Callable[[str], object] = lambda _: None, unfollow: Callable[[str], object] = lambda _: None
    ) -> None:
        self._follow = follow
        self._unfollow = unfollow
        self._here: set[str] = set()
        self.topics: dict[str, _Topic] = {}
        """What readers follow here, by run."""
        self._expecting: deque[tuple[float, _Topic]] = deque()
        self._joined = itertools.count()
        self._lock = threading.Lock()
        self.ended = False
        """Whether this process is stopping, so that readers must leave."""
        self.missed = asyncio.Event()
        """Set when a notification of other processes may be lost; for the loop that calls `catch_up`."""

    def publish(self, batches: Sequence[Batch]) -> None:
        """Pass on the writes of this process; called on the store's thread."""
        with self._lock:
            woken = []
            for batch in batches:
                topic = self.topics.get(batch.run_id)
                if topic is not None:
                    topic.add(batch)
                    woken.append(topic)
            self._wake(woken)

    def unknown(self, run_id: str) -> bool:
        """Whether the run has no readers here."""
        return run_id not in self.topics

    def begun(self, run_id: str) -> None:
        """Note that only this process writes to the run: its events come through `publish`."""
        with self._lock:
            self._here.add(run_id)
            self._show_interest(self.topics.get(run_id))

    def left(self, run_id: str) -> None:
        """Note that another process may write to the run from now on."""
        with self._lock:
            self._here.discard(run_id)
            self._show_interest(self.topics.get(run_id))

    def finished(self, run_id: str) -> None:
        """Note that no process writes to the run any more."""
        self._here.discard(run_id)  # without the lock, which readers may hold while `unfollow` runs

    def _show_interest(self, topic: _Topic | None) -> None:
        if topic is None:
            return
        wanted = bool(topic.loops) and topic.run_id not in self._here and not topic.over()
        if wanted != topic.followed:
            topic.followed = wanted
            (self._follow if wanted else self._unfollow)(topic.run_id)

    def notice(self, run_ids: Sequence[str] | None) -> None:
        """Let the readers of these runs read the store: another process wrote to them. None stands for any run."""
        if run_ids is None:
            self.missed.set()
            return
        with self._lock:
            known = [topic for topic in map(self.topics.get, run_ids) if topic is not None]
            self._wake(known)
            for topic in known:
                if not topic.loops:  # the events held for the first reader are no longer complete
                    del self.topics[topic.run_id]

    async def catch_up(self, store: Store, now: float) -> None:
        """Wake the readers that are behind the store, in case a notification was lost; one query covers all of them."""
        with self._lock:
            self._expect_no_longer(now)
            positions = {run_id: topic.common_seq() for run_id, topic in self.topics.items() if topic.loops}
        if not positions:
            return
        ahead = await store.ahead(positions)
        with self._lock:
            topics = [topic for topic in map(self.topics.get, ahead) if topic is not None]
            for topic in topics:
                topic.set_behind()
            self._wake(topics)

    def handed_over(self, run_id: str) -> None:
        """End the readers of a run that this process hands over as it stops."""
        with self._lock:
            topic = self.topics.get(run_id)
            if topic is not None:
                topic.handed_over = True
                self._wake([topic])

    def end(self) -> None:
        """End every reader, as this process stops."""
        with self._lock:
            self.ended = True
            self._wake(list(self.topics.values()))

    def _first_silence(self, idle: float | None) -> float | None:
        """Between half of `idle` and all of it, spread evenly: readers that came together do not stay together."""
        return None if idle is None else idle * (0.5 + next(self._joined) * GOLDEN_RATIO % 1 / 2)

    @staticmethod
    def _wake(topics: Sequence[_Topic]) -> None:
        wake: dict[asyncio.AbstractEventLoop, list[_Reader]] = {}
        for topic in topics:
            for loop, readers in topic.loops.items():
                wake.setdefault(loop, []).extend(readers)
        for loop, notified in wake.items():
            call_threadsafe(loop, _notify_all, notified)

    def _join(self, run_id: str, reader: _Reader, loop: asyncio.AbstractEventLoop) -> _Topic:
        with self._lock:
            topic = self.topics.get(run_id)
            if topic is None:
                topic = self.topics[run_id] = _Topic(run_id)
            topic.readers += 1
            topic.loops.setdefault(loop, set()).add(reader)
            self._show_interest(topic)
        return topic

    def _leave(self, topic: _Topic, reader: _Reader, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            topic.loops[loop].discard(reader)
            if not topic.loops[loop]:
                del topic.loops[loop]
            self._show_interest(topic)
            self._let_go(topic)

    def _let_go(self, topic: _Topic) -> None:
        topic.readers -= 1
        if topic.readers == 0 and self.topics.get(topic.run_id) is topic:
            del self.topics[topic.run_id]

    def expect(self, run_id: str, now: float) -> None:
        """Hold the events of a run that this process is about to create, for a moment; `now` is monotonic."""
        with self._lock:
            topic = self.topics.setdefault(run_id, _Topic(run_id, complete=True))
            topic.readers += 1
            self._expecting.append((now + FIRST_READER_WITHIN_S, topic))
            self._expect_no_longer(now)

    def _expect_no_longer(self, now: float) -> None:
        """Let go of late runs. The next run or `catch_up` does so, as a timer for each run would cost too much."""
        while self._expecting and self._expecting[0][0] <= now:
            self._let_go(self._expecting.popleft()[1])

    async def follow(
        self, store: Store, run_id: str, after: int, idle: float | None
    ) -> AsyncGenerator[list[Frame], None]:
        """Events numbered above `after`, in order, until the terminal one.

        Args:
            store: holds the older events.
            run_id: an existing run.
            after: the last number the reader has; 0 from the start.
            idle: seconds without an event after which an empty list is yielded, the first time up to half of that
                earlier; None for never.

        Raises:
            RunGone: the run's events were removed at the end of its retention.
        """
        if self.unknown(run_id):
            await _require_kept(store, run_id)
        loop = asyncio.get_running_loop()
        reader = _Reader(after, loop)
        topic = self._join(run_id, reader, loop)
        try:
            look, silence = not topic.complete, self._first_silence(idle)
            while True:
                reader.notified = False
                behind, reader.behind = reader.behind, False
                with self._lock:
                    frames = topic.after(reader.after)
                    ended = not frames and (self.ended or topic.handed_over or topic.over())
                if frames is None or (not frames and (look or behind)):
                    frames = await store.events(run_id, reader.after)
                    if not frames and (reader.after or behind) and await _over(store, run_id):
                        frames = await store.events(run_id, reader.after)
                        if not frames:
                            return
                if frames:
                    reader.after, look, is_last = frames[-1].seq, False, frames[-1].terminal
                    batch, frames = [frames], None
                    yield batch.pop()  # not kept here while a slow reader takes it
                    if is_last:
                        return
                    continue
                if ended:
                    return
                notified = await reader.woken(silence)
                while not notified:
                    yield []
                    notified = await reader.woken(idle)
                look = topic.last <= reader.after
        except StoreError:
            if not self.ended:
                raise
            # The store of a stopping process may be closed by now: the reader continues in another process.
        finally:
            reader.close()
            self._leave(topic, reader, loop)


async def _require_kept(store: Store, run_id: str) -> None:
    record = await store.get(run_id)
    if record is not None and record.purged:
        raise RunGone(f"the events of {run_id} were retained for {record.retention_s:g} s and are now removed")


async def _over(store: Store, run_id: str) -> bool:
    """Whether the run has ended: a reader may have all its events, or name a number that does not exist."""
    record = await store.get(run_id)
    return record is not None and record.finished


def _notify_all(readers: list[_Reader]) -> None:
    for reader in readers:
        reader.notify()
