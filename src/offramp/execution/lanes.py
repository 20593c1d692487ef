"""Executes one attempt of a step: inline on its run loop, in a thread, or in a process.

Returns `(live value, encoded result)`; knows nothing of journals or retries.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from offramp.execution.context import current
from offramp.execution.driving import Begun, begin
from offramp.execution.endings import aborted
from offramp.execution.first_token import bounded
from offramp.execution.forked import Territory
from offramp.execution.threads import Place, Threads

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt
    from offramp.execution.hedging import Hedging
    from offramp.execution.processes import ProcessLane

Result = tuple[Any, bytes]
Code = Callable[[], Any]

RESULT_BYTES_MAX = 8 << 20
"""The default limit of one encoded result (`max_result_bytes`)."""


class Leftovers(Protocol):
    """Reports code that continues after its attempt was timed out or cancelled."""

    def abandoned(self, attempt: Attempt, code: Coroutine[Any, Any, Any] | int) -> object:
        """Report abandoned code: a coroutine, which is closed now, or the code on the thread of this id."""

    def shortage(self) -> str | None:
        """The reason why plain steps lack threads, None while they do not."""


class Lanes:
    """The lanes of one process.

    Args:
        threads: the threads of plain steps.
        processes: the process lane, None if no step needs one.
        leftovers: reports code that continues after `cancel_grace_s`.
        cancel_grace_s: seconds that code has to end after a timeout or a cancellation.
        result_bytes_max: the limit of one encoded result.
        hedging: executes the code of steps that are hedged; None where none is.
    """

    def __init__(
        self,
        threads: Threads,
        processes: ProcessLane | None,
        leftovers: Leftovers,
        cancel_grace_s: float,
        result_bytes_max: int = RESULT_BYTES_MAX,
        hedging: Hedging | None = None,
    ) -> None:
        self.hedging = hedging
        self._result_bytes_max = result_bytes_max
        self.threads = threads
        self._processes = processes
        self._leftovers = leftovers
        self.shortage = leftovers.shortage
        self._grace_s = cancel_grace_s
        self._territory = Territory()

    @property
    def warm(self) -> int:
        """The processes of the process lane that are ready."""
        return 0 if self._processes is None else self._processes.warm

    async def run(self, attempt: Attempt) -> Result:
        """Execute one attempt, with a copy of the arguments.

        Args:
            attempt: the attempt, which the step's code reaches through its context.

        Raises:
            EncodingError: the arguments do not fit, or the result cannot be encoded.
            StepTimeout: it took longer than the step's timeout, counted from when its code began.
            TooLarge: its result is too large.
            BaseException: any exception of the step.
        """
        call, lane = attempt.call, attempt.call.policy.lane
        if lane == "process":
            if self._processes is None:
                raise AssertionError("a process step, but no process lane was started")
            attempt.waits()
            return None, call.codec.bounded(await self._processes.run(attempt), self._result_bytes_max)
        code = call.thunk()
        if call.policy.timeout is not None or call.policy.first is not None:
            attempt.waits()
            if self.hedging is not None and call.policy.first is not None and call.policy.first.hedge:
                live = await self.hedging.run(attempt, code, self._live)
            else:
                live = await bounded(self._live(attempt, code), attempt)
        elif lane == "thread":
            live = await self._in_thread(attempt, code)
        else:
            with self._territory:
                live = begin(attempt, contextvars.copy_context(), code)
                if type(live) is Begun:
                    live = await live.rest(attempt, self._grace_s, self._leftovers.abandoned)
        return live, call.codec.bounded(call.codec.encode_result(live), self._result_bytes_max)

    async def _live(self, attempt: Attempt, code: Code) -> Any:
        if attempt.call.policy.lane == "thread":
            return await self._in_thread(attempt, code)
        with self._territory:
            live = begin(attempt, contextvars.copy_context(), code)
            return await live.rest(attempt, self._grace_s, self._leftovers.abandoned) if type(live) is Begun else live

    async def _in_thread(self, attempt: Attempt, code: Code) -> Any:
        place = attempt.place
        if place is None:
            raise AssertionError("a step in a thread, but no thread was asked for")
        attempt.waits()
        try:
            return await place.run(_bound(attempt, code, place.asked_at, self._territory))
        finally:
            self._left(attempt, place)

    def _left(self, attempt: Attempt, place: Place) -> None:
        """Cancel: a thread cannot be stopped, but code that has not begun need not begin."""
        place.leave()
        if place.is_held:
            clock = attempt.clock
            clock.call_at(clock.monotonic() + self._grace_s, lambda: self._look_after(attempt, place))

    def _look_after(self, attempt: Attempt, place: Place) -> None:
        if place.is_held:
            self._leftovers.abandoned(attempt, place.thread_id)

    def close(self) -> None:
        """Stop taking steps; busy threads finish, or end with the process."""
        self.threads.close()
        if self._processes is not None:
            self._processes.close()


def _bound(attempt: Attempt, code: Code, asked_at: float, territory: Territory) -> Code:
    trace, context = attempt.trace, contextvars.copy_context()
    context.run(current.set, attempt)

    def call() -> Any:
        if trace is not None:
            trace.queued(time.perf_counter() - asked_at)
        try:
            with territory:
                return context.run(code)
        except StopIteration as error:
            # A future cannot carry it (PEP 479 does the same for generators).
            raise RuntimeError("the step raised StopIteration") from error
        except GeneratorExit as error:
            # Nor can it carry this: the coroutines that await it would be closed.
            raise aborted(error, f"step {attempt.call.name!r}") from error

    return call
