"""The database file: its place, its connections, and reading threads with one connection each."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from offramp.errors import StoreError
from offramp.ports import forks
from offramp.stores.sqlite.custody import Custody, inspect
from offramp.stores.sqlite.listing import prepare
from offramp.stores.sqlite.schema import migrate
from offramp.stores.threads import Readers, read_on

T = TypeVar("T")

FILE_NAME = "offramp.db"
BUSY_TIMEOUT_S = 5.0
READERS = 4
"""Threads that read, with a connection each."""
PAGE_BYTES = 4096


class Database:
    """A SQLite database in a folder, created if it does not exist.

    Args:
        folder: made readable for its owner only, as runs may hold confidential data.
        tenant_share: the fraction of the reading threads for the requests of one tenant.

    Raises:
        StoreError: the folder or file cannot be used; the message says why.
    """

    def __init__(self, folder: Path, tenant_share: float = 1.0) -> None:
        self.path = folder / FILE_NAME
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._custody = Custody(folder)
        except OSError as error:
            raise StoreError(f"cannot open the database in {str(folder)!r}: {error}") from error
        try:
            self._open(folder)
        except BaseException:
            self._custody.close()
            raise
        self._local = threading.local()
        self.readers = Readers(READERS, tenant_share)
        self._opened: list[sqlite3.Connection] = []
        forks.on_fork(self)

    def _open(self, folder: Path) -> None:
        try:
            if self._custody.is_first:
                inspect(self.path)
            if not self.path.exists():
                self.path.touch(mode=0o600)
            if not self.path.stat().st_size:
                self._make()
            connection = self.connect()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the database in {str(folder)!r}: {error}") from error
        try:
            migrate(connection)
        except sqlite3.Error as error:
            raise StoreError(f"{str(self.path)!r} is not usable as Offramp's database: {error}") from error
        finally:
            connection.close()
        self._custody.share()

    def _make(self) -> None:
        """Set the options that only an empty file accepts, so that the file can shrink."""
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _use_wal(connection)

    def forked(self) -> None:
        """In a forked child: SQLite forbids both using and closing a connection there."""
        for connection in self._opened:
            forks.keep_forever(connection)
        self._custody.forked()

    def connect(self, *, query_only: bool = False) -> sqlite3.Connection:
        """A connection in autocommit mode, usable from the thread that gets it."""
        connection = sqlite3.connect(
            self.path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False, cached_statements=256
        )
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        # A savepoint keeps pages that it may have to restore: in memory instead of in a file for each transaction.
        connection.execute("PRAGMA temp_store = MEMORY")
        if query_only:
            prepare(connection)
            connection.execute("PRAGMA query_only = 1")
        return connection

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on a reading thread.

        Raises:
            StoreError: the database cannot be read, or is closed.
        """
        return await read_on(self.readers, self._read, query)

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        try:
            if connection is None:
                connection = self._local.connection = self.connect(query_only=True)
                self._opened.append(connection)
            return query(connection)
        except sqlite3.Error as error:
            raise StoreError(f"the database cannot be read: {error}") from error

    def close(self) -> None:
        """Close the reading connections, and let the database be replaced."""
        self.readers.shutdown()
        for connection in self._opened:
            connection.close()
        self._custody.close()


def _use_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for other processes while it changes a new file's mode, so this does.
    patience = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > patience:
                connection.close()
                raise
            time.sleep(0.01)
        else:
            return
