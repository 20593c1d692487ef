"""The one writing thread of a process: takes all queued operations, sends them as one batch, then reports.

A batch is applied once: it carries this writer's id and a number, by which the server repeats a lost answer. The writer
sends an unchanged batch until it gets an answer, and acknowledges nothing without one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from offramp.core.events import frame
from offramp.core.ownership import ENGINE
from offramp.errors import LeaseLost, StoreError
from offramp.ports import forks
from offramp.ports.commit import resolve_all
from offramp.ports.store import Batch, Lease
from offramp.stores.redis.address import Address
from offramp.stores.redis.connection import NotOnDisk, check, client, is_fatal, memory_share, passes, problem
from offramp.stores.redis.operations import NOTHING, Operation, Records, batch_of, encode, is_lost, wire
from offramp.stores.redis.rows import decode_record
from offramp.stores.redis.scripts import APPLY
from offramp.stores.redis.tails import Tails

logger = logging.getLogger("offramp")

BATCH_OPERATIONS_MAX = 1_000
BATCH_BYTES_MAX = 4 << 20
"""The size of one batch, unless a single operation is larger: applying a batch blocks the server."""
WRITE_TIMEOUT_S = 5.0
"""Seconds that the answer to a batch may take before its connection is closed."""
FSYNC_TIMEOUT_S = 4.0
"""Seconds that the server may take to flush a batch to disk, with `fsync=`; then the batch is sent again."""
PATIENCE_S = 5.0
"""Seconds for which requests wait for an unavailable server; afterwards they are refused until it is back."""
RETRY_EVERY_S = 0.25
RUN_EVENT_BYTES_MAX = 64 << 20
"""The size of the events of one run; above it, the run may emit no more."""
MEMORY_SHARE_MAX = 0.9
"""The share of `maxmemory` above which new runs are refused, so that accepted runs can continue."""
MEMORY_LOOK_EVERY_S = 1.0
BATCH_KEPT_S = 2 * 86_400
"""Seconds for which the server remembers a writer's last batch. The writer abandons it after half of that."""
CLOSE_TIMEOUT_S = 10.0
GIVEN_UP_MAX = 10_000
"""Claims with a permanently refused write that the writer remembers; their holders were notified at once."""


