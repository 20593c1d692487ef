"""The permits of an attempt in a process lane, on the parent's side: it lends the child those of `uses=`.

The child reports what becomes of each, and what it waits for; further ones it asks for by itself (`borrowing.py`), and
those end with the child. What it was lent comes back with the attempt.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

import msgspec

from offramp.execution.reports import Report
from offramp.ports.limits import Done, Held, Waits

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt


class Loan(msgspec.Struct, frozen=True):
    """What a child needs for the asks of an attempt, and the permits that it is lent.

    Attributes:
        first_id: an id of a permit that begins the ids of the child's asks.
        step: the name by which the needs of its calls are learned.
        sla: the class of the run.
        tenant: of the run.
        priority: of the class, when the run was accepted.
        retries: see `Holder.retries`.
        slow_after: see `Holder.slow_after`.
        permits: by resource.
    """

    first_id: str
    step: str
    sla: str
    tenant: str
    priority: int
    retries: bool
    slow_after: float | None = None
    permits: dict[str, Held] = {}


class Used(msgspec.Struct, frozen=True, tag=True):
    """What the child has done with a permit that it was lent; the last two say of one that is taken with what."""

    id: str
    what: Literal["taken", "written", "slow", "done", "withdrawn"]
    done: Done = Done()
    resource: str = ""
    credential: str = ""


class Waited(msgspec.Struct, frozen=True, tag=True):
    """How a wait of the child looks now; `answer` is None once it is over."""

    number: int
    resource: str
    answer: Waits | None = None


News = Used | Waited
_decode = msgspec.msgpack.Decoder(News).decode


class Lender:
    """The permits of one attempt that its child was lent, and its waits; from any thread."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()
        self._lent: dict[str, bool] = {}
        """Whether a request has taken it over, by id."""
        self._reports: dict[int, Report] = {}
        self._is_closed = False

    def loan(self) -> Loan | None:
        """Lend the child what no request has taken over; None without limits."""
        attempt, holder, facts = self._attempt, self._attempt.holder, self._attempt.scope.facts
        if holder is None:
            return None
        permits: dict[str, Held] = {}
        with self._lock:
            for resource in () if self._is_closed else attempt.call.policy.uses:
                held = holder.take(resource)
                if held is not None:
                    permits[resource] = held
                    self._lent[held.id] = False
        step = attempt.target or attempt.call.name
        return Loan(
            holder.ask("").id,
            step,
            facts.sla,
            facts.tenant,
            facts.priority,
            retries=holder.retries,
            slow_after=holder.slow_after,
            permits=permits,
        )

    def hear(self, encoded: bytes) -> None:
        """The child reports something."""
        news = _decode(encoded)
        with self._lock:
            if self._is_closed:
                return
            if isinstance(news, Used):
                self._used(news)
            else:
                self._waited(news)

    def _used(self, used: Used) -> None:
        holder = self._attempt.holder
        if holder is None or used.id not in self._lent:
            return
        limits = holder.limits
        if used.what == "taken":
            self._lent[used.id] = True
            holder.take(used.resource, used.credential)  # there is none any more: for the next attempt to know
        elif used.what == "written":
            limits.written(used.id)
        elif used.what == "slow":
            limits.slow(used.id)
        else:
            del self._lent[used.id]
            if used.what == "done":
                limits.done(used.id, used.done)
            else:
                limits.withdraw(used.id)

    def _waited(self, waited: Waited) -> None:
        report = self._reports.get(waited.number)
        if waited.answer is None:
            if self._reports.pop(waited.number, None) is not None and report is not None:
                report.over()
            return
        if report is None:
            report = self._reports[waited.number] = Report(self._attempt, waited.resource, in_flight=True)
        report.waits(waited.answer)

    def close(self) -> None:
        """The attempt is over, and so is its child's use of what it was lent."""
        with self._lock:
            self._is_closed = True
            lent, self._lent = self._lent, {}
            reports, self._reports = self._reports, {}
        for report in reports.values():
            report.over()
        holder = self._attempt.holder if lent else None
        if holder is None:
            return
        for permit, is_taken in lent.items():
            if is_taken:
                holder.limits.done(permit, Done(how=holder.cut))
            else:
                holder.limits.withdraw(permit)
