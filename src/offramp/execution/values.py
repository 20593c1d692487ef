"""Encoded values on their way to a journal or a record, and back: large ones become objects, and references to them.

A reference is handed out only when its object is kept, so what a store has never refers to nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from offramp.core.journal import Entry
from offramp.core.reference import Reference, reference_in
from offramp.errors import ObjectLost, ObjectsUnavailable
from offramp.execution.waiting import sleep_for
from offramp.ports.blobs import Blobs
from offramp.ports.clock import Clock

log = logging.getLogger("offramp")

AGAIN_FIRST_S = 0.2
AGAIN_MOST_S = 5.0
"""Between attempts to reach objects that are away: twice as long each time, up to this."""
READS_AT_ONCE = 4
"""Of one run's values that are read before its body is called again."""

T = TypeVar("T")


class Values:
    """What a process does with large values.

    Args:
        blobs: where they are kept; None where nothing is configured, and then every value stays where it is.
        above: bytes; a value with more is large.
        patience_s: how long a value waits for objects that are away before that is given up.
        clock: time.
    """

    def __init__(self, blobs: Blobs | None, above: int, patience_s: float, clock: Clock) -> None:
        self.blobs = blobs
        self.above = above
        self.patience_s = patience_s
        self._clock = clock

    async def kept(self, run_id: str, encoded: bytes, what: str) -> bytes:
        """The value itself, or the reference to it once it is kept.

        Args:
            run_id: whose it is.
            encoded: JSON.
            what: how a log calls it.

        Raises:
            ObjectsUnavailable: it could not be kept for `patience_s`.
        """
        blobs = self.blobs
        if blobs is None or len(encoded) <= self.above:
            return encoded
        reference = await self._patiently(lambda: blobs.put(run_id, encoded), f"{what} of {run_id}", self.patience_s)
        return reference.encoded()

    async def whole(self, kept: bytes) -> bytes:
        """The value that was kept.

        Raises:
            ObjectLost: it is not there any more.
            ObjectsUnavailable: it cannot be told now.
        """
        reference = reference_in(kept)
        return kept if reference is None else await self._configured().get(reference)

    async def whole_entries(self, entries: Sequence[Entry]) -> list[Entry]:
        """A journal with every value in it, however long its objects are away.

        Raises:
            ObjectLost: one is not there any more; it names the step.
        """
        room = asyncio.Semaphore(READS_AT_ONCE)

        async def one(entry: Entry) -> Entry:
            kept = entry.value
            if kept is None or reference_in(kept) is None:
                return entry
            async with room:
                try:
                    value = await self._patiently(lambda: self.whole(kept), f"the result of {entry.name!r}", None)
                except ObjectLost as error:
                    raise ObjectLost(f"the result of step {entry.name!r}: {error}") from error
            return msgspec.structs.replace(entry, value=value)

        if all(reference_in(entry.value) is None for entry in entries):
            return list(entries)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(entry)) for entry in entries]
        return [task.result() for task in tasks]

    def stream(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """A kept value in parts; raises as `whole` does."""
        return self._configured().stream(reference)

    def reading(self) -> Values:
        """The same, where nothing may be written."""
        return Values(None, 0, 0.0, self._clock) if self.blobs is None else _Reading(self.blobs, self._clock)

    def close(self) -> None:
        """Begin nothing more."""
        if self.blobs is not None:
            self.blobs.close()

    def _configured(self) -> Blobs:
        if self.blobs is None:
            raise ObjectsUnavailable(
                "a value is in an object store, and none is configured here: give this process the --objects that "
                "the others have"
            )
        return self.blobs

    async def _patiently(self, ask: Callable[[], Awaitable[T]], what: str, patience_s: float | None) -> T:
        """Ask until it works; the first refusal goes to the log."""
        clock, wait, told = self._clock, AGAIN_FIRST_S, False
        ends = None if patience_s is None else clock.monotonic() + patience_s
        while True:
            try:
                return await ask()
            except ObjectsUnavailable as error:
                now = clock.monotonic()
                if ends is not None and now >= ends:
                    raise
                if not told:
                    log.error("%s waits: %s", what, error)  # noqa: TRY400 - an operator's matter
                told = True
                await sleep_for(clock, wait if ends is None else min(wait, ends - now))
                wait = min(2 * wait, AGAIN_MOST_S)


class _Reading(Values):
    """Values that are only read."""

    def __init__(self, blobs: Blobs, clock: Clock) -> None:
        super().__init__(blobs, 0, 0.0, clock)

    async def kept(self, run_id: str, encoded: bytes, what: str) -> bytes:
        """As it is."""
        return encoded
