"""Places for objects with one bug each, in memory."""

from __future__ import annotations

import itertools

from offramp.core.reference import Reference
from offramp.errors import ObjectLost, ObjectsUnavailable
from offramp.ports.blobs import PART_BYTES_MAX
from offramp.stores.blobs.blobs import Missing, PlacedBlobs
from tests.conformance.blobs import CutMemory
from tests.conformance.broken.marks import breaks


@breaks("B1")
class Temporary(PlacedBlobs):
    """What a process has put goes when the process does."""

    async def put(self, run_id, data):
        made = await super().put(run_id, data)
        self._mine = {*getattr(self, "_mine", ()), made.key}
        return made

    def close(self):
        super().close()
        for key in getattr(self, "_mine", ()):
            self.place.objects.pop(key, None)


@breaks("B1")
class Nameless(PlacedBlobs):
    """The reference tells another sum."""

    async def put(self, run_id, data):
        made = await super().put(run_id, data)
        return Reference(made.key, made.size, "0" * 64)

    async def get(self, reference):
        return await super().get(Reference(reference.key, reference.size, reference.key.rpartition("/")[2]))

    async def stream(self, reference):
        async for part in super().stream(Reference(reference.key, reference.size, reference.key.rpartition("/")[2])):
            yield part


@breaks("B2")
class Numbered(PlacedBlobs):
    """Each put is an object of its own."""

    _numbers = itertools.count()

    async def put(self, run_id, data):
        made = await super().put(run_id, data)
        key = f"{made.key}-{next(self._numbers)}"
        self.place.write(key, data)
        self.place.objects.pop(made.key, None)
        return Reference(key, made.size, made.sha256)


@breaks("B3")
class Trusting(PlacedBlobs):
    """Whatever is there is given."""

    async def get(self, reference):
        try:
            return await self._blocking(lambda: self.place.read(reference.key, 0, reference.size))
        except Missing:
            raise ObjectLost("gone") from None


@breaks("B3")
class Careless(PlacedBlobs):
    """The size is looked at, the sum is not."""

    async def get(self, reference):
        try:
            return await super().get(reference)
        except ObjectLost:
            data = self.place.objects.get(reference.key)
            if data is None or len(data) != reference.size:
                raise
            return data


@breaks("B4")
class Hasty(PlacedBlobs):
    """Each part is given as it comes, and the sum looked at afterwards."""

    async def stream(self, reference):
        start = 0
        whole = self.get(reference)
        while start < reference.size:
            data = self.place.objects.get(reference.key, b"")[start : start + PART_BYTES_MAX]
            if self.place.away or not data:
                break
            start += len(data)
            yield data
        if not start:
            yield await whole
        else:
            await whole


@breaks("B4")
class AllAtOnce(PlacedBlobs):
    """A stream of one part, however large."""

    async def stream(self, reference):
        yield await self.get(reference)


@breaks("B4")
class NeverLooked(PlacedBlobs):
    """A stream that no code checks."""

    async def stream(self, reference):
        for start in range(0, reference.size, PART_BYTES_MAX):
            try:
                yield await self._blocking(lambda at=start: self.place.read(reference.key, at, PART_BYTES_MAX))
            except Missing:
                raise ObjectLost("gone") from None


@breaks("B5")
class ByBeginning(CutMemory):
    """Runs whose names begin alike go together."""

    def clear(self, run_ids):
        self._there()
        for key in [key for key in self.objects if key.startswith(tuple(run_ids))]:
            del self.objects[key]


@breaks("B5")
class Forgetful(CutMemory):
    """The tenth object and what follows is left behind."""

    def clear(self, run_ids):
        self._there()
        mine = [key for key in self.objects if key.partition("/")[0] in run_ids]
        for key in mine[:10]:
            del self.objects[key]


@breaks("B5")
class OnceOnly(CutMemory):
    """To delete what is not there is an error."""

    def clear(self, run_ids):
        self._there()
        if not any(key.partition("/")[0] in run_ids for key in self.objects):
            raise KeyError(run_ids[0])
        super().clear(run_ids)


@breaks("B6")
class Pessimist(CutMemory):
    """What cannot be reached is lost."""

    def read(self, key, start, length):
        if self.away:
            raise Missing
        return super().read(key, start, length)


@breaks("B6")
class Silent(CutMemory):
    """A refused deletion is not reported."""

    def clear(self, run_ids):
        if not self.away:
            super().clear(run_ids)


@breaks("B6")
class Nowhere(CutMemory):
    """It does not say where."""

    def _there(self):
        if self.away:
            raise ObjectsUnavailable("no answer")
