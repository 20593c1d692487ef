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

logger = logging.getLogger("offramp")

AGAIN_FIRST_S = 0.2
AGAIN_MOST_S = 5.0
"""Between attempts to reach objects that are away: twice as long each time, up to this."""
READS_AT_ONCE = 4
"""Of one run's values that are read before its body is called again."""

T = TypeVar("T")
Kept = Callable[[bytes, str], Awaitable[bytes]]
"""Of an encoded value and what it is of: what a journal or a record is to hold of it."""


async def as_it_is(encoded: bytes, _what: str) -> bytes:
    """Where nothing is kept elsewhere."""
    return encoded


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

    def of(self, run_id: str) -> Kept:
        """How this run's values are kept: as they are, or as references to what is kept.

        It raises `ObjectsUnavailable` for a value that could not be kept for `patience_s`.
        """
        blobs = self.blobs
        if blobs is None:
            return as_it_is

        async def kept(encoded: bytes, what: str) -> bytes:
            if len(encoded) <= self.above:
                return encoded
            result = f"the result of {what} of {run_id}"
            reference = await self._patiently(lambda: blobs.put(run_id, encoded), result, self.patience_s)
            return reference.encoded()

        return kept

    async def whole(self, kept: bytes) -> bytes:
        """The value that was kept.

        Raises:
            ObjectLost: it is not there any more.
            ObjectsUnavailable: it cannot be told now.
        """
        reference = reference_in(kept)
        return kept if reference is None else await self._configured().get(reference)

    async def whole_entries(self, entries: Sequence[Entry], patience_s: float | None = None) -> list[Entry]:
        """A journal with every value in it.

        Args:
            entries: of the journal.
            patience_s: how long objects may be away; None for any time.

        Raises:
            ObjectLost: one is not there any more; it names the step.
            ObjectsUnavailable: they were away for longer.
        """
        room = asyncio.Semaphore(READS_AT_ONCE)

        async def one(entry: Entry) -> Entry:
            kept = entry.value
            if kept is None or reference_in(kept) is None:
                return entry
            async with room:
                try:
                    value = await self._patiently(lambda: self.whole(kept), f"the result of {entry.name!r}", patience_s)
                except ObjectLost as error:
                    raise ObjectLost(f"the result of step {entry.name!r}: {error}") from error
            return msgspec.structs.replace(entry, value=value)

        if all(reference_in(entry.value) is None for entry in entries):
            return list(entries)
        tasks = [asyncio.ensure_future(one(entry)) for entry in entries]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def stream(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """A kept value in parts; raises as `whole` does."""
        return self._configured().stream(reference)

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

    async def probe(self, name: str) -> None:
        """Write, read and remove a small object, as a run of this name would.

        Raises:
            ObjectLost: something else was read.
            ObjectsUnavailable: one of it did not work.
        """
        if self.blobs is not None:
            await self.blobs.get(await self.blobs.put(name, b'"probe"'))
            await self.blobs.delete([name])

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
                    logger.error("%s waits: %s", what, error)  # noqa: TRY400 - an operator's matter
                told = True
                await sleep_for(clock, wait if ends is None else min(wait, ends - now))
                wait = min(2 * wait, AGAIN_MOST_S)
