"""The one writing thread of a process: takes all queued operations, commits them together, then reports.

A batch that a caller waits for is committed with synchronous FULL, any other with NORMAL, and a FULL commit follows at
most `sync_every` seconds after a write: a commit on disk covers all before it, as the write-ahead log is one file.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from offramp.errors import StoreError
from offramp.ports import forks
from offramp.ports.commit import resolve_all
from offramp.ports.store import Batch, Lease
from offramp.stores.sqlite.batch import Call, Operation, Tail, Transaction
from offramp.stores.sqlite.crash_points import CrashPoint
from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.operations import Append, Create, Finish, Sync

logger = logging.getLogger("offramp")

BATCH_OPERATIONS_MAX = 5_000
RETRY_EVERY_S = 0.25
TROUBLE_S_MIN = 5.0
"""Seconds after a refused write for which the database counts as unwritable."""
CLOSE_TIMEOUT_S = 10.0


class Writer:
    """Group commit over one connection.

    Args:
        database: the file.
        sync_every: seconds.
        backlog_bytes: bytes waiting to be written before `put` blocks its caller.
        committed: called with the operations and seconds of each commit.
        timeout_s: how long a request waits; an older one is not written, and a longer commit counts as trouble.
        crash: the point at which a test kills this process.
    """

    def __init__(
        self,
        database: Database,
        sync_every: float,
        backlog_bytes: int,
        committed: Callable[[int, float], object],
        timeout_s: float,
        crash: CrashPoint | None = None,
    ) -> None:
        self._path = database.path
        self.connection = database.connect()
        self._sync_every = sync_every
        self._backlog_bytes = backlog_bytes
        self._timeout_s = timeout_s
        self._operations: deque[Operation] = deque()
        self._bytes = 0
        # A plain lock: every write of every run passes through `put`, and an RLock in a Condition costs Python calls.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._tails: dict[str, Tail] = {}
        self._unsynced_since: float | None = None
        self._is_full = False
        self._closing = False
        self._told_at = 0.0
        self._refused: str | None = None
        self._trouble_until = 0.0
        self.writing_since: float | None = None
        """When the batch that is being written was begun; None while none is."""
        self.listeners: list[Callable[[list[Batch]], None]] = []
        self.on_lost: Callable[[Lease], object] = lambda _lease: None
        self.on_announced: list[Callable[[], object]] = []
        self.committed = committed
        self._crash = crash
        self._thread = threading.Thread(target=self._run, name="offramp-writer", daemon=True)
        self._thread.start()
        forks.on_fork(self)

    def forked(self) -> None:
        """In a forked child: refuse all operations, as no thread writes; SQLite forbids even closing the connection."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closing = True
        forks.keep_forever(self.connection)

    def trouble(self) -> str | None:
        """Why the database cannot be written, now or a moment ago; from any thread."""
        return self._hung() or self._refused

    def _hung(self) -> str | None:
        since = self.writing_since
        late_s = 0.0 if since is None else time.monotonic() - since
        return f"the database has not taken a write for {late_s:.0f} s" if late_s >= self._timeout_s else None

    def put(self, operation: Operation) -> None:
        """Queue an operation; an emitted value blocks its caller while more than `backlog_bytes` of them wait."""
        if (
            isinstance(operation, (Create, Call))
            and operation.asked_at < math.inf
            and (hung := self._hung()) is not None
        ):
            self._refuse(operation, StoreError(f"{hung}; it accepts no further requests until it does"))
            return
        size = operation.size if isinstance(operation, Append) else 0
        with self._lock:
            if size and self._bytes > self._backlog_bytes and not self._closing:
                self._changed.wait_for(lambda: self._bytes <= self._backlog_bytes or self._closing)
            if self._closing:
                self._refuse(operation, StoreError("the store is closed"))
                return
            idle = not self._operations
            self._operations.append(operation)
            self._bytes += size
            if idle:
                self._changed.notify_all()

    @staticmethod
    def _refuse(operation: Operation, error: Exception) -> None:
        if isinstance(operation, (Create, Finish, Sync, Call)):
            operation.commit.resolve(error=error)

    def close(self) -> None:
        """Write all queued operations, make them durable, and end the thread."""
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.error("the writer did not end within %g s; its remaining operations are lost", CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            operations = self._take()
            if operations is None:
                break
            self.writing_since = time.monotonic()
            operations = self._without_late(operations)
            try:
                self._write(operations)
                self._done_with(operations)
            except sqlite3.Error as error:
                self._set_back(operations, error)
            except Exception as error:
                logger.exception("a batch could not be built; trying its operations one by one")
                self._isolate(operations, error)
            self.writing_since = None
        self.connection.close()

    def _without_late(self, operations: list[Operation]) -> list[Operation]:
        """Drop operations so old that their requests were refused."""
        oldest = time.monotonic() - self._timeout_s
        late = {each for each in operations if isinstance(each, (Create, Call)) and each.asked_at < oldest}
        if not late:
            return operations
        for operation in late:
            self._refuse(operation, StoreError(f"the write waited {self._timeout_s:g} s for the database; not written"))
        return [operation for operation in operations if operation not in late]

    def _take(self) -> list[Operation] | None:
        """All queued operations; [] when it is time to sync, None at the end."""
        with self._lock:
            while not self._operations:
                if self._unsynced_since is not None:
                    left = self._unsynced_since + self._sync_every - time.monotonic()
                    if left <= 0 or self._closing:
                        return []
                    self._changed.wait(left)
                elif self._closing:
                    return None
                elif self._refused is not None:
                    left = self._trouble_until - time.monotonic()
                    if left <= 0:
                        return []  # to try whether it can be written again
                    self._changed.wait(left)
                else:
                    self._changed.wait()
            taken = self._operations
            if len(taken) > BATCH_OPERATIONS_MAX:
                return [taken.popleft() for _ in range(BATCH_OPERATIONS_MAX)]
            self._operations = deque()
        return list(taken)

    def _done_with(self, operations: Sequence[Operation]) -> None:
        if not self._bytes:
            return  # as a rule
        size = sum(operation.size for operation in operations if isinstance(operation, Append))
        if size:
            with self._lock:
                self._bytes -= size
                self._changed.notify_all()

    def _write(self, operations: Sequence[Operation]) -> None:
        began = time.monotonic()
        overdue = self._unsynced_since is not None and began - self._unsynced_since >= self._sync_every
        full = overdue or not operations or any(_must_be_durable(operation) for operation in operations)
        self._synchronous(full=full)
        transaction = Transaction(self.connection, self._tails)
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            transaction.apply(operations)
            if full:
                # A transaction that changes nothing would not reach the disk, nor carry earlier ones there. Operations
                # may change nothing, as a row may be rewritten with the same values.
                self.connection.execute("UPDATE syncs SET count = count + 1")
            if self._crash is not None:
                self._crash.reach(self.connection, operations, "before", announces=transaction.has_announced)
            self.connection.execute("COMMIT")
            if self._crash is not None:
                self._crash.reach(self.connection, operations, "after", announces=transaction.has_announced)
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        transaction.accept()
        if self._refused is not None and began >= self._trouble_until:
            self._refused = None
        if full:
            self._unsynced_since = None
        elif self._unsynced_since is None:
            self._unsynced_since = began
        self._tell(transaction)
        self.committed(len(operations), time.monotonic() - began)

    def _synchronous(self, *, full: bool) -> None:
        if full is not self._is_full:
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._is_full = full

    def _tell(self, transaction: Transaction) -> None:
        for lease in transaction.lost:
            self.on_lost(lease)
        resolve_all(transaction.resolved)
        if transaction.published:
            batches = list(transaction.published.values())
            for listener in self.listeners:
                listener(batches)
        if transaction.has_announced:
            for told in self.on_announced:
                told()

    def _set_back(self, operations: Sequence[Operation], error: sqlite3.Error) -> None:
        """The disk refused: requests fail and are dropped, operations of accepted runs are kept and retried."""
        problem = f"the database {str(self._path)!r} cannot be written: {error}"
        now = time.monotonic()
        if now - self._told_at > 5:
            self._told_at = now
            logger.error("%s. Accepted runs wait; free space or repair the disk", problem)
        with self._lock:
            # Requests that arrived meanwhile, too: behind the retained operations they would wait for the disk.
            waiting = [*operations, *self._operations]
            self._operations = deque(each for each in waiting if isinstance(each, (Append, Finish, Sync)))
            self._refused, self._trouble_until = f"the database cannot be written: {error}", now + TROUBLE_S_MIN
        for operation in waiting:
            if isinstance(operation, (Create, Call)):
                self._refuse(operation, StoreError(problem))
        with self._lock:
            closing = self._closing
            if not closing:
                self._changed.wait(RETRY_EVERY_S)
        if closing:
            with self._lock:
                left = list(self._operations)
                self._operations.clear()
            for operation in left:
                self._refuse(operation, StoreError(f"the database could not be written before the end: {error}"))
            self._unsynced_since = None

    def _isolate(self, operations: Sequence[Operation], error: Exception) -> None:
        if len(operations) == 1:
            self._refuse(operations[0], error)
            self._done_with(operations)
            return
        for place, operation in enumerate(operations):
            try:
                self._write([operation])
                self._done_with([operation])
            except sqlite3.Error as refused:
                self._set_back(operations[place:], refused)  # in order: later operations wait for it
                return
            except Exception as own:  # noqa: BLE001 - already logged for the batch
                self._isolate([operation], own)


def _must_be_durable(operation: Operation) -> bool:
    if isinstance(operation, (Append, Create, Call)):
        return operation.durable
    return isinstance(operation, (Finish, Sync))
