"""What an attempt waits for because of `uses=`: a permit of each resource, in one order, before it begins.

A `Before` of the process. It asks the limits and decides nothing: their order is `core/order.py`'s. What a wait means
for the run is said by `execution/reports.py`; `execution/holding.py` has what an attempt does with its permits.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING

from offramp.execution.holding import AttemptHolder, Kept
from offramp.ports.commit import call_threadsafe
from offramp.ports.limits import Answer, Ask, Granted, Held, Limits, Refused, Waits, refusal
from offramp.ports.seams import Asked, Before, Postpone, Says, Wait

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt, OwnHolder
    from offramp.execution.crowd import Crowd
    from offramp.ports.clock import Clock

SAME_MIN = 20
"""Calls in succession with one credential after which a step that has used several is expected to go on with it."""
CLOSED_S = 1.0
"""After which an attempt is asked for again that the limits of a stopping process refused."""


class Permits(Before):
    """The permits of this process's attempts.

    Args:
        limits: where they come from.
        clock: time, and randomness for ids.
        crowd: the waits of the deep path here.
    """

    def __init__(self, limits: Limits, clock: Clock, crowd: Crowd) -> None:
        self.limits = limits
        self.clock = clock
        self.crowd = crowd
        self._own = clock.random_bytes(4).hex()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._credentials: dict[tuple[str, str], tuple[str, int]] = {}
        """What a step called a resource with last, and how often in succession."""

    def credential(self, step: str, resource: str) -> str:
        """What the step calls the resource with, as it seems; empty if there is no telling: then no breaker stops it
        before its request is known.
        """
        last, times = self._credentials.get((step, resource), ("", 0))
        return last if times >= SAME_MIN else ""

    def note(self, step: str, resource: str, credential: str) -> None:
        """The step calls the resource with this."""
        key = step, resource
        known = self._credentials.get(key)
        if known is None:
            self._credentials[key] = credential, SAME_MIN
        elif known[0] != credential:
            self._credentials[key] = credential, 1
        elif known[1] < SAME_MIN:
            self._credentials[key] = credential, known[1] + 1

    def new_id(self, run_id: str) -> str:
        """An id for a permit; of those asked for a run in this process, the earlier one is smaller."""
        return f"{run_id}:{next(self._numbers):010d}:{self._own}"

    def holder(self, attempt: Attempt) -> OwnHolder:
        """The one holder of an attempt. From any thread."""
        with self._lock:
            held = attempt.held
            if held is None:
                held = attempt.held = AttemptHolder(attempt, self)
        if attempt.is_over:  # looked at after the holder can be seen, which the end of the attempt closes
            held.close()
        return held

    async def admit(self, asked: Asked, says: Says) -> Kept:
        """Wait for the permits of all that the attempt uses, one after another; the earlier ones are kept meanwhile.

        Raises:
            ResourceBusy: a queue is full.
            ExceedsLimit: it needs more tokens than there ever are.
            CircuitOpen: a breaker is open.
            WaitsForItself: it would wait for a permit that it keeps.
            Postpone: the wait is to go on without a process.
        """
        kept = Kept(self.limits)
        try:
            for resource in asked.uses:
                ask = Ask(
                    id=self.new_id(asked.run_id),
                    resource=resource,
                    run_id=asked.run_id,
                    step=asked.target or asked.step,
                    sla=asked.sla,
                    tenant=asked.tenant,
                    priority=asked.priority,
                    within=tuple(permit.id for permit in kept.permits.values()),
                    credential=self.credential(asked.target or asked.step, resource),
                )
                granted = await _Asking(self, ask, asked, says).granted()
                kept.permits[resource] = Held(ask.id, granted.tokens, ask.credential)
        except BaseException:
            kept()
            raise
        return kept


class _Asking:
    """One ask of an admission, on its loop."""

    def __init__(self, permits: Permits, ask: Ask, asked: Asked, says: Says) -> None:
        self.order = -asked.priority, asked.run_id
        self.expected_s: float | None = None
        self._permits = permits
        self._ask = ask
        self._is_deep = asked.path == "deep"
        self._says = says
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._answer: Granted | Refused | None = None
        self._has_waited = False

    async def granted(self) -> Granted:
        """The grant; raises as `admit`."""
        limits, permit = self._permits.limits, self._ask.id
        try:
            limits.ask(self._ask, self._notify)
            if self._answer is None:
                self._future = self._loop.create_future()
                await self._future
        except BaseException:
            limits.withdraw(permit)
            raise
        finally:
            self._end()
        answer = self._answer
        if isinstance(answer, Granted):
            return answer
        assert answer is not None  # noqa: S101 - for the types: the future was resolved with one
        if answer.why == "closed":
            raise Postpone(self._permits.clock.time() + CLOSED_S)
        raise refusal(answer)

    def _notify(self, answer: Answer) -> None:
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - documented; get_running_loop raises where none is
            self._take(answer)
        else:
            call_threadsafe(self._loop, self._take, answer)

    def _take(self, answer: Answer) -> None:
        future = self._future
        if self._answer is not None or (future is not None and future.done()):
            return
        if isinstance(answer, Waits):
            self._waits(answer)
            return
        if isinstance(answer, Refused) and answer.why == "open":
            self._has_waited = True
            self._says(Wait(self._ask.resource, Waits("breaker", 0, answer.retry_after_s)))
        self._answer = answer
        if future is not None:
            future.set_result(None)

    def _waits(self, answer: Waits) -> None:
        self.expected_s = answer.expected_s
        begins, self._has_waited = not self._has_waited, True
        self._says(Wait(self._ask.resource, answer))
        if begins and self._is_deep:
            self._permits.crowd.enter(self)

    def put_off(self, until: float) -> None:
        """See `crowd.Waiting`."""
        call_threadsafe(self._loop, self._postpone, until)

    def _postpone(self, until: float) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_exception(Postpone(until))

    def _end(self) -> None:
        if self._has_waited:
            self._permits.crowd.leave(self)
            self._says(Wait(self._ask.resource, None))
