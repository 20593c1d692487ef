"""Objects as files in a folder: one folder for each run. Written beside, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from offramp.errors import ObjectsUnavailable
from offramp.stores.blobs.blobs import Missing

_PART = ".part-"
"""Prefix of the name of an incomplete file; it is removed with its run's folder."""


class Folder:
    """See `Place`; the first write makes the folder.

    Args:
        path: the folder; each process that names it must see the same files.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    @property
    def where(self) -> str:
        """Its path."""
        return str(self._path)

    def write(self, key: str, data: bytes) -> None:
        """Write the object whole under its name, and on disk, or not at all."""
        with self._trouble("written"):
            target = self._path / key
            _make(target.parent)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=_PART)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, target)  # noqa: PTH105 - atomic, by the name of the call
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)  # noqa: PTH108 - a name that mkstemp gave
                raise
            _flush(target.parent)

    def read(self, key: str, start: int, length: int) -> bytes:
        """Read from a position on."""
        with self._trouble("read"), self._missing(), (self._path / key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def clear(self, run_ids: Sequence[str]) -> None:
        """Remove the folders of these runs."""
        with self._trouble("removed"):
            for run_id in run_ids:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self._path / run_id)

    @contextlib.contextmanager
    def _trouble(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            fix = "free some room" if full else "check the folder and its owner, or give another --objects"
            says = error.strerror or type(error).__name__
            raise ObjectsUnavailable(f"objects in {self.where} cannot be {what}: {says}; {fix}") from error

    @contextlib.contextmanager
    def _missing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if self._path.is_dir():
                raise Missing from None
            raise  # the whole folder is missing, for example not mounted: that loses nothing


def _make(folder: Path) -> None:
    """Make a folder that survives a loss of power."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _flush(folder.parent)


def _flush(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