class Writer:
    """Group commit over one connection.

    Args:
        address: of the server.
        backlog_bytes: bytes waiting to be written before `put` blocks its caller.
        timeout_s: how long a request waits; an older one is not written, and a longer batch counts as trouble.
        committed: called with the operations and seconds of each batch.

    Raises:
        StoreError: the server cannot be reached.
        SettingsError: the server is unsuitable, or a setting is wrong.
    """

    def __init__(
        self, address: Address, backlog_bytes: int, timeout_s: float, committed: Callable[[int, float], object]
    ) -> None:
        self._address = address
        self.client = client(address, retries=0, timeout_s=WRITE_TIMEOUT_S)
        check(address, self.client)
        self.key = self._memory()
        """Names what the server remembers of this writer: the number and the answer of its last batch."""
        self.number = 0
        """The number of the last batch."""
        self._backlog_bytes = backlog_bytes
        self._timeout_s = timeout_s
        self._operations: deque[Operation] = deque()
        self._bytes = 0
        # A plain lock: every write of every run passes through `put`, and an RLock in a Condition costs Python calls.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closing = False
        self._unavailable_since: float | None = None
        self._unavailable = ""
        self.writing_since: float | None = None
        """When the batch that is being written was begun; None while none is."""
        self._tails = Tails()
        self._given_up: dict[tuple[str, int], None] = {}
        self._looked_at, self._is_tight = 0.0, False
        self.listeners: list[Callable[[list[Batch]], None]] = []
        self.on_lost: Callable[[Lease], object] = lambda _lease: None
        self.on_announced: list[Callable[[], object]] = []
        self.committed = committed
        self._thread = threading.Thread(target=self._run, name="offramp-writer", daemon=True)
        self._thread.start()
        forks.on_fork(self)

    def forked(self) -> None:
        """In a forked child: refuse all operations, as no thread writes."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closing = True

    def trouble(self) -> str | None:
        """Why the server accepts no writes, or no new runs; from any thread."""
        since = self.writing_since
        late_s = 0.0 if since is None else time.monotonic() - since
        if self._unavailable_since is not None:
            return self._unavailable
        if late_s >= self._timeout_s:
            return f"Redis has not taken a write for {late_s:.0f} s"
        return "Redis is nearly full, and accepts no new runs" if self._is_tight else None

    @property
    def full(self) -> set[str]:
        """Runs that this process writes and that may emit no more."""
        return self._tails.full

    def _memory(self) -> str:
        """A key for the last batch and its answers."""
        return self._address.key_of("writer", uuid.uuid4().hex)

    def put(self, operation: Operation) -> None:
        """Queue an operation; an emitted value blocks its caller while more than `backlog_bytes` of them wait."""
        size = operation.size
        with self._lock:
            if size and self._bytes > self._backlog_bytes and not self._closing:
                self._changed.wait_for(lambda: self._bytes <= self._backlog_bytes or self._closing)
            if self._closing:
                _refuse(operation, StoreError("the store is closed"))
                return
            idle = not self._operations
            self._operations.append(operation)
            self._bytes += size
            if idle:
                self._changed.notify_all()

    def close(self) -> None:
        """Write all queued operations, and end the thread."""
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.error("the writer did not end within %g s; its remaining operations are lost", CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (operations := self._take()) is not None:
            self.writing_since = time.monotonic()
            try:
                self._write(operations)
            except Exception as error:  # one bad batch must not end the thread, which all others need
                logger.exception("a batch could not be written")
                self._give_up(operations, StoreError(f"the write failed: {error!r}"))
            self._done_with(operations)
            self.writing_since = None
        self._leave()

    def _write(self, operations: list[Operation]) -> None:
        began = time.monotonic()
        if self._given_up:
            operations = self._without_given_up(operations)
        operations = self._without_late(operations)
        if self._is_tight or any(operation.is_new for operation in operations):
            operations = self._without_new(operations)
        if not operations:
            return
        self.number += 1
        reply = self._applied(operations)
        if reply is not None:
            self._tell(operations, reply)
            self.committed(len(operations), time.monotonic() - began)

    def _take(self) -> list[Operation] | None:
        """All queued operations, up to a batch; None at the end."""
        with self._lock:
            while not self._operations:
                if self._closing:
                    return None
                self._changed.wait()
            waiting = self._operations
            taken = [waiting.popleft()]
            size = len(taken[0].wire)
            while waiting and len(taken) < BATCH_OPERATIONS_MAX:
                size += len(waiting[0].wire)
                if size > BATCH_BYTES_MAX:
                    break
                taken.append(waiting.popleft())
        return taken

    def _done_with(self, operations: Sequence[Operation]) -> None:
        size = sum(operation.size for operation in operations)
        if size:
            with self._lock:
                self._bytes -= size
                self._changed.notify_all()

    def _without_late(self, operations: list[Operation]) -> list[Operation]:
        """Drop operations so old that their requests were refused."""
        oldest = time.monotonic() - self._timeout_s
        late = [operation for operation in operations if operation.asked_at < oldest]
        if not late:
            return operations
        for operation in late:
            _refuse(operation, StoreError(f"the write waited {self._timeout_s:g} s for Redis; not written"))
        return [operation for operation in operations if operation.asked_at >= oldest]

    def _without_new(self, operations: list[Operation]) -> list[Operation]:
        """Drop new runs while memory is nearly full; accepted runs are still written."""
        now = time.monotonic()
        if now - self._looked_at >= MEMORY_LOOK_EVERY_S:
            with contextlib.suppress(RedisError):  # the batch will report it
                self._is_tight = memory_share(self.client) > MEMORY_SHARE_MAX
                self._looked_at = now
        if not self._is_tight:
            return operations
        refusal = StoreError(
            f"Redis at {self._address.shown} is nearly full ({MEMORY_SHARE_MAX:.0%} of maxmemory) and accepts no new "
            "runs: give it memory or shorten retention"
        )
        for operation in operations:
            if operation.is_new:
                _refuse(operation, refusal)
        return [operation for operation in operations if not operation.is_new]

    # A batch and its answer.

    def _applied(self, operations: list[Operation]) -> Any:
        """The script's reply; None if the batch was abandoned, with every caller notified."""
        began = time.monotonic()
        given_up: set[int] = set()
        tails = encode(self._tails.of(operations))
        while True:
            wires = [NOTHING if place in given_up else each.wire for place, each in enumerate(operations)]
            try:
                reply = self._send(batch_of(wires), tails, durable=any(each.durable for each in operations))
            except RedisError as error:
                if not self._may_retry(operations, given_up, error, began):
                    return None
            else:
                self._is_back()
                self._take_back(operations, given_up, reply[1])
                return reply

    def _send(self, wires: bytes, tails: bytes, *, durable: bool) -> Any:
        arguments = (self._address.tag, self.number, BATCH_KEPT_S, wires, tails, RUN_EVENT_BYTES_MAX)
        reply = APPLY(self.client, [self.key], *arguments)
        if durable and self._address.fsync:
            local, _ = self.client.waitaof(1, 0, int(FSYNC_TIMEOUT_S * 1000))
            if not local:
                raise NotOnDisk
        return reply

    def _may_retry(self, operations: list[Operation], given_up: set[int], error: RedisError, began: float) -> bool:
        """Handle a failed attempt; returns whether to send the batch again."""
        now = time.monotonic()
        refusal = problem(self._address, error)
        self._unavailable = str(refusal).replace(f" at {self._address.shown}", "")
        if self._unavailable_since is None:
            self._unavailable_since = now
            logger.error("%s. Accepted runs wait", refusal)
        with self._lock:
            closing = self._closing
        if closing or now - began > BATCH_KEPT_S / 2:
            with self._lock:
                left = list(self._operations)
                self._operations.clear()
            self._give_up([*operations, *left], StoreError(f"{refusal}; not written before the end"))
            return False
        if is_fatal(error):
            self.key, self.number = self._memory(), 0
            self._give_up(operations, refusal)
            return False
        if now - self._unavailable_since >= PATIENCE_S or not passes(error):
            for place, operation in enumerate(operations):
                if not operation.retained and place not in given_up:
                    given_up.add(place)
                    _refuse(operation, refusal)
            self._refuse_waiting(refusal)
        with self._lock:
            self._changed.wait_for(lambda: self._closing, RETRY_EVERY_S)
        return True

    def _refuse_waiting(self, refusal: StoreError) -> None:
        """Refuse requests queued behind the batch, instead of letting them wait for the server."""
        with self._lock:
            waiting = list(self._operations)
            self._operations = deque(operation for operation in waiting if operation.retained)
        for operation in waiting:
            if not operation.retained:
                _refuse(operation, refusal)

    def _give_up(self, operations: Sequence[Operation], refusal: StoreError) -> None:
        for operation in operations:
            self._tails.forget(operation)
            if operation.lease is not None:
                self._note_given_up(operation.lease, operation)
                self.on_lost(operation.lease)
            _refuse(operation, refusal)

    def _without_given_up(self, operations: Sequence[Operation]) -> list[Operation]:
        """Drop operations that follow an abandoned one of the same claim: they would leave a gap in the log.

        The owner of the run loses it. An assigned run stays with its engine, which retries failed operations.
        """
        rest = []
        for operation in operations:
            lease = operation.lease
            if lease is None or (lease.run_id, lease.token) not in self._given_up:
                rest.append(operation)
                continue
            refusal = f"{lease.run_id}: an earlier write was refused for good"
            _refuse(operation, StoreError(refusal) if lease.owner == ENGINE else LeaseLost(refusal))
            self._note_given_up(lease, operation)
        return rest

    def _note_given_up(self, lease: Lease, operation: Operation) -> None:
        claimed = lease.run_id, lease.token
        self._given_up[claimed] = None
        if lease.owner == ENGINE and operation.commit is not None:
            del self._given_up[claimed]  # the waiting caller gets the error, and retries all of it
        elif len(self._given_up) > GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]

    def _is_back(self) -> None:
        if self._unavailable_since is not None:
            logger.warning("%s is back after %.1f s", self._address.shown, time.monotonic() - self._unavailable_since)
            self._unavailable_since = None

    def _take_back(self, operations: list[Operation], given_up: set[int], answers: Sequence[Any]) -> None:
        """Undo operations that were applied although their callers got an error."""
        undone = [
            step
            for place in sorted(given_up)
            if (undo := operations[place].undo) is not None
            for step in undo(answers[place])
        ]
        with self._lock:
            self._operations.extendleft(reversed(undone))
        for place in given_up:
            operations[place] = Operation(wire("turn"))

    def _tell(self, operations: Sequence[Operation], reply: Sequence[Any]) -> None:
        has_announced, answers, shown, full = reply
        self._tails.learn(operations, answers, full)
        records: Records = {row[-1]: record for row in shown if (record := decode_record(row)) is not None}
        published: dict[str, Batch] = {}
        resolved: list[tuple[Any, Any, BaseException | None]] = []
        lost: set[Lease] = set()
        for operation, answer in zip(operations, answers, strict=True):
            if operation.lease is not None and is_lost(answer):
                lost.add(operation.lease)
            if operation.event is not None:
                _publish(operation, answer, published)
            if operation.commit is not None:
                resolved.append((operation.commit, *operation.outcome(answer, records)))
        for lease in lost:
            self.on_lost(lease)
        resolve_all(resolved)
        if published:
            batches = list(published.values())
            for listener in self.listeners:
                listener(batches)
        if has_announced:
            for callback in self.on_announced:
                callback()

    def _leave(self) -> None:
        """Delete the remembered batch, as this writer sends no more."""
        try:
            self.client.delete(self.key)
        except RedisError:
            logger.debug("%s: this writer's last batch stays until it expires", self._address.shown)
        self.client.close()


def _refuse(operation: Operation, error: Exception) -> None:
    if operation.commit is not None:
        operation.commit.resolve(error=error)


def _publish(operation: Operation, answer: Any, published: dict[str, Batch]) -> None:
    """Add an event, with its number, to the published ones."""
    number = answer if isinstance(answer, int) else answer[2] if answer[0] == 0 else 0
    if number <= 0 or operation.event is None:
        return
    data = frame(operation.event, operation.run_id, number)
    batch = published.get(operation.run_id)
    if batch is None:
        published[operation.run_id] = Batch(operation.run_id, number, [data])
    else:
        batch.frames.append(data)
