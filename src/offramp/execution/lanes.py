"""Where one attempt of a step executes: inline on its run loop, in a thread, or in a process.

Gives back `(live value, encoded result)`; knows nothing of journals or retries.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from offramp.errors import StepTimeout
from offramp.execution.context import current
from offramp.execution.forked import Territory
from offramp.ports.commit import call_threadsafe

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt
    from offramp.execution.processes import ProcessLane

Result = tuple[Any, bytes]

RESULT_BYTES_MAX = 8 << 20
"""Of one encoded result, where `max_result_bytes` does not say otherwise."""


class Lanes:
    """The lanes of one process.

    Args:
        threads: most sync steps at once.
        processes: the process lane, None where no step asks for one.
        result_bytes_max: of one encoded result.
    """

    def __init__(self, threads: int, processes: ProcessLane | None, result_bytes_max: int = RESULT_BYTES_MAX) -> None:
        self._result_bytes_max = result_bytes_max
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="offramp-step")
        self._processes = processes
        self._territory = Territory()

    async def run(self, attempt: Attempt, encoded: bytes, arguments: tuple[Any, ...]) -> Result:
        """Execute one attempt.

        Args:
            attempt: the attempt, which the step's code finds in the context.
            encoded: the arguments as JSON, for another process.
            arguments: the same as given.

        Raises:
            StepTimeout: it took longer than the step's timeout, counted from when its code began.
            TooLarge: its result is.
            Exception: whatever the step raised.
        """
        spec = attempt.spec
        if spec.lane == "process":
            if self._processes is None:
                raise AssertionError("a process step, but no process lane was started")
            return None, spec.signature.bounded(await self._processes.run(attempt, encoded), self._result_bytes_max)
        token = current.set(attempt)
        try:
            if spec.lane == "thread":
                live = await self._in_thread(attempt, arguments)
            else:
                with self._territory:
                    live = spec.signature.call(spec.function, arguments)
                    if spec.is_async:
                        live = await (live if spec.timeout is None else _timed(live, attempt))
        except (SystemExit, KeyboardInterrupt) as error:
            # Out of a task these would end the run loop, and every run on it.
            raise RuntimeError(f"step {spec.name!r} raised {type(error).__name__}: {error}") from error
        finally:
            current.reset(token)
        return live, spec.signature.bounded(spec.signature.encode_result(live), self._result_bytes_max)

    async def _in_thread(self, attempt: Attempt, arguments: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        call: Callable[[], Any] = _bound(contextvars.copy_context(), attempt, arguments, self._territory)
        if attempt.spec.timeout is None:
            return await loop.run_in_executor(self._threads, call)
        begun = asyncio.Event()

        def announced() -> Any:
            call_threadsafe(loop, begun.set)
            return call()

        future = loop.run_in_executor(self._threads, announced)
        try:
            await begun.wait()
            return await _timed(future, attempt)
        except BaseException:
            future.cancel()  # a thread cannot be stopped, but one that has not begun need not begin
            raise

    def close(self) -> None:
        """Stop taking steps; threads that are busy are left to finish or to end with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            self._processes.close()


def _bound(
    context: contextvars.Context, attempt: Attempt, arguments: tuple[Any, ...], territory: Territory
) -> Callable[[], Any]:
    spec, trace = attempt.spec, attempt.trace
    queued_at = time.perf_counter() if trace is not None else 0.0

    def call() -> Any:
        if trace is not None:
            trace.queued(time.perf_counter() - queued_at)
        try:
            with territory:
                return context.run(spec.signature.call, spec.function, arguments)
        except StopIteration as error:
            # A future cannot carry it (PEP 479 does the same for generators).
            raise RuntimeError("the step raised StopIteration") from error

    return call


async def _timed(work: Awaitable[Any], attempt: Attempt) -> Any:
    timeout = attempt.spec.timeout
    try:
        async with asyncio.timeout(timeout) as limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise timed_out(attempt) from error


def timed_out(attempt: Attempt) -> StepTimeout:
    """The error of an attempt that reached its timeout."""
    return StepTimeout(f"step {attempt.spec.name!r} took longer than its timeout of {attempt.spec.timeout:g} s")
