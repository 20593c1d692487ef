"""Backups of a database: made while processes use it, restored while none does."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from offramp.errors import StoreError
from offramp.stores.sqlite.custody import Custody, beside, damage, header, mark_as_backup, unfinished
from offramp.stores.sqlite.database import FILE_NAME
from offramp.stores.sqlite.schema import MIGRATIONS


class WrongFile(StoreError):
    """A named file is not of the required kind."""


def back_up(folder: Path, target: Path) -> int:
    """Copy the database of a data folder, as of one moment, to a file, and check the copy. Returns its size in bytes.

    Processes keep working; their writes during the copy stay in the WAL until it is done.

    Args:
        folder: of the database.
        target: a file that does not exist yet, or an earlier backup, which is replaced once the new one is complete.

    Raises:
        WrongFile: there is no database, or the target is something else.
        StoreError: the copy cannot be written, or is damaged.
    """
    source = folder / FILE_NAME
    if not source.is_file():
        raise WrongFile(f"there is no database in {str(folder)!r}: name the data folder of the service")
    if target.exists() and not (target.is_file() and header(target).is_backup):
        raise WrongFile(f"{str(target)!r} exists and is no backup: name another file")
    custody = Custody(folder)
    try:
        custody.share()
        with (
            _written(target) as copy,
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True)) as live,
            closing(sqlite3.connect(copy, isolation_level=None)) as written,
        ):
            live.backup(written)
            mark_as_backup(written)
            _require_sound(written, "the copy")
        return target.stat().st_size
    except sqlite3.Error as error:
        raise WrongFile(f"the database in {str(folder)!r} cannot be copied to {str(target)!r}: {error}") from error
    finally:
        custody.close()


def restore(backup: Path, folder: Path) -> int:
    """Check a backup and put it in the place of a folder's database. Returns its size in bytes.

    A backup of a database from an older version is rewritten without free pages, and can shrink from then on.

    Args:
        backup: the file; it stays in its place.
        folder: made if it does not exist.

    Raises:
        InUse: a process has the folder's database open.
        WrongFile: the file is no backup of this version or an older one.
        StoreError: it is damaged, or cannot be copied.
    """
    if not backup.is_file() or not header(backup).is_sqlite:
        raise WrongFile(f"{str(backup)!r} is no backup of a database: 'offramp backup DIR FILE' makes one")
    left = unfinished(backup)
    if left is not None:
        raise WrongFile(
            f"{str(backup)!r} is incomplete without {left.name} beside it: restore a file that 'offramp backup' made"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    custody = Custody.alone(folder)
    try:
        target = folder / FILE_NAME
        with _written(target) as copy:
            shutil.copyfile(backup, copy)
            with closing(sqlite3.connect(copy, isolation_level=None)) as written:
                _require_sound(written, str(backup))
                _require_ours(written, backup)
                _make_shrinkable(written)
                mark_as_backup(written)
        # Last: a stop before this leaves a marked copy with a WAL beside it, which no process opens.
        for stale in beside(target):
            stale.unlink(missing_ok=True)
        _sync(folder)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise StoreError(f"{str(backup)!r} cannot be restored to {str(folder)!r}: {error}") from error
    finally:
        custody.close()


def _require_sound(connection: sqlite3.Connection, what: str) -> None:
    problem = damage(connection, full=True)
    if problem is not None:
        raise StoreError(f"{what} is damaged: {problem}")


def _require_ours(connection: sqlite3.Connection, backup: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('runs', 'journal')").fetchone()[0]
    if tables != 2:
        raise WrongFile(f"{str(backup)!r} is not a database of Offramp")
    if version > len(MIGRATIONS):
        raise WrongFile(
            f"{str(backup)!r} has schema {version}, this version of Offramp knows {len(MIGRATIONS)}: upgrade Offramp "
            "first"
        )


def _make_shrinkable(written: sqlite3.Connection) -> None:
    if not written.execute("PRAGMA auto_vacuum").fetchone()[0]:
        written.execute("PRAGMA auto_vacuum = INCREMENTAL")
        written.execute("VACUUM")


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A file beside the target that replaces it, on disk, once it is written without an error."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # readable for its owner only
        os.close(handle)
    except OSError as error:
        raise StoreError(f"{str(target)!r} cannot be written: {error.strerror}") from error
    path = Path(name)
    try:
        yield path
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        path.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise StoreError(f"{str(target)!r} cannot be written: {error.strerror}") from error
    finally:
        for each in (path, *beside(path)):
            each.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Flush the names in a folder to disk; on Windows, where folders cannot be opened, the system does."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
