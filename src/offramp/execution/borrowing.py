"""The holder of an attempt in a process lane: its permits are the parent's, or this process asks for them by itself."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from offramp.execution.lending import Loan, News, Used, Waited
from offramp.ports.clock import Clock
from offramp.ports.limits import Ask, Done, Held, Holder, How, Level, Limits, Notify, Place, Refused, Waits


class LaneLimits:
    """The limits of a lane process, opened when a step first needs them.

    Args:
        place: leads to the limits of the service; None if only its process can reach them.
        clock: time.
    """

    def __init__(self, place: Place | None, clock: Clock) -> None:
        self.clock = clock
        self._place = place
        self._lock = threading.Lock()
        self._limits: Limits | None = None

    def get(self) -> Limits | None:
        """The limits; None if they cannot be reached from here."""
        with self._lock:
            if self._limits is None and self._place is not None:
                self._limits = self._place.open(self.clock)
            return self._limits

    def close(self) -> None:
        """Give back what is held."""
        with self._lock:
            if self._limits is not None:
                self._limits.close()


class Borrower(Holder):
    """See the port.

    Args:
        loan: from the parent.
        run_id: of the run.
        limits: of this process.
        send: sends news to the parent.
        first: called with the first byte of an answer.
    """

    def __init__(
        self,
        loan: Loan,
        run_id: str,
        limits: LaneLimits,
        send: Callable[[bytes], object],
        first: Callable[[], object],
    ) -> None:
        self._loan = loan
        self._run_id = run_id
        self._lane = limits
        self._send = send
        self._first = first
        self._has_token = False
        self._untaken = dict(loan.permits)
        self._open: dict[str, Callable[[], object]] = {}
        self._numbers = itertools.count()
        self._limits = _Routed(limits, {held.id for held in loan.permits.values()}, self._tell)

    def _tell(self, news: News) -> None:
        self._send(msgspec.msgpack.encode(news))

    @property
    def limits(self) -> Limits:
        """Its limits: of a lent permit, the parent's."""
        return self._limits

    @property
    def clock(self) -> Clock:
        """The system's."""
        return self._lane.clock

    @property
    def retries(self) -> bool:
        """Whether another attempt may follow a failure."""
        return self._loan.retries

    @property
    def has_token(self) -> bool:
        """Whether it has emitted, or received the first byte of an answer."""
        return self._has_token

    @property
    def cut(self) -> How:
        """Cancelled: a late attempt is killed with its process."""
        return "cancelled"

    @property
    def slow_after(self) -> float | None:
        """That of the step."""
        return self._loan.slow_after

    def take(self, resource: str, credential: str | None = None) -> Held | None:
        """The permit that the step waited for before it began: once."""
        held = self._untaken.pop(resource, None)
        if held is not None:
            self._tell(Used(held.id, "taken", resource=resource, credential=credential or ""))
        return held

    def ask(self, resource: str) -> Ask:
        """An ask in the name of the attempt."""
        loan = self._loan
        return Ask(
            id=f"{loan.first_id}.{next(self._numbers):06d}",
            resource=resource,
            run_id=self._run_id,
            step=loan.step,
            sla=loan.sla,
            tenant=loan.tenant,
            priority=loan.priority,
            within=tuple(held.id for held in list(self._untaken.values())),
        )

    @contextlib.contextmanager
    def waiting(self, ask: Ask, _give_up: Callable[[], object]) -> Iterator[Callable[[Waits], object]]:
        """Tell the parent of the wait. If the attempt ends meanwhile, this process is killed."""
        number = next(self._numbers)
        try:
            yield lambda answer: self._tell(Waited(number, ask.resource, answer))
        finally:
            self._tell(Waited(number, ask.resource))

    def opened(self, permit_id: str, close: Callable[[], object]) -> None:
        """An answer is read from here on, until the attempt is over."""
        self._open[permit_id] = close

    def closed(self, permit_id: str) -> None:
        """It is read no further."""
        self._open.pop(permit_id, None)

    def close(self) -> None:
        """The attempt is over: close what is still read, before its permit is given back."""
        for close in list(self._open.values()):
            close()

    def first_byte(self, resource: str) -> None:
        """The first token of an answer has come."""
        self.emitted()
        self._first()

    def emitted(self) -> None:
        """The attempt has emitted something."""
        self._has_token = True


class _Routed(Limits):
    """The limits of a lane process; what happens to a lent permit goes to the parent, whose it is."""

    def __init__(self, lane: LaneLimits, lent: set[str], tell: Callable[[News], object]) -> None:
        self._lane = lane
        self._lent = lent
        self._tell = tell

    def ask(self, ask: Ask, notify: Notify) -> None:
        """Ask from this process."""
        limits = self._lane.get()
        if limits is None:
            notify(Refused("closed", f"{ask.resource}: its limits cannot be reached from a process lane"))
        else:
            limits.ask(ask, notify)

    def withdraw(self, permit_id: str) -> None:
        """See the port."""
        if permit_id in self._lent:
            self._tell(Used(permit_id, "withdrawn"))
        elif (limits := self._lane.get()) is not None:
            limits.withdraw(permit_id)

    def written(self, permit_id: str) -> None:
        """See the port."""
        if permit_id in self._lent:
            self._tell(Used(permit_id, "written"))
        elif (limits := self._lane.get()) is not None:
            limits.written(permit_id)

    def slow(self, permit_id: str) -> None:
        """See the port."""
        if permit_id in self._lent:
            self._tell(Used(permit_id, "slow"))
        elif (limits := self._lane.get()) is not None:
            limits.slow(permit_id)

    def done(self, permit_id: str, done: Done) -> None:
        """See the port."""
        if permit_id in self._lent:
            self._tell(Used(permit_id, "done", done))
        elif (limits := self._lane.get()) is not None:
            limits.done(permit_id, done)

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """See the port."""
        if (limits := self._lane.get()) is not None:
            limits.lift(run_id, sla, priority)

    def start(self) -> None:
        """See the port; they are opened when a step needs them."""

    def watch(self, notify: Callable[[Sequence[Level]], object]) -> None:
        """See the port."""
        if (limits := self._lane.get()) is not None:
            limits.watch(notify)

    async def levels(self) -> Sequence[Level]:
        """See the port."""
        limits = self._lane.get()
        return () if limits is None else await limits.levels()

    def close(self) -> None:
        """They are the process's."""
