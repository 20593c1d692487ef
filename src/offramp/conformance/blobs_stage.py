"""The stage of a case of the blobs suite: a place, the processes that have it open, and the faults it can have."""

from __future__ import annotations

from collections.abc import Awaitable

from offramp.conformance.harness import BlobsHarness
from offramp.core.reference import Reference
from offramp.errors import ObjectsUnavailable
from offramp.ports.blobs import Blobs

RUN, OTHER = "run_00000000000000000000000001", "run_00000000000000000000000002"


class BlobsStage:
    """One case's place."""

    def __init__(self, harness: BlobsHarness, blobs: Blobs) -> None:
        self.harness = harness
        self.blobs = blobs
        self._others: list[Blobs] = []

    @classmethod
    async def open(cls, harness: BlobsHarness) -> BlobsStage:
        """With a place of its own."""
        return cls(harness, await harness.open())

    async def another(self) -> Blobs:
        """Another process at the same place."""
        other = await self.harness.reopen(self.blobs)
        self._others.append(other)
        return other

    async def spoilt(self, reference: Reference, data: bytes | None) -> None:
        """Another program overwrites or removes an object."""
        await self.harness.spoil(self.blobs, reference, data)

    async def close(self) -> None:
        """Every process."""
        for other in self._others:
            other.close()
        await self.harness.close(self.blobs)


async def streamed(blobs: Blobs, reference: Reference) -> list[bytes]:
    """All parts."""
    return [part async for part in blobs.stream(reference)]


async def refusal(work: Awaitable[object]) -> str:
    """The message of an attempt while the place cannot be reached."""
    try:
        await work
    except ObjectsUnavailable as error:
        return str(error)
    raise AssertionError("the place is unavailable, but no error says so")
