"""The changes of all runs, whichever process executes them, for the readers of this process.

While there is a reader, and for an hour after, this process compares the store with what it knew: the unfinished runs
by the number of their last event, and new runs by their ids. A reader gets no queue of its own but a place in one log,
so a slow one costs nothing, and learns that it missed changes when its place has been removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import chain, islice

from offramp.core.changes import Change, Era, Wanted, changes
from offramp.core.events import Frame
from offramp.core.run import OUTCOMES, Path, RunHead, accepted_at, first_id
from offramp.errors import StoreError
from offramp.paths.process import Process
from offramp.ports.commit import call_threadsafe
from offramp.ports.parts import Part
from offramp.ports.store import Batch

logger = logging.getLogger("offramp")

KEPT_S = 3_600.0
"""Seconds for which a change is kept for readers that come back."""
KEPT_MAX = 100_000
"""Changes that are kept."""
APART_S = 0.25
"""Seconds between two changes of a run, unless it has ended or changed its path."""
LOOK_S, LOOK_UNREAD_S, LOOK_S_MIN = 0.25, 1.0, 0.05
"""Seconds between two looks: with readers, without, and at least, when this process writes for readers."""
NEW_WITHIN_S = 6.0
"""Seconds after which a new run is visible in every process; clocks may differ by a part of it."""
NEW_MAX = 5_000
"""New runs that one look finds."""
OVERLAP_S = 1.0
"""Seconds by which two looks overlap that find as many."""
UNFINISHED_EVERY_S = 5.0
"""The interval at which unfinished runs are looked for that were not found by their ids."""
KNOWN_MAX = 50_000
"""Unfinished runs that are followed."""
CHECKED_MAX = 1_000
"""Followed runs that one look compares."""
PART_MAX = 500
"""Changes that a reader gets at a time."""
RESET = b""
"""Stands for changes that a reader has missed."""


class _Known:
    """A followed run: its last event and path, as reported at a monotonic time."""

    __slots__ = ("path", "reported_at", "seq")

    def __init__(self, head: RunHead, reported_at: float) -> None:
        self.seq, self.path, self.reported_at = head.seq, head.path, reported_at


class _Reader:
    """Wakes one reader on its loop."""

    def __init__(self) -> None:
        self._loop, self.woken = asyncio.get_running_loop(), asyncio.Event()

    def wake(self) -> None:
        call_threadsafe(self._loop, self.woken.set)


class Log:
    """The last changes, numbered from 1; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._retained: list[tuple[float, Change]] = []
        self._first = 1

    @property
    def last(self) -> int:
        """The number of the newest change; 0 before any."""
        return self._first + len(self._retained) - 1

    def add(self, new: Iterable[Change], now: float) -> None:
        """Add changes, and remove those that are too many or too old; `now` is monotonic."""
        with self._lock:
            self._retained += [(now, change) for change in new]
            spare = max(0, len(self._retained) - KEPT_MAX)
            while spare < len(self._retained) and self._retained[spare][0] < now - KEPT_S:
                spare += 1
            del self._retained[:spare]
            self._first += spare

    def after(self, number: int) -> list[Change] | None:
        """The next changes after this number, at most `PART_MAX`; None if they are no longer kept, or are not yet."""
        with self._lock:
            if not self._first - 1 <= number <= self.last:
                return None
            start = number - self._first + 1
            return [change for _, change in self._retained[start : start + PART_MAX]]


