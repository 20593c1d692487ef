"""The harnesses of the places for objects: a folder, memory, and a bucket of a real S3 server behind a line to cut."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from pathlib import Path

import obstore

from offramp.errors import ObjectsUnavailable
from offramp.stores.blobs.blobs import PlacedBlobs
from offramp.stores.blobs.folder import Folder
from offramp.stores.blobs.memory import Memory
from tests import s3


class Placed:
    """Over places that a test can reach behind the port's back."""

    capabilities = frozenset()
    secrets = ()
    make = PlacedBlobs

    async def reopen(self, blobs):
        return self.make(self.placed(blobs))

    def placed(self, blobs):
        """The place, for another process."""
        return blobs.place

    async def spoil(self, blobs, reference, data):
        place = self.placed(blobs)
        if data is None:
            self.remove(place, reference.key)
        else:
            place.write(reference.key, data)

    async def close(self, blobs):
        blobs.close()


class CutMemory(Memory):
    """Memory that can be away."""

    away = False

    def _there(self):
        if self.away:
            raise ObjectsUnavailable(f"objects in {self.where} cannot be reached")

    def write(self, key, data):
        self._there()
        super().write(key, data)

    def read(self, key, start, length):
        self._there()
        return super().read(key, start, length)

    def clear(self, run_ids):
        self._there()
        super().clear(run_ids)


class InMemory(Placed):
    """In memory; with another class than `PlacedBlobs`, or another place, for what is broken."""

    name = "memory"

    def __init__(self, broken=PlacedBlobs):
        self._place, self.make = (broken, PlacedBlobs) if issubclass(broken, Memory) else (CutMemory, broken)

    async def open(self):
        return self.make(self._place())

    def remove(self, place, key):
        del place.objects[key]

    async def cut_off(self, blobs):
        self.placed(blobs).away = True


class InFolder(Placed):
    """Files in a folder."""

    name = "folder"

    async def open(self):
        self._above = Path(tempfile.mkdtemp(prefix="offramp-objects-"))
        return self.make(Folder(self._above / "objects"))

    def placed(self, blobs):
        return Folder(Path(blobs.where))

    def remove(self, place, key):
        (Path(place.where) / key).unlink()

    async def cut_off(self, blobs):
        # As where a volume is not mounted; nothing can be made in its place either.
        shutil.rmtree(blobs.where)
        self.put_a_file_there(Path(blobs.where))

    @staticmethod
    def put_a_file_there(path):
        path.write_text("not a folder")

    async def close(self, blobs):
        await super().close(blobs)
        shutil.rmtree(self._above)


class InS3(Placed):
    """A bucket; the requests go over a line that can be cut."""

    name = "s3"
    secrets = (s3.KEY, s3.SECRET)

    async def open(self):
        from offramp.stores.blobs.address import parse_objects
        from offramp.stores.blobs.remote import Remote
        from tests.conformance.temporal import Line

        server = s3.server()
        self._line = Line(server.port)
        port = await self._line.open()
        text = server.url(f"conformance/{uuid.uuid4().hex}").replace(server.endpoint, f"http://127.0.0.1:{port}")
        self._bucket = parse_objects(text)
        return self.make(Remote(self._bucket))

    def placed(self, _blobs):
        from offramp.stores.blobs.remote import Remote

        return Remote(self._bucket)

    def remove(self, place, key):
        obstore.delete(place.store, key)

    async def spoil(self, blobs, reference, data):
        # Blocking calls would wait here for the line, which is on this loop.
        await asyncio.to_thread(lambda: self._spoil(reference, data))

    def _spoil(self, reference, data):
        place = self.placed(None)
        if data is None:
            self.remove(place, reference.key)
        else:
            place.write(reference.key, data)

    async def cut_off(self, _blobs):
        self._line.cut()

    async def close(self, blobs):
        await super().close(blobs)
        self._line.cut()
        await asyncio.sleep(0)  # its connections end
        self._line.close()


FOLDER, IN_MEMORY, S3 = InFolder(), InMemory(), InS3()
OBJECTS = [FOLDER, S3, IN_MEMORY]
