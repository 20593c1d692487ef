"""Permits as the calling code holds them: asked for, granted, kept by a context, over.

The same for plain and async code, which differ only in how they wait for `Asking.answered`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from offramp.core.limits.gate import TOKENS_DEFAULT
from offramp.core.limits.spec import ResourceSpec
from offramp.ports.clock import Clock
from offramp.ports.limits import Answer, Done, Granted, Held, Holder, Refused, Waits, refusal

_kept: ContextVar[tuple[Holding, ...]] = ContextVar("offramp_permits", default=())
"""The permits that this context keeps, and those that are over since. A task inherits those of the one that made it."""


class Need(NamedTuple):
    """What a call needs: see `Ask`."""

    tokens: int | None = None
    tokens_max: int | None = None
    credential: str = ""


class Holding:
    """A permit that was granted, until its call is over. Safe to use from any thread."""

    __slots__ = ("_holder", "_unended", "_unwritten", "id")

    def __init__(self, permit_id: str, holder: Holder) -> None:
        self.id = permit_id
        self._holder = holder
        # Emptied by the one that is first: `pop` needs no lock, which a finalizer could not take.
        self._unwritten = [None]
        self._unended = [None]

    @property
    def clock(self) -> Clock:
        """The injected clock."""
        return self._holder.clock

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
        self._holder.limits.written(self.id)
        return True

    def slow(self) -> None:
        """The first token is late."""
        if not self.is_over:
            self._holder.limits.slow(self.id)

    def done(self, done: Done) -> bool:
        """The call is over; False if it was before."""
        if not _first(self._unended):
            return False
        if done.how == "cancelled":  # maybe because it was late
            done = msgspec.structs.replace(done, how=self._holder.cut)
        self._holder.limits.done(self.id, done)
        return True

    def withdraw(self) -> None:
        """No call was made."""
        if _first(self._unended):
            self._holder.limits.withdraw(self.id)


class Asking:
    """An ask for a permit: the one that the step waited for, if it is enough for this call, or another.

    A context manager around the wait for `answered`, whose ask is given up if the wait is.

    Args:
        spec: of the resource.
        holder: of the calling code.
        need: what the call needs.
    """

    __slots__ = ("_holder", "_id", "_need", "_report", "_spec", "_waiting", "answered")

    def __init__(self, spec: ResourceSpec, holder: Holder, need: Need) -> None:
        self._spec = spec
        self._holder = holder
        self._need = need
        self._id = ""
        self._waiting: AbstractContextManager[Callable[[Waits], object]] | None = None
        self._report: Callable[[Waits], object] | None = None
        self.answered: Future[Granted | Refused] = Future()
        """Completed on any thread."""

    def __enter__(self) -> Self:
        holder, name = self._holder, self._spec.name
        held = holder.take(name, self._need.credential)
        if held is not None and _is_enough(held, self._spec, self._need):
            self._id = held.id
            self.answered.set_result(Granted(held.tokens))
            return self
        if held is not None:
            holder.limits.withdraw(held.id)
        asked, need = holder.ask(name), self._need
        kept = (each.id for each in _kept.get() if not each.is_over)
        ask = msgspec.structs.replace(
            asked,
            tokens=need.tokens,
            tokens_max=need.tokens_max,
            credential=need.credential,
            within=tuple(dict.fromkeys((*asked.within, *kept))),
        )
        self._id = ask.id
        self._waiting = holder.waiting(ask, self._over)
        self._report = self._waiting.__enter__()
        try:
            if not self.answered.done():  # the attempt was over before
                holder.limits.ask(ask, self._notify)
        except BaseException:
            self._waiting.__exit__(None, None, None)
            raise
        return self

    def _notify(self, answer: Answer) -> None:
        if not isinstance(answer, Waits):
            self._answer(answer)
        elif self._report is not None and not self.answered.done():
            self._report(answer)

    def _answer(self, answer: Granted | Refused) -> bool:
        try:
            self.answered.set_result(answer)
        except InvalidStateError:  # given up, or answered meanwhile
            return False
        return True

    def _over(self) -> None:
        """The attempt is over, and its code asks for nothing any more. From any thread."""
        name = self._spec.name
        if self._answer(Refused("closed", f"{name}: the step that asks for a permit is over")):
            self._holder.limits.withdraw(self._id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting is not None:
            self._waiting.__exit__(None, None, None)
        if error is not None:
            self.answered.cancel()
            self._holder.limits.withdraw(self._id)
        elif isinstance(answer := self.answered.result(), Refused) and answer.why == "closed":
            self._holder.limits.withdraw(self._id)  # again: the attempt may have ended just before this was asked for

    def holding(self) -> Holding:
        """The permit, kept by the calling context; once there is an answer.

        Raises:
            ResourceBusy: the queue is full.
            CircuitOpen: the breaker is open.
            WaitsForItself: it would wait for a permit that the calling code keeps.
            ExceedsLimit: the resource never has as many tokens.
        """
        answer = self.answered.result()
        if isinstance(answer, Refused):
            raise refusal(answer)
        holding = Holding(self._id, self._holder)
        holding.keep()
        return holding


def _is_enough(held: Held, spec: ResourceSpec, need: Need) -> bool:
    """Whether a permit that was granted before its call was known is one for this call: with its key, and its tokens.

    What the step's calls used before is a good guess; what stands for the first ones is none.
    """
    if held.credential != need.credential:  # another breaker has to let it through, and counts it
        return False
    if not spec.tokens:
        return True
    if need.tokens is not None:
        return need.tokens <= held.tokens
    if need.tokens_max is None or need.tokens_max <= held.tokens:
        return True
    return held.tokens not in {0, TOKENS_DEFAULT}


def _first(once: list[None]) -> bool:
    try:
        once.pop()
    except IndexError:
        return False
    return True
