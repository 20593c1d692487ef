"""Admission to the fast path: its load, for the routing of a request, and the requests that wait for a place on it.

`core.routing` judges the load, `core.order` orders the requests that wait. A request waits only if the queue has no
room for its run either, and goes to the queue if that has room first. Its run does not exist meanwhile, so a client
that leaves, or a process that dies, leaks nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import Iterator

from msgspec.structs import replace

from offramp.core.departures import UNKNOWN_WAIT_S
from offramp.core.order import Queue, Waiter
from offramp.core.routing import Facts, Load
from offramp.core.run import Path, RunRecord
from offramp.core.shares import Shares
from offramp.core.sla import SLA
from offramp.errors import Overloaded, TenantBusy
from offramp.paths.live import LiveRuns
from offramp.paths.process import Process
from offramp.paths.stays import Stays
from offramp.paths.submission import Submission
from offramp.ports.commit import call_threadsafe

LOOK_EVERY_S = 0.25
"""The interval at which the requests that wait for a place are offered the room in the queue, in their order."""


@dataclasses.dataclass(eq=False, slots=True)
class Waiting:
    """A request that waits.

    Args:
        record: of its run.
        waiter: its place in the order.
        queue_rate: how many runs a second the queue has room for; 0 if that is not known.
        place: gets the path that has room for it.
        refusal: why it waits no longer.
    """

    record: RunRecord
    waiter: Waiter
    queue_rate: float
    place: asyncio.Future[Path]
    refusal: Overloaded | None = None


class Admission:
    """The fast path of a process, as requests meet it.

    Args:
        process: this process.
        live: its runs.
    """

    def __init__(self, process: Process, live: LiveRuns) -> None:
        self._process = process
        self._live = live
        self._stays = Stays(process, live)
        self.gives_way = self._stays.gives_way
        self._line = Queue(process.classes)
        self._waiting: dict[str, Waiting] = {}
        self._trying: Waiting | None = None
        """The one whose run is sent to the queue now."""
        self._looks = False
        """Whether a look at the queue is due."""
        self._full: set[str] = set()
        self._busy: set[str] = set()
        """The classes and the tenants that the queue has refused in the present look."""
        self._shares = Shares(process.settings.fast_runs, process.tenancy)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        live.made_fast_room = self._made_room
        for sla in process.classes:
            process.metrics.admitting(sla, functools.partial(self._line.waiting, sla))

    def load(self, submission: Submission, facts: Facts) -> Load:
        """The present load, for a request of which this is known."""
        live, sla = self._live, self._process.classes[facts.sla]
        held, most = live.count("fast"), self._process.settings.fast_runs
        share_is_taken = live.fast_refusal(submission.tenant) == "share"
        of_class = 0 if sla.concurrency is None else live.of_class(sla.name)
        ahead = self.ahead(sla)
        load = Load(held, most, 0, 0.0, None, share_is_taken, sla.priority, of_class, sla.concurrency, ahead)
        if held + ahead < most or share_is_taken:
            return load
        expected_s = live.learning.expected_s(submission.pipeline, facts.sla, facts.budget_s)
        return replace(load, staying=self._stays.staying(), expected_s=expected_s, leaver=self._stays.leaver())

    @contextlib.contextmanager
    def waiting(self, record: RunRecord, wait_s: float, queue_rate: float = 0.0) -> Iterator[Waiting]:
        """A request waits here, for at most so many seconds, and keeps its place in the order; await its `turn`.

        Args:
            record: of its run.
            wait_s: how long it may wait.
            queue_rate: how many runs a second the queue has room for, as far as that is known.

        Raises:
            TenantBusy: the tenant has its share of the requests that wait.
            Overloaded: as many wait as may, no place is expected in time, or this process stops.
        """
        sla = self._process.classes[record.sla]
        self._require(record, sla, wait_s, queue_rate)
        clock, loop = self._process.clock, asyncio.get_running_loop()
        self._loop = loop
        since = clock.monotonic()
        waiter = Waiter(record.id, sla.name, record.tenant, sla.priority, since)
        waiting = self._waiting[record.id] = Waiting(record, waiter, queue_rate, loop.create_future())
        self._line.add(waiter)
        self._shares.take(record.tenant)
        late = functools.partial(self._refuse, waiting, f"no place on the fast path was free within {wait_s:g} s")
        timer = clock.call_at(since + wait_s, lambda: call_threadsafe(loop, late))
        self._look_later()
        went_deep = False
        try:
            yield waiting
            went_deep = self._trying is waiting
        except BaseException:
            if waiting.place.done() and not waiting.place.cancelled() and waiting.place.exception() is None:
                self._live.give_up(record)  # it was granted at the moment at which its client left
            raise
        finally:
            timer.cancel()
            self._leave(waiting)
            self._process.metrics.admitted(sla.name, clock.monotonic() - since)
            if self._trying is waiting:
                self._trying = None
                self._offer() if went_deep else self._look_later()

    async def turn(self, waiting: Waiting) -> Path:
        """Wait for a place on the fast path, which is then reserved for the run, or for room in the queue.

        The queue may refuse the run all the same, as it is shared with other gateways: then call `again`.

        Raises:
            Overloaded: nothing was free in time, a request of a higher class is in its place, or this process stops.
        """
        self._grant()
        return await waiting.place

    def again(self, waiting: Waiting, refusal: Overloaded | TenantBusy) -> None:
        """Let a request that the queue has refused wait on, in its old place; raises as `turn`."""
        self._trying = None
        if waiting.refusal is not None:
            self._look_later()
            raise waiting.refusal
        waiting.place = asyncio.get_running_loop().create_future()
        self._line.add(waiting.waiter)
        queued = refusal.in_queue
        if isinstance(refusal, TenantBusy):
            self._busy.add(waiting.waiter.tenant)
        elif queued is not None and queued.sla is not None:
            self._full.add(queued.sla)
        else:
            self._look_later()
            return
        self._offer()

    def _look_later(self) -> None:
        """Offer the room in the queue again, if it has any, after `LOOK_EVERY_S`."""
        clock, loop = self._process.clock, self._loop
        if self._waiting and not self._looks and self._trying is None and loop is not None:
            self._looks = True
            clock.call_at(clock.monotonic() + LOOK_EVERY_S, lambda: call_threadsafe(loop, self._look))

    def _look(self) -> None:
        self._looks = False
        if self._trying is None:
            self._full, self._busy = set(), set()
            self._offer()

    def _offer(self) -> None:
        """Send the first one to the queue, of the classes and tenants that it has not refused in this look."""
        while (waiter := self._line.peek(self._overdue(), self._full, self._busy)) is not None:
            waiting = self._waiting[waiter.id]
            self._line.remove(waiter)
            if not waiting.place.done():
                self._trying = waiting
                waiting.place.set_result("deep")
                return
        self._look_later()

    def _overdue(self) -> set[str]:
        return self._line.overdue(self._process.clock.monotonic())

    def place_in_s(self, sla: SLA, queue_rate: float = 0.0) -> float:
        """When a new request of this class is expected to get a place, or room in the queue."""
        measured_s = self._measured_s(sla, queue_rate)
        if measured_s is not None:
            return measured_s
        leaves_in_s = self._stays.leaves_in_s()
        return UNKNOWN_WAIT_S if leaves_in_s is None else leaves_in_s

    def _measured_s(self, sla: SLA, queue_rate: float) -> float | None:
        """The same by the rate at which runs leave; None before any has."""
        live = self._live
        rate = live.departures.rate(self._process.clock.monotonic())
        if self._class_is_full(sla):
            rate *= live.of_class(sla.name) / max(1, live.count("fast"))
        rate = max(rate, queue_rate)
        return (self.ahead(sla) + 1) / rate if rate > 0 else None

    def share_in_s(self, tenant: str) -> float:
        """When the first of a tenant's runs is expected to leave the fast path."""
        leaves_in_s = self._stays.leaves_in_s(tenant)
        return 1.0 if leaves_in_s is None else leaves_in_s

    def close(self) -> None:
        """Answer every request that waits."""
        self._is_closed = True
        for waiting in list(self._waiting.values()):
            self._refuse(waiting, "this gateway is stopping; send the request to another one", retry_after=1.0)

    def _require(self, record: RunRecord, sla: SLA, wait_s: float, queue_rate: float) -> None:
        """Refuse a request that cannot wait with success."""
        place_in_s = self.place_in_s(sla, queue_rate)
        if self._is_closed:
            raise Overloaded("this gateway is stopping; send the request to another one")
        refused = self._shares.refusal(record.tenant)
        if refused == "share":
            raise TenantBusy(
                f"{self._shares.held(record.tenant)} of your requests wait for a place on the fast path, your share "
                "of the waits (OFFRAMP_TENANT_SHARE): try again when some have one",
                place_in_s,
            )
        limits = [limit for limit in (sla.queue_limit, sla.concurrency) if limit is not None]
        class_is_full = bool(limits) and self._line.waiting(sla.name) >= min(limits)
        if class_is_full or (refused == "full" and not self._sends_away(sla)):
            raise Overloaded(
                "queue and fast path are full, and as many requests wait for a place as may (OFFRAMP_FAST_RUNS, or "
                f"queue_limit or concurrency of class {sla.name!r}): try later, or add gateways and workers",
                place_in_s,
            )
        measured_s = self._measured_s(sla, queue_rate)
        if measured_s is not None and measured_s > wait_s:
            raise Overloaded(
                f"queue and fast path are full, and no place is expected within the {wait_s:g} s that this request "
                "may wait: try later, or add gateways and workers",
                place_in_s,
            )

    def _sends_away(self, sla: SLA) -> bool:
        """Refuse the last request of the lowest class that waits, if that is lower than this one."""
        last = min(self._waiting.values(), key=lambda each: (each.waiter.priority, -each.waiter.since), default=None)
        if last is None or last.waiter.priority >= sla.priority:
            return False
        self._refuse(last, "requests of higher classes wait for all places on the fast path, and the queue is full")
        self._leave(last)
        return True

    def _made_room(self) -> None:
        """A place is free. From any thread."""
        if self._waiting and self._loop is not None:
            call_threadsafe(self._loop, self._grant)

    def _grant(self) -> None:
        """Give the free places to those that wait, in their order, but to no tenant more than its share."""
        classes, most = self._process.classes, self._process.settings.fast_runs
        while self._waiting and self._live.count("fast") < most:
            full = {name for name, sla in classes.items() if self._class_is_full(sla)}
            overdue, passed = self._overdue(), set[str]()
            while (waiter := self._line.peek(overdue, full, passed)) is not None:
                if self._live.fast_refusal(waiter.tenant) is None:
                    break
                passed.add(waiter.tenant)
            waiter = self._line.take(overdue, full, passed)
            if waiter is None:
                return
            waiting = self._waiting[waiter.id]
            self._leave(waiting)
            if not waiting.place.done():
                self._live.reserve(waiting.record)
                waiting.place.set_result("fast")

    def _class_is_full(self, sla: SLA) -> bool:
        return sla.concurrency is not None and self._live.of_class(sla.name) >= sla.concurrency

    def _refuse(self, waiting: Waiting, says: str, retry_after: float | None = None) -> None:
        if waiting.refusal is None:
            sla = self._process.classes[waiting.waiter.sla]
            after = self.place_in_s(sla, waiting.queue_rate) if retry_after is None else retry_after
            waiting.refusal = Overloaded(says, after)
            if not waiting.place.done():
                waiting.place.set_exception(waiting.refusal)

    def _leave(self, waiting: Waiting) -> None:
        """One waits no longer."""
        if self._waiting.pop(waiting.record.id, None) is not None:
            self._line.remove(waiting.waiter)
            self._shares.give_back(waiting.record.tenant)

    def ahead(self, sla: SLA) -> int:
        """How many requests that wait go before a new one of this class: none that wait for places of their class."""
        if not self._waiting:
            return 0
        classes = (each for each in self._process.classes.values() if each.priority >= sla.priority)
        tries = self._trying is not None and self._trying.waiter.priority >= sla.priority
        return tries + sum(
            self._line.waiting(each.name) for each in classes if each.name == sla.name or not self._class_is_full(each)
        )
