"""Hedges: a second execution of an attempt's code beside the first, where the first token of that is late.

The first of both to have a token, or to end, wins; the other is cancelled, and nothing that it emits is seen. In the
journal and in the events it is one attempt. `core/limits/hedging.py` decides when, and how often.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from offramp.errors import ResourceBusy
from offramp.execution.context import current
from offramp.execution.first_token import Watching, bounded
from offramp.execution.holding import Kept
from offramp.ports.commit import call_threadsafe
from offramp.ports.limits import Answer, Granted, Held, Level, Waits

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt

Code = Callable[[], Any]
Live = Callable[["Attempt", Code], Awaitable[Any]]


class Budget(Protocol):
    """Which first tokens are late, and how many calls are hedged; see `core.limits.hedging`."""

    def called(self, step: str) -> None:
        """A call that may be hedged begins."""

    def saw(self, step: str, seconds: float) -> None:
        """Its first token came after so long, or was waited for that long in vain."""

    def after_s(self, step: str) -> float | None:
        """The time after which a first token is late, in seconds; None until enough were seen."""

    def report(self, levels: Sequence[Level]) -> None:
        """The resources as they are now."""

    def may(self, resources: Iterable[str] = ()) -> bool:
        """Whether a call that uses these resources is hedged now. If so, that is one hedge less."""

    def give_back(self) -> None:
        """A hedge got no permit, so it was no call."""


class Hedging:
    """The hedges of one process; every method may be called from any thread.

    Args:
        budget: decides when, and how often.
        ended: called at the end of each with whether the second execution won.
    """

    def __init__(self, budget: Budget, ended: Callable[[bool], object]) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self.ended = ended

    def watch(self, levels: Sequence[Level]) -> None:
        """The resources as they are now."""
        with self._lock:
            self._budget.report(levels)

    async def run(self, attempt: Attempt, code: Code, live: Live) -> Any:
        """The result of the code of an attempt, within its bounds.

        Args:
            attempt: of a step with `hedge=True`.
            code: its code.
            live: executes the code of an attempt.
        """
        return await bounded(_Race(self, attempt, live, self.called(attempt)).run(code), attempt)

    def called(self, attempt: Attempt) -> float | None:
        """An attempt begins; returns after how long its first token is late, None if that is not known yet."""
        with self._lock:
            self._budget.called(key_of(attempt))
            return self._budget.after_s(key_of(attempt))

    def may(self, attempt: Attempt) -> bool:
        """Whether this attempt is hedged now."""
        with self._lock:
            return self._budget.may(attempt.call.policy.uses)

    def give_back(self) -> None:
        """There was no permit for it."""
        with self._lock:
            self._budget.give_back()

    def saw(self, attempt: Attempt, seconds: float) -> None:
        """The first token of an attempt came after this time, or was waited for that long."""
        with self._lock:
            self._budget.saw(key_of(attempt), seconds)


def key_of(attempt: Attempt) -> str:
    """The step whose code an attempt executes."""
    return attempt.call.target or attempt.call.name


class _Twin:
    """Stands for the `Watching` of the second execution: only whose token is first matters."""

    is_late = False

    def __init__(self, token: Callable[[], object]) -> None:
        self.came = False
        self._token = token

    def token(self) -> None:
        self.came = True
        self._token()


class _Race:
    """One attempt, and the second execution of its code if there is one; on the attempt's loop, but for `first_in`."""

    def __init__(self, hedging: Hedging, attempt: Attempt, live: Live, after_s: float | None) -> None:
        self._hedging = hedging
        self._attempt = attempt
        self._live = live
        self._after_s = after_s
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._winner: Attempt | None = None
        self._twin: Attempt | None = None
        self._task: asyncio.Task[Any] | None = None
        self._began_s = 0.0
        self._cut: asyncio.Timeout | None = None

    async def run(self, code: Code) -> Any:
        """The result of the one that wins."""
        attempt, clock = self._attempt, self._attempt.clock
        self._began_s = clock.monotonic()
        if isinstance(attempt.first, Watching):
            attempt.first.then = functools.partial(self.first_in, attempt)
        timer = None
        if self._after_s is not None:
            begin = functools.partial(call_threadsafe, self._loop, self._begin)
            timer = clock.call_at(self._began_s + self._after_s, begin)
        try:
            return await self._decided(code)
        except asyncio.CancelledError:
            if self._winner is None:
                self._hedging.saw(attempt, clock.monotonic() - self._began_s)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._winner = self._winner or attempt  # nothing begins any more
            await self._end()

    async def _decided(self, code: Code) -> Any:
        attempt = self._attempt
        try:
            async with asyncio.timeout(None) as cut:
                self._cut = cut
                result = await self._live(attempt, code)
        except Exception as error:
            if isinstance(error, TimeoutError) and cut.expired():
                return await self._of_twin()
            if self._task is not None and self._winner is not attempt:
                try:
                    return await self._task  # what is left of the attempt
                except Exception:
                    if self._winner is self._twin:  # what it emitted has been seen
                        raise
            raise error  # noqa: TRY201 - not the one of the other
        self.first_in(attempt)
        return result if self._winner is attempt else await self._of_twin()

    async def _of_twin(self) -> Any:
        if self._task is None:
            raise AssertionError("no second execution has begun")
        return await self._task

    def _begin(self) -> None:
        """The first token is late: execute the code again, if that is allowed now."""
        attempt = self._attempt
        if self._winner is not None or self._task is not None or not self._hedging.may(attempt):
            return
        twin = attempt.anew()
        twin.target, twin.label, twin.began, twin.at = attempt.target, attempt.label, attempt.began, attempt.at
        twin.queues = twin.live = False  # until it wins
        twin.first = _Twin(functools.partial(self.first_in, twin))
        if not self._enters(twin):
            self._hedging.give_back()
            return
        self._context.run(current.set, twin)
        # Not in the context of the body, for which a new task would count as a branch.
        self._task = self._context.run(self._loop.create_task, self._again(twin), context=self._context)

    def _enters(self, twin: Attempt) -> bool:
        """Whether the first execution has no token yet, which may come in another thread."""
        with self._lock:
            if self._winner is None:
                self._twin = twin
            return self._winner is None

    async def _again(self, twin: Attempt) -> Any:
        twin.waits()
        try:
            if not await _has_permits(twin):
                self._hedging.give_back()
                raise _NoPermit
            result = await self._live(twin, twin.call.thunk())
        except ResourceBusy:
            if self._winner is twin:
                raise
            self._hedging.give_back()  # it would have had to wait
            raise _NoPermit from None
        finally:
            twin.live, twin.queues = False, True  # it is over
            if twin.held is not None:
                twin.held.close()
            twin.release()
            twin.first = None  # it refers to this
        self.first_in(twin)
        twin.live = False
        return result

    def first_in(self, attempt: Attempt) -> None:
        """This one has a token, or has ended well: it wins, unless the other has won. From any thread."""
        with self._lock:
            if self._winner is not None:
                return
            self._winner = attempt
            loser = self._twin if attempt is self._attempt else self._attempt
            if loser is not None:
                loser.live, attempt.live = False, True
            attempt.queues = True
        self._hedging.saw(self._attempt, self._attempt.clock.monotonic() - self._began_s)
        if loser is not None:
            call_threadsafe(self._loop, self._won)

    def _won(self) -> None:
        """Cancel the other one."""
        if self._winner is self._attempt:
            if self._task is not None:
                self._task.cancel()
            return
        if self._attempt.first is not None:
            self._attempt.first.token()
        if self._cut is not None and not self._cut.expired():
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._cut.reschedule(self._loop.time())

    async def _end(self) -> None:
        task = self._task
        if task is None:
            return
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if not isinstance(error, _NoPermit):
            won = self._winner is self._twin
            self._hedging.ended(won)
            if self._attempt.trace is not None:
                self._attempt.trace.hedged(self._attempt.number, won=won)


class _NoPermit(Exception):
    """The code was not executed again, as there was no permit for it."""


async def _has_permits(twin: Attempt) -> bool:
    """Get the permits of what the step uses, each at once or not at all."""
    holder = twin.holder
    if holder is None or not twin.call.policy.uses:
        return True
    kept = Kept(holder.limits)
    twin.releases.append(kept)
    for resource in twin.call.policy.uses:
        ask, answered = holder.ask(resource), asyncio.get_running_loop().create_future()
        try:
            holder.limits.ask(ask, functools.partial(_notify, answered))
            answer = await answered
        except BaseException:
            holder.limits.withdraw(ask.id)
            raise
        if not isinstance(answer, Granted):
            return False
        kept.permits[resource] = Held(ask.id, answer.tokens, ask.credential)
    return True


def _notify(answered: asyncio.Future[Answer], answer: Answer) -> None:
    if not isinstance(answer, Waits):
        call_threadsafe(answered.get_loop(), _settle, answered, answer)


def _settle(answered: asyncio.Future[Answer], answer: Answer) -> None:
    if not answered.done():
        answered.set_result(answer)
