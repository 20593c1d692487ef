"""Permits as the calling code holds them: asked for, granted, kept by a context, over.

The same for plain and async code, which differ only in how they wait for `Asking.answered`.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, InvalidStateError
from contextvars import ContextVar
from typing import NamedTuple

import msgspec

from offramp.core.limits.spec import ResourceSpec
from offramp.ports.clock import Clock
from offramp.ports.limits import Answer, Done, Granted, Held, Holder, Limits, Refused, Waits, refusal

_kept: ContextVar[tuple[Holding, ...]] = ContextVar("offramp_permits", default=())
"""The permits that this context keeps, and those that are over since. A task inherits those of the one that made it."""


class Need(NamedTuple):
    """What a call needs: see `Ask`."""

    tokens: int | None = None
    tokens_max: int | None = None
    credential: str = ""


class Holding:
    """A permit that was granted, until its call is over. Safe to use from any thread."""

    __slots__ = ("__weakref__", "_clock", "_holder", "_limits", "_unended", "_unwritten", "id")

    def __init__(self, permit_id: str, holder: Holder) -> None:
        self.id = permit_id
        self._holder = holder
        self._limits: Limits = holder.limits
        self._clock: Clock = holder.clock
        # Emptied by the one that is first: `pop` needs no lock, which a finalizer could not take.
        self._unwritten = [None]
        self._unended = [None]

    @property
    def clock(self) -> Clock:
        """The injected clock."""
        return self._clock

    @property
    def is_over(self) -> bool:
        """Whether it was given back."""
        return not self._unended

    def keep(self) -> None:
        """From here on the calling context keeps it."""
        kept = _kept.get()
        if self not in kept:
            _kept.set((*(each for each in kept if not each.is_over), self))

    def written(self) -> bool:
        """The request has been sent; False if that was known."""
        if self.is_over or not _first(self._unwritten):
            return False
        self._limits.written(self.id)
        return True

    def slow(self) -> None:
        """The first token is late."""
        if not self.is_over:
            self._limits.slow(self.id)

    def done(self, done: Done) -> bool:
        """The call is over; False if it was before."""
        if not _first(self._unended):
            return False
        if done.how == "cancelled":  # maybe because it was late
            done = msgspec.structs.replace(done, how=self._holder.cut)
        self._limits.done(self.id, done)
        return True

    def withdraw(self) -> None:
        """No call was made."""
        if _first(self._unended):
            self._limits.withdraw(self.id)


class Asking:
    """An ask for a permit: the one that the step waited for, if it is enough for this call, or another.

    Args:
        spec: of the resource.
        holder: of the calling code.
        need: what the call needs.
    """

    __slots__ = ("_holder", "_id", "answered")

    def __init__(self, spec: ResourceSpec, holder: Holder, need: Need) -> None:
        self._holder = holder
        self.answered: Future[Granted | Refused] = Future()
        """Completed on any thread."""
        held = holder.take(spec.name)
        if held is not None and _is_enough(held, spec, need):
            self._id = held.id
            self.answered.set_result(Granted(held.tokens))
            return
        if held is not None:
            holder.limits.withdraw(held.id)
        ask = holder.ask(spec.name)
        self._id = ask.id
        kept = (each.id for each in _kept.get() if not each.is_over)
        holder.limits.ask(
            msgspec.structs.replace(
                ask,
                tokens=need.tokens,
                tokens_max=need.tokens_max,
                credential=need.credential,
                within=tuple(dict.fromkeys((*ask.within, *kept))),
            ),
            self._notify,
        )

    def _notify(self, answer: Answer) -> None:
        if not isinstance(answer, Waits):
            with contextlib.suppress(InvalidStateError):  # given up: the permit is withdrawn
                self.answered.set_result(answer)

    def give_up(self) -> None:
        """The calling code waits no longer."""
        self.answered.cancel()
        self._holder.limits.withdraw(self._id)

    def holding(self, answer: Granted | Refused) -> Holding:
        """The permit, kept by the calling context.

        Raises:
            ResourceBusy: the queue is full.
            CircuitOpen: the breaker is open.
            WaitsForItself: it would wait for a permit that the calling code keeps.
            ExceedsLimit: the resource never has as many tokens.
        """
        if isinstance(answer, Refused):
            raise refusal(answer)
        holding = Holding(self._id, self._holder)
        holding.keep()
        return holding


def _is_enough(held: Held, spec: ResourceSpec, need: Need) -> bool:
    """Whether the tokens of a permit that was granted before its call was known are enough for the call.

    What the step's calls used before is a good guess; nothing is none.
    """
    if not spec.tokens:
        return True
    if need.tokens is not None:
        return need.tokens <= held.tokens
    return held.tokens > 0 or need.tokens_max is None


def _first(once: list[None]) -> bool:
    try:
        once.pop()
    except IndexError:
        return False
    return True
