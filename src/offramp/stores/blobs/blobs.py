"""The blobs port over any place that reads and writes named bytes: references, checksums, parts, threads.

Places block and know no checksums; everything that they share is here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from offramp.core.reference import Reference, reference_to
from offramp.errors import ObjectLost, ObjectsUnavailable
from offramp.ports.blobs import PART_BYTES_MAX, Blobs

THREADS = 16
"""Concurrent reads and writes of one process."""

T = TypeVar("T")


class Missing(Exception):
    """No object has that name."""


class Place(Protocol):
    """A place of objects. Every method blocks for a bounded time and raises `ObjectsUnavailable` if the place fails."""

    @property
    def where(self) -> str:
        """Its name in logs."""

    def write(self, key: str, data: bytes) -> None:
        """Store these bytes durably under this name, whole or not at all."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """At most so many bytes from a position on; none past the end.

        Raises:
            Missing: there is no such object.
        """

    def clear(self, run_ids: Sequence[str]) -> None:
        """Remove every object whose name begins with one of these and a slash."""


class PlacedBlobs(Blobs):
    """See the port.

    Args:
        place: holds the objects.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        # Blocking calls in threads of our own, even if the place's library has async ones: Rust code may call into an
        # event loop, or an interpreter, that has already ended.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="offramp-objects")

    @property
    def where(self) -> str:
        """The place."""
        return self.place.where

    async def put(self, run_id: str, data: bytes) -> Reference:
        """Store bytes under their checksum."""
        reference = reference_to(run_id, data)
        await self._blocking(lambda: self.place.write(reference.key, data))
        return reference

    async def get(self, reference: Reference) -> bytes:
        """The whole, checked."""

        def whole() -> bytes:
            with _ObjectLostIfMissing(reference, self.where):
                data = self.place.read(reference.key, 0, reference.size + 1)  # the one byte more must be missing
            _require_same(reference, len(data), hashlib.sha256(data).hexdigest(), self.where)
            return data

        return await self._blocking(whole)

    async def stream(self, reference: Reference) -> AsyncGenerator[bytes, None]:
        """Yield part by part: each once the next one is read, the last once the checksum is verified."""
        digest, start = hashlib.sha256(), 0

        def part() -> bytes:
            with _ObjectLostIfMissing(reference, self.where):
                data = self.place.read(reference.key, start, min(PART_BYTES_MAX, reference.size - start + 1))
            digest.update(data)
            end = start + len(data)
            if end >= reference.size or not data:
                _require_same(reference, end, digest.hexdigest(), self.where)
            return data

        while True:
            data = await self._blocking(part)
            start += len(data)
            yield data
            if start >= reference.size:
                return

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Remove all objects of these runs."""
        if run_ids:
            await self._blocking(lambda: self.place.clear(run_ids))

    def close(self) -> None:
        """Refuse further work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _blocking(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:  # the pool was shut down
            raise ObjectsUnavailable(f"objects in {self.where}: this process is stopping") from error


class _ObjectLostIfMissing:
    """Name the missing object and its place."""

    def __init__(self, reference: Reference, where: str) -> None:
        self._reference = reference
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Missing):
            raise ObjectLost(
                f"object {self._reference.key} is not in {self._where}: it was removed before its run, as a "
                "lifecycle rule of the bucket may, or --objects names another place than where it was written"
            ) from None


def _require_same(reference: Reference, size: int, digest: str, where: str) -> None:
    if size != reference.size:
        raise _changed(
            reference, f"it had {reference.size} bytes, and has {'more' if size > reference.size else size}", where
        )
    if digest != reference.sha256:
        raise _changed(reference, f"its SHA-256 is {digest} now", where)


def _changed(reference: Reference, what: str, where: str) -> ObjectLost:
    return ObjectLost(f"object {reference.key} in {where} differs from what was written: {what}")
