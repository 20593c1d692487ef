"""Distinguishes dead processes from silent ones: each locks a file of its own, and its death frees the lock.

Other processes then take over its runs at once, without waiting for the end of its lease. Where file locks are missing
(on Windows, or in a folder that cannot be written), the leases alone decide.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from urllib.parse import quote, unquote

from offramp.ports import forks

logger = logging.getLogger("offramp")


class Presence:
    """This process's lock, and a view of those of the others.

    Args:
        folder: the folder of the files, one per process; created if missing.
        owner: this process's id.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._path = folder / quote(owner, safe="")
        self._own: int | None = None
        self._dead: dict[str, int] = {}
        forks.on_fork(self)

    def forked(self) -> None:
        """In a forked child: close the copy, which would hold the lock after the death of the parent."""
        forks.close_copy(*self._dead.values(), *([] if self._own is None else [self._own]))
        self._dead, self._own = {}, None

    def open(self) -> None:
        """Take the lock, before this process takes its first lease."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own = _locked(self._path, os.O_CREAT)
        except OSError as error:
            logger.warning("%s: %s; if this process is killed, its lease has to run out", self._folder, error.strerror)

    def dead(self) -> list[str]:
        """The ids of dead processes; each is returned to one process alone, until that calls `bury`."""
        if self._own is None:
            return []
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                owner = unquote(path.name)
                if path != self._path and owner not in self._dead:
                    with contextlib.suppress(OSError):  # gone, or locked: alive
                        self._dead[owner] = _locked(path)
        return list(self._dead)

    def bury(self, owner: str) -> None:
        """Forget a dead process, whose runs have been released."""
        _remove(self._folder / quote(owner, safe=""), self._dead.pop(owner))

    def close(self) -> None:
        """Leave."""
        while self._dead:
            os.close(self._dead.popitem()[1])
        if self._own is not None:
            _remove(self._path, self._own)
            self._own = None


def _locked(path: Path, flags: int = 0) -> int:
    """A descriptor that holds the file's lock and is not inherited; an OSError if another process holds it."""
    if sys.platform == "win32":
        raise OSError(0, "this system has no file locks")
    import fcntl

    file = os.open(path, os.O_RDWR | flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def _remove(path: Path, file: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(file)
