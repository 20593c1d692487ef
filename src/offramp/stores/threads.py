"""Blocking reads of a store, on its own threads, which no tenant can occupy entirely."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from offramp.errors import StoreError
from offramp.ports import readers

T = TypeVar("T")
Q = TypeVar("Q")


class Readers:
    """Threads for reads. A tenant with its share in use waits while others pass; waiting tenants take turns.

    Reads of no tenant (`offramp.ports.readers`) are the service's own: they come first and may hold every thread.

    Args:
        threads: their number.
        share: the fraction of them for one tenant, above 0 and up to 1; at least one thread.
        name: the prefix of their names.
    """

    def __init__(self, threads: int, share: float = 1.0, name: str = "offramp-read") -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threads
        self._threads = threads
        self._most = max(1, int(threads * share))
        self._held: dict[str | None, int] = {}
        self._waiting: dict[str | None, deque[Callable[[], object]]] = {}
        self._turns: OrderedDict[str | None, None] = OrderedDict()
        """Waiting tenants that may hold another thread, in the order of their turns."""
        self._closed = False
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    def submit(self, read: Callable[[Q], T], query: Q) -> Future[T]:
        """Run `read(query)` when its tenant's turn comes.

        Raises:
            RuntimeError: the threads were shut down.
        """
        tenant = readers.tenant.get()
        answer: Future[T] = Future()

        def run() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    value = read(query)
                except BaseException as error:  # noqa: BLE001 - raised to the waiting caller
                    answer.set_exception(error)
                else:
                    answer.set_result(value)

        with self._lock:
            if self._closed:
                raise RuntimeError("the reading threads were shut down")
            self._waiting.setdefault(tenant, deque()).append(run)
            self._line_up(tenant)
            self._start()
        return answer

    def _line_up(self, tenant: str | None) -> None:
        most = self._threads if tenant is None else self._most
        if tenant in self._waiting and self._held.get(tenant, 0) < most:
            self._turns[tenant] = None
            if tenant is None:
                self._turns.move_to_end(tenant, last=False)

    def _start(self) -> None:
        while self._free and self._turns:
            tenant, _ = self._turns.popitem(last=False)
            waiting = self._waiting[tenant]
            run = waiting.popleft()
            if not waiting:
                del self._waiting[tenant]
            self._free -= 1
            self._held[tenant] = self._held.get(tenant, 0) + 1
            self._line_up(tenant)
            self._executor.submit(self._run, tenant, run)

    def _run(self, tenant: str | None, run: Callable[[], object]) -> None:
        try:
            run()
        finally:
            with self._lock:
                self._free += 1
                self._held[tenant] -= 1
                if not self._held[tenant]:
                    del self._held[tenant]
                self._line_up(tenant)
                self._start()
                if self._free == self._threads:
                    self._idle.notify_all()

    def shutdown(self) -> None:
        """Refuse further reads, and wait for those accepted."""
        with self._lock:
            self._closed = True
            self._idle.wait_for(lambda: self._free == self._threads)
        self._executor.shutdown(wait=True)


async def read_on(threads: Readers, read: Callable[[Q], T], query: Q) -> T:
    """Run `read(query)` on one of the threads.

    Raises:
        StoreError: the threads were shut down.
    """
    try:
        reading: Future[Any] = threads.submit(read, query)
    except RuntimeError as error:
        raise StoreError("the store is closed") from error
    return await asyncio.wrap_future(reading)
