"""Which processes have a database open, and whether it may be opened at all.

Every process holds a shared lock on one file beside the database for as long as it has it open. The first one has the
lock alone for a moment, and looks at what an unclean end or a restore left.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple

from offramp.errors import StoreError
from offramp.stores.sqlite.machine import Residence

LOCK_NAME = "offramp.lock"
CHECK_S_MAX = 5.0
"""How long the first process looks for damage after an unclean end or a restore."""
LOCK_S_MAX = 15.0
"""How long a process waits for one that looks for damage, or restores a backup."""

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_BACKUP = 0x4F66426B
"""The application id of a backup, "OfBk", until a process opens it (SQLite, "Database File Format", 1.3.17)."""

logger = logging.getLogger("offramp")


class InUse(StoreError):
    """Another process has the database open."""


class Header(NamedTuple):
    """What the first bytes of a file say."""

    is_sqlite: bool
    is_backup: bool


def header(path: Path) -> Header:
    """Read the header without SQLite, which would first put a WAL beside the file into it."""
    with path.open("rb") as file:
        found = file.read(_HEADER_BYTES)
    return Header(found.startswith(_MAGIC), int.from_bytes(found[68:72], "big") == _BACKUP)


def beside(path: Path) -> list[Path]:
    """The files that SQLite keeps beside a database: its WAL, the WAL's index, a rollback journal."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def unfinished(path: Path) -> Path | None:
    """A WAL or rollback journal with something in it, which SQLite would put into the file."""
    wal, _, journal = beside(path)
    return next((each for each in (wal, journal) if each.exists() and each.stat().st_size), None)


class Custody:
    """This process's share of a database's lock; where there are no such locks (Windows), every process is the first.

    Args:
        folder: of the database; it has to exist.
        patience_s: seconds to wait for a process that has the lock alone.

    Raises:
        InUse: another process had it alone for longer.
        OnOtherMachine: a process on another machine has the database open.
    """

    def __init__(self, folder: Path, patience_s: float = LOCK_S_MAX) -> None:
        path = folder / LOCK_NAME
        if not path.exists():
            path.touch(mode=0o600)
        self._file: IO[bytes] = path.open("rb")
        self.is_first = False
        """Whether no other process has the database open."""
        ends = time.monotonic() + patience_s
        while not (self._alone() or _lock(self._file, alone=False)):
            if time.monotonic() > ends:
                self._file.close()
                raise InUse(f"another process restores or checks the database in {str(folder)!r}: try again later")
            time.sleep(0.02)
        try:
            self._residence = Residence(path)
        except BaseException:
            self._file.close()
            raise

    def _alone(self) -> bool:
        self.is_first = _lock(self._file, alone=True)
        return self.is_first

    @classmethod
    def alone(cls, folder: Path) -> Custody:
        """The lock with no other process, to replace the database.

        Raises:
            InUse: a process has the database open.
        """
        custody = cls(folder, 0.0)
        if not custody.is_first:
            custody.close()
            raise InUse(f"a process has the database in {str(folder)!r} open: stop every gateway and worker first")
        return custody

    def share(self) -> None:
        """Let other processes open the database."""
        _lock(self._file, alone=False)

    def forked(self) -> None:
        """In a forked child: close the copy of the file. The lock is the parent's."""
        self._file.close()

    def close(self) -> None:
        """Give the lock up, unless that was done."""
        if not self._file.closed:
            self._residence.close(last=_lock(self._file, alone=True))
            self._file.close()


def _lock(file: IO[bytes], *, alone: bool) -> bool:
    """Take or change the lock; False if another process's is in the way."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def inspect(path: Path) -> None:
    """Look at a database that no process has open, before SQLite does.

    Raises:
        StoreError: it is not to be opened; the message says what to do.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    found, left = header(path), unfinished(path)
    if found.is_backup and left is not None:
        raise StoreError(
            f"{str(path)!r} is a backup, and {left.name} beside it is of the database before it: SQLite would mix "
            "the two. Run 'offramp restore FILE DIR', which removes it"
        )
    if found.is_sqlite and (found.is_backup or left is not None):
        _require_sound(path)
    if found.is_backup:
        # In a rollback journal, so that the file itself has it: a WAL that a crash leaves is this database's own.
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA application_id = 0")


def mark_as_backup(connection: sqlite3.Connection) -> None:
    """Say in the file that it is a copy, complete without a WAL; it must be in no other's use."""
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute(f"PRAGMA application_id = {_BACKUP}")


def _require_sound(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            problem = damage(connection, CHECK_S_MAX)
    except TimeoutError:
        logger.warning(
            "%s was not closed properly; %g s of checking found no damage, 'offramp doctor --check-data' checks all",
            path,
            CHECK_S_MAX,
        )
        return
    if problem is not None:
        raise StoreError(
            f"{str(path)!r} is damaged ({problem}) and is not served: put a backup in its place with 'offramp restore "
            "FILE DIR', or save what can be read with sqlite3's .recover"
        )


def damage(connection: sqlite3.Connection, seconds: float | None = None, *, full: bool = False) -> str | None:
    """The first thing that is wrong with a database, None if nothing is.

    Args:
        connection: to it.
        seconds: after which to stop looking; None for never.
        full: whether indexes are compared with their tables, too.

    Raises:
        TimeoutError: nothing was found in that time.
    """
    stop = None if seconds is None else threading.Timer(seconds, connection.interrupt)
    if stop is not None:
        stop.daemon = True
        stop.start()
    try:
        found: str = connection.execute(f"PRAGMA {'integrity_check' if full else 'quick_check'}(1)").fetchone()[0]
    except sqlite3.Error as error:
        if "interrupted" in str(error):
            raise TimeoutError(f"not done after {seconds:g} s") from error
        return str(error)
    finally:
        if stop is not None:
            stop.cancel()
    return None if found == "ok" else found.splitlines()[-1]
