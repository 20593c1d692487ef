"""Where one attempt of a step executes: inline on its run loop, in a thread, or in a process.

Gives back `(live value, encoded result)`; knows nothing of journals or retries.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from offramp.core.spec import as_awaitable
from offramp.errors import StepTimeout
from offramp.execution.context import current
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

    async def run(self, attempt: Attempt, encoded: bytes, given: tuple[Any, ...] | None) -> Result:
        """Execute one attempt, with a copy of the arguments.

        Args:
            attempt: the attempt, which the step's code finds in the context.
            encoded: the arguments as JSON.
            given: the same as the body has them; None where it is elsewhere.

        Raises:
            EncodingError: the arguments do not fit, or the result cannot be encoded.
            StepTimeout: it took longer than the step's timeout, counted from when its code began.
            TooLarge: its result is.
            Exception: whatever the step raised.
        """
        spec = attempt.spec
        if spec.lane == "process":
            if self._processes is None:
                raise AssertionError("a process step, but no process lane was started")
            return None, spec.signature.bounded(await self._processes.run(attempt, encoded), self._result_bytes_max)
        arguments = spec.signature.copies(given, encoded)
        token = current.set(attempt)
        try:
            if spec.lane == "thread":
                live = await self._in_thread(attempt, arguments)
            elif not spec.is_async:
                live = spec.signature.call(spec.function, arguments)
            elif spec.timeout is None:
                live = await as_awaitable(spec.signature.call(spec.function, arguments))
            else:
                live = await _timed(as_awaitable(spec.signature.call(spec.function, arguments)), attempt)
        except (SystemExit, KeyboardInterrupt) as error:
            # Out of a task these would end the run loop, and every run on it.
            raise RuntimeError(f"step {spec.name!r} raised {type(error).__name__}: {error}") from error
        finally:
            current.reset(token)
        return live, spec.signature.bounded(spec.signature.encode_result(live), self._result_bytes_max)

    async def _in_thread(self, attempt: Attempt, arguments: Sequence[Any]) -> Any:
        loop = asyncio.get_running_loop()
        call: Callable[[], Any] = _bound(contextvars.copy_context(), attempt, arguments)
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


def _bound(context: contextvars.Context, attempt: Attempt, arguments: Sequence[Any]) -> Callable[[], Any]:
    spec, trace = attempt.spec, attempt.trace
    queued_at = time.perf_counter() if trace is not None else 0.0

    def call() -> Any:
        if trace is not None:
            trace.queued(time.perf_counter() - queued_at)
        try:
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
