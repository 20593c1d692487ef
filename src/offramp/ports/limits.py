"""The permits of resources: what a process asks of the limits, and the answers. Obligations of every adapter:

R1 A permit is asked for once, by an id of its own, and its asker gets exactly one of `Granted` and `Refused`;
   before that, any number of `Waits`. After `withdraw` it gets nothing more, but for an answer that another thread is
   giving at that moment.
R2 At no time do more permits exist than `concurrency`, over all processes that share the limits; in no window do more
   calls than its rate count, from the moment of `written` (or of the grant, until that is known) plus a margin.
R3 A permit ends with `done`, with `withdraw`, or with the process that holds it: nothing else keeps it.
R4 What takes the limits over after a crash learns from each process what it holds, asks for, and called while the
   longest window lasts, and grants nothing to others meanwhile.
R5 Waiters are granted in the order of `core.order`: those whose asker holds a permit first, then the highest class,
   a class that is overdue by its share, fair between tenants, the oldest run first.
R6 What could only be granted after a permit that the asker itself keeps meanwhile (`within`) is refused at once.
R7 Every method may be called from any thread, and never waits. `notify`, of asks and of levels, may be called on any
   thread and under a lock of the limits: it must not wait, nor take a lock that is held around calls of these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from offramp.core.limits.messages import (
    Answer,
    Ask,
    BreakerLevel,
    BreakerState,
    Done,
    Granted,
    How,
    Level,
    Reason,
    Refusal,
    Refused,
    WaitingClass,
    Waits,
    Why,
    WindowLevel,
)
from offramp.errors import CircuitOpen, ExceedsLimit, OfframpError, ResourceBusy, WaitsForItself
from offramp.ports.clock import Clock

__all__ = [
    "Answer",
    "Ask",
    "BreakerLevel",
    "BreakerState",
    "Done",
    "Granted",
    "Held",
    "Holder",
    "How",
    "Level",
    "Limits",
    "Notify",
    "Place",
    "Reason",
    "Refusal",
    "Refused",
    "WaitingClass",
    "Waits",
    "Why",
    "WindowLevel",
    "refusal",
]

Notify = Callable[[Answer], object]


def refusal(refused: Refused) -> OfframpError:
    """The error for an ask that is refused."""
    if refused.why == "deadlock":
        return WaitsForItself(refused.says)
    if refused.why == "too-small":
        return ExceedsLimit(refused.says)
    kind = CircuitOpen if refused.why == "open" else ResourceBusy
    return kind(refused.says, refused.retry_after_s)


class Limits(Protocol):
    """This process's side of the limits. See the obligations at the top of this module."""

    def ask(self, ask: Ask, notify: Notify) -> None:
        """Ask for a permit. `notify` may be called before this returns."""

    def withdraw(self, permit_id: str) -> None:
        """Give up an ask, or a permit that was granted meanwhile and whose call was not made."""

    def written(self, permit_id: str) -> None:
        """The request has been sent: its windows count from now."""

    def slow(self, permit_id: str) -> None:
        """The first token is later than the breaker, or the step, allows; called when it becomes late."""

    def done(self, permit_id: str, done: Done) -> None:
        """The call is over, and its permit free."""

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """A run of this class waits for that run: the asks of that run, now and later, count as of the higher one."""

    def watch(self, notify: Callable[[Sequence[Level]], object]) -> None:
        """Report the levels of all resources, now and about every second while they change."""

    async def levels(self) -> Sequence[Level]:
        """All resources as they are now.

        Raises:
            StoreError: nothing that keeps the limits answers in time.
        """

    def start(self) -> None:
        """Connect, rather than at the first ask."""

    def close(self) -> None:
        """Refuse what waits, give back what is held."""


class Place(Protocol):
    """How any process of the service reaches its limits; it can be pickled."""

    def open(self, clock: Clock) -> Limits:
        """This process's side of them."""


class Held(NamedTuple):
    """A permit that was granted: its id, the tokens that were reserved for it, and whose breaker let it through."""

    id: str
    tokens: int = 0
    credential: str = ""


class Holder(Protocol):
    """What an attempt of a step, or code outside of runs, asks for permits with. Its context has it, in every lane.

    Every method may be called from any thread, and never waits.
    """

    @property
    def limits(self) -> Limits:
        """The source of its permits."""

    @property
    def clock(self) -> Clock:
        """The injected clock."""

    @property
    def retries(self) -> bool:
        """Whether the step repeats what fails, so that SDKs need not repeat their requests."""

    @property
    def slow_after(self) -> float | None:
        """Seconds from written after which the first token is late for the step (`slow_after=`, or `first_token=` of a
        failover); None for never.
        """

    @property
    def has_token(self) -> bool:
        """Whether the first token of the attempt has come, where `slow_after` is not None."""

    @property
    def cut(self) -> How:
        """How a call counts that is cancelled now: `slow` or `failed` if its attempt was late, else `cancelled`."""

    def take(self, resource: str, credential: str | None = None) -> Held | None:
        """The permit that the step waited for before it began (`uses=`): once, for its first request.

        Args:
            resource: its name.
            credential: what the request is made with, as those of the next attempts are expected to be; None if
                there is none yet.
        """

    def ask(self, resource: str) -> Ask:
        """An ask in the name of the attempt, with an id of its own.

        Its `within` are the permits that the step waited for and no request has taken over yet.
        """

    def waiting(self, ask: Ask, give_up: Callable[[], object]) -> AbstractContextManager[Callable[[Waits], object]]:
        """Around the wait for a permit, in the asking thread; the step may be in flight.

        Args:
            ask: the ask, which is made within.
            give_up: called, from any thread, if the attempt is over meanwhile: no code needs the permit any more.

        Returns:
            what to call with each `Waits`, from any thread.
        """

    def opened(self, permit_id: str, close: Callable[[], object]) -> None:
        """An answer is read from here on; `close` ends that, from any thread, if the attempt is over before."""

    def closed(self, permit_id: str) -> None:
        """It is read no further."""

    def first_byte(self, resource: str) -> None:
        """The first token of an answer has come, or the first byte where it has no tokens."""
