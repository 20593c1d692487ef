"""Stores and reads the encoded values of journals and records: large ones become objects, with references to them.

A reference exists only after its object is stored, so no reference in a store dangles.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
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
"""The longest interval between attempts to reach unavailable objects; it doubles each time."""
READS_AT_ONCE = 4
"""The number of one run's values read at the same time: before its body is called again, or for a copy."""

T = TypeVar("T")
StoreValue = Callable[[bytes, str], Awaitable[bytes]]
"""Given an encoded value and its description, returns the bytes that a journal or a record should hold."""


async def as_it_is(encoded: bytes, _what: str) -> bytes:
    """The value itself: for a process without an object store."""
    return encoded


class Values:
    """The large values of a process.

    Args:
        blobs: the object store; None without one: every value stays in its journal or record.
        above: bytes; a larger value becomes an object.
        patience_s: how long a value waits for an unavailable object store.
        clock: time.
    """

    def __init__(self, blobs: Blobs | None, above: int, patience_s: float, clock: Clock) -> None:
        self.blobs = blobs
        self.above = above
        self.patience_s = patience_s
        self._clock = clock

    def of(self, run_id: str) -> StoreValue:
        """Returns the function that stores this run's values: as they are, or as references to objects.

        It raises `ObjectsUnavailable` for a value that could not be stored for `patience_s`.
        """
        blobs = self.blobs
        if blobs is None:
            return as_it_is

        async def stored(encoded: bytes, what: str) -> bytes:
            if len(encoded) <= self.above:
                return encoded
            result = f"the result of {what} of {run_id}"
            reference = await self._patiently(lambda: blobs.put(run_id, encoded), result, self.patience_s)
            return reference.encoded()

        return stored

    async def whole(self, stored: bytes) -> bytes:
        """The whole value behind a stored one.

        Raises:
            ObjectLost: its object no longer exists.
            ObjectsUnavailable: the object store does not answer now.
        """
        reference = reference_in(stored)
        return stored if reference is None else await self._configured().get(reference)

    async def copies(self, entries: Sequence[Entry], run_id: str) -> list[Entry]:
        """A journal for this run: with copies of the objects that its values are stored in; raises as `whole` does.

        No object of it is being written any more when this ends, in whatever way.
        """

        async def one(entry: Entry, held: bytes) -> Entry:
            async with room:
                value = await self.whole(held)
                copied = await _to_its_end(self._configured().put(run_id, value))
            return msgspec.structs.replace(entry, value=copied.encoded())

        made, room = list(entries), asyncio.Semaphore(READS_AT_ONCE)
        places = [place for place, entry in enumerate(made) if reference_in(entry.value) is not None]
        copied = await _all_of(one(made[place], made[place].value or b"") for place in places)
        for place, entry in zip(places, copied, strict=True):
            made[place] = entry
        return made

    async def forget(self, run_id: str) -> None:
        """Remove what was stored for a run that was not accepted.

        Raises:
            ObjectsUnavailable: some of it may be left.
        """
        if self.blobs is not None:
            await self.blobs.delete([run_id])

    async def whole_entries(self, entries: Sequence[Entry], patience_s: float | None = None) -> list[Entry]:
        """A journal with every value in it.

        Args:
            entries: the entries of the journal.
            patience_s: how long the object store may be unavailable; None for any time.

        Raises:
            ObjectLost: an object no longer exists; the error names the step.
            ObjectsUnavailable: the object store was unavailable for longer.
        """
        room = asyncio.Semaphore(READS_AT_ONCE)

        async def one(entry: Entry) -> Entry:
            held = entry.value
            if held is None or reference_in(held) is None:
                return entry
            async with room:
                try:
                    value = await self._patiently(lambda: self.whole(held), f"the result of {entry.name!r}", patience_s)
                except ObjectLost as error:
                    raise ObjectLost(f"the result of step {entry.name!r}: {error}") from error
            return msgspec.structs.replace(entry, value=value)

        if all(reference_in(entry.value) is None for entry in entries):
            return list(entries)
        return await _all_of(one(entry) for entry in entries)

    def stream(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """A stored value in parts; raises as `whole` does."""
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
            ObjectLost: the read returned other bytes.
            ObjectsUnavailable: one of these failed.
        """
        if self.blobs is not None:
            await self.blobs.get(await self.blobs.put(name, b'"probe"'))
            await self.blobs.delete([name])

    async def _patiently(self, ask: Callable[[], Awaitable[T]], what: str, patience_s: float | None) -> T:
        """Retry until it succeeds; logs the first failure."""
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


async def _all_of(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """All results; the first failure ends the rest, which have ended when it is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_its_end(work: Coroutine[None, None, T]) -> T:
    """The result of work that no cancellation interrupts: the first is raised once the work has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