class Changes(Part):
    """Looks for changes while they are read.

    Args:
        process: this process.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.log = Log()
        self.is_over = False
        self._era = Era()
        self._known: dict[str, _Known] = {}
        self._ended: dict[str, float] = {}
        self._readers: set[_Reader] = set()
        self._wrote: set[str] = set()
        """The runs that this process has written to since they were compared."""
        self._left_at = -math.inf
        self._looked_at = 0.0
        self._unfinished_at = -math.inf
        self._wake = asyncio.Event()
        self._is_looking = False
        self._beginning = asyncio.Lock()
        process.store.listen(self._written)

    async def drain(self) -> None:
        """End the readers, which continue in another process."""
        self.is_over = True
        for reader in tuple(self._readers):
            reader.wake()

    def _written(self, batches: Sequence[Batch]) -> None:
        if self._readers:
            self._wrote.update(batch.run_id for batch in batches)
            self._process.control.call(self._wake.set)

    async def place(self, last_id: str | None) -> tuple[Era, int]:
        """The log that a new reader reads, and the number after which it begins; -1 if it has missed changes.

        Args:
            last_id: the id of the last change that it has; None for changes from now on.

        Raises:
            StoreError: the store cannot be read.
        """
        await self._process.control.run(self._begin())
        if last_id is None:
            return self._era, self.log.last
        return self._era, self._era.number_in(last_id)

    async def follow(self, after: int, wanted: Wanted, idle: float) -> AsyncGenerator[list[Frame], None]:
        """Changes after a number, as frames with their numbers; an empty list after `idle` seconds without any.

        A frame of `RESET` says that changes are missing before the next one. Ends when this process stops.
        """
        reader, loop = _Reader(), asyncio.get_running_loop()
        if not self._readers:
            self._process.control.call(self._wake.set)
        self._readers.add(reader)
        said_at = loop.time()
        try:
            while True:
                reader.woken.clear()
                part = self.log.after(after)
                if part is None:
                    after = self.log.last
                    found = [Frame(after, RESET)]
                else:
                    numbered = enumerate(part, start=after + 1)
                    found = [Frame(n, change.encoded()) for n, change in numbered if wanted.fits(change.head)]
                    after += len(part)
                if found or loop.time() >= said_at + idle:
                    said_at = loop.time()
                    yield found
                elif part:
                    await asyncio.sleep(0)  # others have their turn, however much is skipped
                elif self.is_over:
                    return
                else:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.woken.wait(), max(0.0, said_at + idle - loop.time()))
        finally:
            self._readers.discard(reader)
            self._left_at = self._process.clock.monotonic()

    async def _begin(self) -> None:
        """Begin to look, unless that has begun; what is there already is not a change."""
        async with self._beginning:
            self._left_at = self._process.clock.monotonic()
            if self._is_looking or self.is_over:
                return
            store, now = self._process.store, self._process.clock.monotonic()
            self._looked_at = self._process.clock.time()
            self._ended = dict.fromkeys(await self._new_ids(), now)
            self._known = {head.id: _Known(head, -math.inf) for head in await store.unfinished(KNOWN_MAX)}
            for run_id in self._known:
                self._ended.pop(run_id, None)
            self._era = Era(self._process.clock.random_bytes(4).hex(), self._process.clock.random_bytes(16))
            self.log = Log()
            self._is_looking = True
            self._process.control.spawn(self.keep_looking())

    async def _new_ids(self) -> Sequence[str]:
        """The ids of runs that were not visible when this was asked before, among others."""
        now = self._process.clock.time()
        found = await self._process.store.ids_after(first_id(self._looked_at - NEW_WITHIN_S), NEW_MAX)
        # The rest of many comes next time, which has to begin later than this time.
        self._looked_at = now if len(found) < NEW_MAX else accepted_at(found[-1]) + NEW_WITHIN_S - OVERLAP_S
        return found

    async def keep_looking(self) -> None:
        """Look until there has been no reader for `KEPT_S`."""
        clock = self._process.clock
        while not self.is_over and (self._readers or clock.monotonic() < self._left_at + KEPT_S):
            try:
                await self.look()
            except StoreError as error:
                logger.warning("changes of runs are late: %s", error)
            self._wake.clear()
            await asyncio.sleep(LOOK_S_MIN)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), (LOOK_S if self._readers else LOOK_UNREAD_S) - LOOK_S_MIN)
        self._is_looking = False
        self._known, self._ended, self._wrote, self.log = {}, {}, set(), Log()

    async def look(self) -> None:
        """Compare the store with what is known, and report what has changed.

        Raises:
            StoreError: the store cannot be read.
        """
        store, now, read_at = self._process.store, self._process.clock.monotonic(), self._process.clock.time()
        positions = self._compared(now)
        ahead = await store.ahead(positions) if positions else []
        for run_id in positions:  # to the end, so that each has its turn
            self._known[run_id] = self._known.pop(run_id)
        new = [run_id for run_id in await self._new_ids() if self._is_new(run_id)]
        heads = list(await store.heads([*ahead, *new])) if ahead or new else []
        missing = set(ahead) - {head.id for head in heads}
        if now >= self._unfinished_at + UNFINISHED_EVERY_S:
            self._unfinished_at = now
            found = {head.id for head in heads}
            heads += [
                head for head in await store.unfinished(KNOWN_MAX) if self._is_new(head.id) and head.id not in found
            ]
        for run_id in missing:
            del self._known[run_id]
        self._report(heads, now, read_at)

    def _compared(self, now: float) -> dict[str, int]:
        """The last known events of the followed runs whose turn it is: first those that this process has written to."""
        due = {run_id: known.seq for run_id, known in self._known.items() if now >= known.reported_at + APART_S}
        wrote = list(self._wrote)
        first = islice((run_id for run_id in wrote if run_id in due), CHECKED_MAX // 2)  # the others have turns too
        chosen = dict.fromkeys(islice(chain(first, due), CHECKED_MAX))
        self._wrote.difference_update(run_id for run_id in wrote if run_id in chosen or run_id not in self._known)
        return {run_id: due[run_id] for run_id in chosen}

    def _is_new(self, run_id: str) -> bool:
        return run_id not in self._known and run_id not in self._ended

    def _report(self, heads: Sequence[RunHead], now: float, read_at: float) -> None:
        found: list[Change] = []
        for head in heads:
            known, has_ended = self._known.pop(head.id, None), head.status in OUTCOMES
            if not has_ended and len(self._known) >= KNOWN_MAX:
                continue  # reported when there is room to follow it, or when it has ended
            path: Path | None = None if known is None else known.path
            found += changes(path, head, read_at)
            if has_ended:
                self._ended[head.id] = now
            else:
                self._known[head.id] = _Known(head, now)
        self._ended = {run_id: at for run_id, at in self._ended.items() if now < at + 2 * NEW_WITHIN_S}
        self.log.add(found, now)
        if found:
            for reader in tuple(self._readers):
                reader.wake()
