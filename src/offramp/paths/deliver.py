"""From the event log to readers: live, late and resumed ones read the same bytes in the same order.

The feed keeps the newest events of followed runs in memory; a reader that is further behind reads the store, so
memory stays bounded however slow a reader is.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

from offramp.core.events import Frame
from offramp.errors import RunGone, StoreError
from offramp.ports.commit import call_threadsafe
from offramp.ports.store import Batch, Store

FIRST_READER_WITHIN_S = 1.0
"""Who asked for a run follows it within moments, as a rule; later readers find its first events in the store."""
GOLDEN_RATIO = 0.618033988749895
"""Its multiples, without their whole parts, fill the unit interval evenly however many there are."""
TAIL_EVENTS_MAX = 512
TAIL_BYTES_MAX = 256 * 1024
"""How much of a followed run's log is kept in memory, per run."""


class _Reader:
    """Who waits for the next event of a run: the last number it has, and whether the store is known to have more.

    Belongs to one loop; only `behind` is set from elsewhere. Its timer is not moved with each event, but looks when it
    is due whether there was one: a waiting stream costs little, a flowing one nothing.
    """

    __slots__ = ("_due", "_loop", "_timer", "_wait", "after", "behind", "told")

    def __init__(self, after: int, loop: asyncio.AbstractEventLoop) -> None:
        self.after = after
        self.behind = False
        self.told = False
        self._loop = loop
        self._wait: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def tell(self) -> None:
        """There may be something new."""
        self.told = True
        self._go_on()

    def _go_on(self) -> None:
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)

    async def woken(self, seconds: float | None) -> bool:
        """Whether it was told something within that time, from `told = False` on; None for any time.

        A time that is shorter than the one before may be exceeded, as far as that one goes.
        """
        if not self.told:
            self._wait = self._loop.create_future()
            if seconds is not None:
                self._due = self._loop.time() + seconds
                if self._timer is None:
                    self._timer = self._loop.call_at(self._due, self._look)
            try:
                await self._wait
            finally:
                self._wait = None
        return self.told

    def _look(self) -> None:
        self._timer = None
        if self._wait is None:
            return  # the next wait sets it again
        if self._due <= self._loop.time():
            self._go_on()
        else:
            self._timer = self._loop.call_at(self._due, self._look)

    def close(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()


class _Topic:
    """The newest events of one run, and who waits for the next."""

    __slots__ = ("complete", "followed", "frames", "last", "loops", "readers", "run_id", "size")

    def __init__(self, run_id: str, *, complete: bool = False) -> None:
        self.run_id = run_id
        self.complete = complete
        self.followed = False
        self.frames: deque[Frame] = deque()
        self.size = 0
        self.last = 0
        self.readers = 0
        self.loops: dict[asyncio.AbstractEventLoop, set[_Reader]] = {}

    def add(self, batch: Batch) -> None:
        if batch.first != self.last + 1:
            self.frames.clear()  # another process wrote in between; the store has it
            self.size, self.complete = 0, False
        for seq, data in enumerate(batch.frames, start=batch.first):
            self.frames.append(Frame(seq, data))
            self.size += len(data)
            self.last = seq
        while len(self.frames) > TAIL_EVENTS_MAX or (self.size > TAIL_BYTES_MAX and len(self.frames) > 1):
            self.size -= len(self.frames.popleft().data)
            self.complete = False

    def after(self, seq: int) -> list[Frame] | None:
        """What follows `seq`, as far as it is known here; None when the store must be asked."""
        if not self.frames:
            return [] if self.complete else None
        if self.frames[0].seq > seq + 1:
            return None
        # From the end, where readers are as a rule: a deque is indexed in constant time there.
        return [self.frames[-place] for place in range(self.last - seq, 0, -1)]

    def everybody_has(self) -> int:
        """The number up to which every reader has the events; there is a reader."""
        return min([reader.after for readers in self.loops.values() for reader in readers])

    def set_behind(self) -> None:
        """The store has more than some reader."""
        for readers in self.loops.values():
            for reader in readers:
                reader.behind = True

    def over(self) -> bool:
        """Whether the newest event is the terminal one."""
        return bool(self.frames) and self.frames[-1].terminal


class Feed:
    """Wakes readers when events of their run became visible.

    Args:
        follow: told of a run that has readers here and may be written to elsewhere; called with a lock held.
        unfollow: told when one of both is over.
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
        """Whether this process stops, so that nobody waits here any more."""
        self.missed = asyncio.Event()
        """Set when other processes may have written without anybody being told; for the loop that calls `catch_up`."""

    def publish(self, batches: Sequence[Batch]) -> None:
        """Take what this process wrote; called on the store's thread."""
        with self._lock:
            woken = []
            for batch in batches:
                topic = self.topics.get(batch.run_id)
                if topic is not None:
                    topic.add(batch)
                    woken.append(topic)
            self._wake(woken)

    def unknown(self, run_id: str) -> bool:
        """Whether nobody follows the run here."""
        return run_id not in self.topics

    def begun(self, run_id: str) -> None:
        """This process executes the run, and no other writes to it: its events come by `publish`."""
        with self._lock:
            self._here.add(run_id)
            self._show_interest(self.topics.get(run_id))

    def left(self, run_id: str) -> None:
        """Another process may write to it from now on."""
        with self._lock:
            self._here.discard(run_id)
            self._show_interest(self.topics.get(run_id))

    def finished(self, run_id: str) -> None:
        """Nobody writes to it any more."""
        self._here.discard(run_id)  # without the lock, which readers hold who are told of just that

    def _show_interest(self, topic: _Topic | None) -> None:
        if topic is None:
            return
        wanted = bool(topic.loops) and topic.run_id not in self._here and not topic.over()
        if wanted != topic.followed:
            topic.followed = wanted
            (self._follow if wanted else self._unfollow)(topic.run_id)

    def notice(self, run_ids: Sequence[str] | None) -> None:
        """Another process wrote to these runs: their readers look into the store. None if it may be any of them."""
        if run_ids is None:
            self.missed.set()
            return
        with self._lock:
            known = [topic for topic in map(self.topics.get, run_ids) if topic is not None]
            self._wake(known)
            for topic in known:
                if not topic.loops:  # what is kept for the first reader is not all there is
                    del self.topics[topic.run_id]

    async def catch_up(self, store: Store, now: float) -> None:
        """Wake the readers that are behind the store, should a notification be lost; one look for all of them."""
        with self._lock:
            self._expect_no_longer(now)
            positions = {run_id: topic.everybody_has() for run_id, topic in self.topics.items() if topic.loops}
        if not positions:
            return
        ahead = await store.ahead(positions)
        with self._lock:
            topics = [topic for topic in map(self.topics.get, ahead) if topic is not None]
            for topic in topics:
                topic.set_behind()
            self._wake(topics)

    def end(self) -> None:
        """Let every reader end, as this process does."""
        with self._lock:
            self.ended = True
            self._wake(list(self.topics.values()))

    def _first_silence(self, idle: float | None) -> float | None:
        """A half to the whole, evenly spread: readers that came together are not all served together ever after."""
        return None if idle is None else idle * (0.5 + next(self._joined) * GOLDEN_RATIO % 1 / 2)

    @staticmethod
    def _wake(topics: Sequence[_Topic]) -> None:
        wake: dict[asyncio.AbstractEventLoop, list[_Reader]] = {}
        for topic in topics:
            for loop, readers in topic.loops.items():
                wake.setdefault(loop, []).extend(readers)
        for loop, told in wake.items():
            call_threadsafe(loop, _tell_all, told)

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
        """Keep the events of a run that this process is about to create, for a moment; `now` is monotonic."""
        with self._lock:
            topic = self.topics.setdefault(run_id, _Topic(run_id, complete=True))
            topic.readers += 1
            self._expecting.append((now + FIRST_READER_WITHIN_S, topic))
            self._expect_no_longer(now)

    def _expect_no_longer(self, now: float) -> None:
        """A timer for each run would cost more than all else here: the next run, or `catch_up`, lets go of them."""
        while self._expecting and self._expecting[0][0] <= now:
            self._let_go(self._expecting.popleft()[1])

    async def follow(
        self, store: Store, run_id: str, after: int, idle: float | None
    ) -> AsyncGenerator[list[Frame], None]:
        """Events numbered above `after`, in order, until the terminal one.

        Args:
            store: where older events are.
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
                reader.told = False
                behind, reader.behind = reader.behind, False
                with self._lock:
                    frames = topic.after(reader.after)
                    ended = not frames and (self.ended or topic.over())
                if frames is None or (not frames and (look or behind)):
                    frames = await store.events(run_id, reader.after)
                    if not frames and (reader.after or behind) and await _over(store, run_id):
                        frames = await store.events(run_id, reader.after)
                        if not frames:
                            return
                if frames:
                    reader.after, look = frames[-1].seq, False
                    yield frames
                    if frames[-1].terminal:
                        return
                    continue
                if ended:
                    return
                told = await reader.woken(silence)
                while not told:
                    yield []
                    told = await reader.woken(idle)
                look = topic.last <= reader.after
        except StoreError:
            if not self.ended:
                raise
            # The store of a process that stops may be closed by now: the reader goes on elsewhere.
        finally:
            reader.close()
            self._leave(topic, reader, loop)


async def _require_kept(store: Store, run_id: str) -> None:
    record = await store.get(run_id)
    if record is not None and record.purged:
        raise RunGone(f"the events of {run_id} were kept for {record.retention_s:g} s and are removed now")


async def _over(store: Store, run_id: str) -> bool:
    """Whether nothing can follow any more: a reader may have everything, or name a number that was never given."""
    record = await store.get(run_id)
    return record is not None and record.finished


def _tell_all(readers: list[_Reader]) -> None:
    for reader in readers:
        reader.tell()
