"""The lock that shows which processes have a database open, and the checks before the first one opens it.

Every process with the database open holds a shared lock on one file beside it. The first process briefly holds the
lock alone, to examine the files that an unclean end or a restore left.
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
"""Seconds for which the first process looks for damage after an unclean end or a restore."""
LOCK_S_MAX = 15.0
"""Seconds for which a process waits for another one that looks for damage, or restores a backup."""
STOP_OPERATIONS = 10_000
"""Operations of SQLite between two looks at the time that a check may take."""

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_BACKUP = 0x4F66426B
"""The application id of a backup, "OfBk", until a process opens it (SQLite, "Database File Format", 1.3.17)."""

logger = logging.getLogger("offramp")


class InUse(StoreError):
    """Another process has the database open."""


class Header(NamedTuple):
    """The facts in the first bytes of a file."""

    is_sqlite: bool
    is_backup: bool


def header(path: Path) -> Header:
    """Read the header without SQLite, which would first copy a WAL beside the file into it."""
    with path.open("rb") as file:
        found = file.read(_HEADER_BYTES)
    return Header(found.startswith(_MAGIC), int.from_bytes(found[68:72], "big") == _BACKUP)


def beside(path: Path) -> list[Path]:
    """The files that SQLite keeps beside a database: its WAL, the WAL's index, a rollback journal."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def unfinished(path: Path) -> Path | None:
    """A WAL or rollback journal that is not empty: SQLite would apply it to the file."""
    wal, _, journal = beside(path)
    return next((each for each in (wal, journal) if each.exists() and each.stat().st_size), None)


class Custody:
    """This process's share of a database's lock; on Windows, without such locks, every process is the first.

    Args:
        folder: of the database; it has to exist.
        patience_s: seconds to wait for a process that holds the lock alone.

    Raises:
        InUse: another process held it alone for longer.
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
        """Hold the lock alone, to replace the database.

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
        """Release the lock, unless it is released already."""
        if not self._file.closed:
            self._residence.close(last=_lock(self._file, alone=True))
            self._file.close()


def _lock(file: IO[bytes], *, alone: bool) -> bool:
    """Take or change the lock; False if another process's lock conflicts."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def inspect(path: Path) -> None:
    """Examine a database that no process has open, before SQLite does.

    Raises:
        StoreError: it must not be opened; the message says what to do.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    found, left = header(path), unfinished(path)
    if found.is_backup and left is not None:
        raise StoreError(
            f"{str(path)!r} is a backup, and {left.name} beside it belongs to an earlier database: SQLite would mix "
            "the two. Run 'offramp restore FILE DIR', which removes it"
        )
    if found.is_sqlite and (found.is_backup or left is not None):
        _require_sound(path)
    if found.is_backup:
        # Through a rollback journal, so that the file itself has it: a WAL left by a crash is then this database's.
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA application_id = 0")


def mark_as_backup(connection: sqlite3.Connection) -> None:
    """Mark the file as a copy, complete without a WAL; no other process may use it."""
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute(f"PRAGMA application_id = {_BACKUP}")


def _require_sound(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            problem = damage(connection, CHECK_S_MAX)
    except TimeoutError:
        logger.warning(
            "%s was not closed properly; a check of %g s found no damage, 'offramp doctor --check-data' checks all",
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
    """The first fault of a database; None if it has none.

    Args:
        connection: to it.
        seconds: the limit of the check; None for no limit.
        full: whether to compare indexes with their tables as well.

    Raises:
        TimeoutError: the check was not done in that time.
    """
    stop = None if seconds is None else threading.Timer(seconds, connection.interrupt)
    if stop is not None and seconds is not None:
        stop.daemon = True
        stop.start()
        # The timer's thread may have its turn too early or too late; but only it stops what is one operation of SQLite.
        ends_at = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > ends_at, STOP_OPERATIONS)
    try:
        found: str = connection.execute(f"PRAGMA {'integrity_check' if full else 'quick_check'}(1)").fetchone()[0]
    except sqlite3.Error as error:
        if "interrupted" in str(error):
            raise TimeoutError(f"not done after {seconds:g} s") from error
        return str(error)
    finally:
        if stop is not None:
            stop.cancel()
            connection.set_progress_handler(None, 0)
    return None if found == "ok" else found.splitlines()[-1]
