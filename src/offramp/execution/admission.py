"""Chooses the target of a failover's attempt before it begins: the first that has not failed and admits it.

Where the wait for one is too long, the next one is asked as well, and the first to admit the attempt is taken.
`core/failover.py` decides what is too long.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from offramp.core.failover import left, too_long
from offramp.errors import CircuitOpen
from offramp.execution.context import current
from offramp.execution.waiting import sleep_for
from offramp.ports.seams import Postpone

if TYPE_CHECKING:
    from offramp.core.failover import Reason
    from offramp.execution.attempt import Attempt
    from offramp.ports.limits import Waits

AGAIN_S = 1.0
"""The delay before targets are asked again that an engine did not let the attempt wait for longer."""
AGAIN_S_MIN = 0.05
"""The least delay before a target is asked again that put the attempt off, while another one is waited for."""


async def admit(attempt: Attempt, passes: Passes | None) -> None:
    """Make this attempt one of the first target that has not failed and admits it.

    Args:
        attempt: of a failover.
        passes: waits for the admissions of an attempt; None where there are none.

    Raises:
        Postpone: no target can admit it before a later time.
        Exception: what the first target refused it with, if all of them did.
    """
    targets = attempt.call.targets
    if targets is None:
        raise AssertionError("no failover")
    places = left(targets.names, attempt.earlier) or [len(targets.names) - 1]
    _aim(attempt, places[0], is_last=len(places) == 1)
    if passes is None:
        return
    if len(places) == 1:
        await passes(attempt, lambda _answer: None)
    else:
        await _Admission(attempt, places, passes).run()


def _aim(attempt: Attempt, place: int, *, is_last: bool) -> None:
    targets = attempt.call.targets
    if targets is not None:
        attempt.call = targets.call(place, is_last=is_last)
        attempt.target = attempt.call.target


class Passes(Protocol):
    """Waits for the admissions of an attempt."""

    def __call__(self, attempt: Attempt, hears: Callable[[Waits], object], /) -> Coroutine[Any, Any, None]:
        """Return once it is admitted; `hears` of the limits' answers until then."""


class _Asked:
    """A target that was asked to admit the attempt."""

    def __init__(self, attempt: Attempt, place: int) -> None:
        self.attempt = attempt
        self.place = place
        self.task: asyncio.Task[None] | None = None
        self.reason: Reason | None = None
        """Why the next target is asked as well."""
        self.until: float | None = None
        """When its wait is expected to end, in epoch seconds."""
        self.is_put_off = False
        """Whether it is to be asked again then."""

    @property
    def error(self) -> BaseException | None:
        """What it refused the attempt with."""
        task = self.task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    @property
    def admits(self) -> bool:
        """Whether it has admitted the attempt."""
        task = self.task
        return task is not None and task.done() and not task.cancelled() and task.exception() is None


class _Admission:
    """The targets that are asked to admit one attempt: the next one too, once the wait for those before is too long."""

    def __init__(self, attempt: Attempt, places: Sequence[int], passes: Passes) -> None:
        self._attempt = attempt
        self._left, self._most = list(places), len(places)
        self._passes = passes
        self._asked: list[_Asked] = []
        self._changed = asyncio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Return once one has admitted it; of several, the first in order is taken."""
        attempt, clock = self._attempt, self._attempt.clock
        since = clock.monotonic()
        attempt.waits()
        taken: _Asked | None = None
        try:
            async with asyncio.timeout(attempt.patience_s) as limit:
                taken = await self._first()
                # Before what may be cancelled: from here on the attempt gives them back, whatever happens to it.
                attempt.releases, taken.attempt.releases = taken.attempt.releases, []
        except TimeoutError:
            if limit.expired():
                raise Postpone(clock.time() + AGAIN_S) from None
            raise
        finally:
            await self._end(taken)
        for passed in self._asked[: self._asked.index(taken)]:
            attempt.scope.metrics.failed_over(passed.reason or "wait")
        shut = sum(each.reason == "breaker" for each in self._asked if each is not taken)
        _aim(attempt, taken.place, is_last=shut == self._most - 1)
        if attempt.trace is not None:
            attempt.trace.queued(clock.monotonic() - since)

    async def _first(self) -> _Asked:
        self._ask()
        while True:
            admitting = next((each for each in self._asked if each.admits), None)
            if admitting is not None:
                return admitting
            if self._left:
                if self._asked[-1].reason is not None:
                    self._ask()
                    continue
            else:
                self._require_one()
            await self._changed.wait()
            self._changed.clear()

    def _require_one(self) -> None:
        """Return while a target may still admit it; tell the run when that is expected."""
        errors = [each.error for each in self._asked]
        waiting = [each for each, error in zip(self._asked, errors, strict=True) if error is None]
        if not waiting:
            raise errors[0] or AssertionError("refused without an error")
        if all(each.is_put_off for each in waiting):
            raise Postpone(min(each.until or 0.0 for each in waiting))
        if all(each.reason is not None and each.until is not None for each in waiting):
            until = min(each.until or 0.0 for each in waiting)
            self._attempt.scope.foretell(until, lambda: not self._is_over)

    def _ask(self) -> None:
        place = self._left.pop(0)
        asked = _Asked(self._copy(place), place)
        self._asked.append(asked)
        context = contextvars.copy_context()
        context.run(current.set, asked.attempt)
        # Not in the context of the body, for which a new task would count as a branch.
        create = asyncio.get_running_loop().create_task
        asked.task = context.run(create, self._admit(asked), context=context)

    def _copy(self, place: int) -> Attempt:
        made = self._attempt.anew()
        made.foretells, made.patience_s = False, self._attempt.patience_s
        made.stays = self._attempt.stays
        _aim(made, place, is_last=False)
        return made

    async def _admit(self, asked: _Asked) -> None:
        clock = self._attempt.clock
        try:
            while True:
                try:
                    await self._passes(asked.attempt, functools.partial(self._take, asked))
                except Postpone as postponed:
                    asked.reason = "breaker" if isinstance(postponed.__cause__, CircuitOpen) else "wait"
                    asked.until, asked.is_put_off = postponed.until, True
                    asked.attempt.release()
                    self._changed.set()
                    await sleep_for(clock, max(AGAIN_S_MIN, postponed.until - clock.time()))
                    asked.is_put_off = False
                else:
                    return
        except Exception as error:
            asked.reason = "breaker" if isinstance(error, CircuitOpen) else "wait"
            asked.attempt.release()
            raise
        finally:
            self._changed.set()

    def _take(self, asked: _Asked, answer: Waits) -> None:
        facts, clock = self._attempt.scope.facts, self._attempt.clock
        asked.until = None if answer.expected_s is None else clock.time() + answer.expected_s
        asked.reason = too_long(
            is_open=answer.reason == "breaker",
            expected_s=answer.expected_s,
            path=facts.path,
            remaining_s=facts.remaining(),
        )
        self._changed.set()

    async def _end(self, taken: _Asked | None) -> None:
        """Give up the waits that are left, and give back what others than this one have got."""
        self._is_over = True
        tasks = [each.task for each in self._asked if each.task is not None]
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for each in self._asked:
                _ = each.error  # it was looked at
                if each is not taken:
                    each.attempt.release()
