"""The process lane: a fixed number of warm child processes for CPU-bound steps.

Each child is served by one thread of the parent. JSON goes both ways, so nothing is unpickled; a child is killed
when its step times out or is cancelled. A child that ended, also an idle one, is replaced at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import msgspec

from offramp.core.failure import annotate, exception_of
from offramp.errors import LaneDied, StartFailed
from offramp.execution import process_group
from offramp.execution.first_token import bounded
from offramp.execution.holding import Idle
from offramp.execution.lending import Lender
from offramp.execution.process_child import Job, Ready, Reply, main
from offramp.ports import forks
from offramp.ports.commit import call_threadsafe
from offramp.ports.limits import Place
from offramp.telemetry.setup import LANE_CLOSE_S_MAX

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from offramp.execution.attempt import Attempt

logger = logging.getLogger("offramp")
START_TIMEOUT_S = 60.0
IDLE_LOOK_S = 1.0
"""How often a process that has nothing to do is checked to be alive."""
LEAVE_S_MAX = LANE_CLOSE_S_MAX + 0.5
"""The time for a traced child to export its last spans and end."""
_KILLED = -9
"""Exit code of a process that was killed with SIGKILL, a name that some systems lack."""
_GUARD = 'A script that runs an app with process lanes starts it below `if __name__ == "__main__":`'


class _Request:
    """One attempt on its way through the lane."""

    def __init__(self, attempt: Attempt, job: Job) -> None:
        self.attempt = attempt
        self.job = job
        self.lender = Lender(attempt)
        self.loop = asyncio.get_running_loop()
        self.asked_at = time.perf_counter()
        self.begun = self.loop.create_future()
        self.done: asyncio.Future[bytes] = self.loop.create_future()
        self.abandoned = False
        self.process: SpawnProcess | None = None
        self._lock = threading.Lock()

    def begin(self, process: SpawnProcess) -> bool:
        with self._lock:
            if self.abandoned:
                return False
            self.process = process
        return call_threadsafe(self.loop, _settle, self.begun, None, None)

    def end(self, value: bytes | None, error: Exception | None) -> None:
        with self._lock:
            self.process = None
        call_threadsafe(self.loop, _settle, self.done, value, error)

    def abandon(self) -> None:
        """Give it up: kills the child that executes it, if any."""
        with self._lock:
            self.abandoned = True
            if self.process is not None:
                process_group.kill(self.process)


def _settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class ProcessLane:
    """A pool of child processes.

    Args:
        count: how many.
        modules: names to import at the start, so that the first step finds its process ready.
        started: called with the seconds that a child took to get ready.
        traced_as: the service's name in traces, None without tracing.
        hooks: module and name of the functions that each child calls at its start.
        start_timeout_s: how long a child may take until it is ready.
        place: leads each child to the limits of the service.
    """

    def __init__(
        self,
        count: int,
        modules: list[str],
        started: Callable[[float], object] = lambda _seconds: None,
        traced_as: str | None = None,
        *,
        hooks: Sequence[tuple[str, str]] = (),
        start_timeout_s: float = START_TIMEOUT_S,
        place: Place | None = None,
    ) -> None:
        self._started = started
        self._modules = modules
        self._traced_as = traced_as
        self._hooks = hooks
        self._place = place
        self._start_timeout_s = start_timeout_s
        self._first = [_unbreakable() for _ in range(count)]
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._context = multiprocessing.get_context("spawn")
        self._closed = False
        self._children: set[SpawnProcess] = set()
        self._busy: set[SpawnProcess] = set()
        self._ready: set[SpawnProcess] = set()
        self._pipes: weakref.WeakSet[Connection] = weakref.WeakSet()
        forks.on_fork(self)
        self._threads = [
            threading.Thread(target=self._serve, args=(first,), name=f"offramp-process-{n}", daemon=True)
            for n, first in enumerate(self._first)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def warm(self) -> int:
        """The children that have started and not ended, as far as this process knows."""
        return len(self._ready)

    def forked(self) -> None:
        """In a forked child: close the pipes, as a lane process ends once every copy of its pipe is closed."""
        for pipe in list(self._pipes):
            pipe.close()

    async def started(self) -> None:
        """Wait until the first children are ready.

        Raises:
            StartFailed: one did not get ready.
        """
        for first in self._first:
            await asyncio.wrap_future(first)

    async def run(self, attempt: Attempt) -> bytes:
        """Execute one attempt in a child; returns its encoded result.

        Raises:
            StepTimeout: the child was killed at the step's timeout.
            LaneDied: the child ended by itself.
            Exception: the exception of the step, restored from its description.
        """
        view = attempt.run()
        remaining = view.remaining()
        call = attempt.call
        job = Job(
            module=call.function.__module__,
            qualname=call.function.__qualname__,
            arguments=call.arguments,
            run_id=view.id,
            pipeline=view.pipeline,
            session_id=view.session_id,
            metadata=view.metadata,
            step=call.name,
            attempt=view.attempt,
            idempotency_key=view.idempotency_key or "",
            target=attempt.target,
            path=view.path,
            remaining_s=None if remaining == float("inf") else remaining,
            trace={} if self._traced_as is None else _current_trace(),
            awaits_first=call.policy.first is not None,
        )
        request = _Request(attempt, job)
        self._requests.put(request)
        try:
            with Idle(attempt):  # the child asks anew for what is given back
                await request.begun
            if attempt.trace is not None:
                attempt.trace.queued(time.perf_counter() - request.asked_at)
            return await bounded(request.done, attempt)
        finally:
            request.abandon()
            request.lender.close()

    def _serve(self, first: Future[None]) -> None:
        started: tuple[SpawnProcess, Connection] | None = None
        ready_at = 0.0
        while not self._closed:
            if started is None:
                try:
                    started = self._start()
                except StartFailed as error:
                    self._not_started(error, first)
                    continue
                ready_at = time.perf_counter()
                if not first.done():
                    first.set_result(None)
            child, pipe = started
            request = self._next(child)
            if request is None:
                started = None if self._died_idle(child) else started
                continue
            if not request.begin(child):
                continue
            if request.asked_at < ready_at:
                request.attempt.scope.report_cold_start()
            self._busy.add(child)
            try:
                self._work(request, pipe)
            except (EOFError, OSError, msgspec.DecodeError):
                request.end(None, self._death(request, child))
                self._reap(child)
                started = None
            finally:
                self._busy.discard(child)
        if started is not None:
            self._let_go(*started)

    def _next(self, child: SpawnProcess) -> _Request | None:
        """The next attempt for this child; None if it died while it was idle, or the lane closes."""
        while not self._closed and child.is_alive():
            with contextlib.suppress(queue.Empty):
                request = self._requests.get(timeout=IDLE_LOOK_S)
                if request is None or child.is_alive():
                    return request
                self._requests.put(request)
        return None

    def _work(self, request: _Request, pipe: Connection) -> None:
        request.job.loan = request.lender.loan()
        pipe.send_bytes(msgspec.msgpack.encode(request.job))
        while True:
            reply = msgspec.msgpack.decode(pipe.recv_bytes(), type=Reply)
            if reply.kind == "emit":
                request.attempt.emit(reply.value or b"null")
                continue
            if reply.kind == "permit":
                request.lender.hear(reply.value or b"")
                continue
            if reply.kind == "first":
                request.attempt.first_token()
                continue
            if reply.failure is not None:
                request.end(None, exception_of(reply.failure))
            else:
                request.end(reply.value, None)
            return

    def _start(self) -> tuple[SpawnProcess, Connection]:
        parent, theirs = self._context.Pipe()
        self._pipes.update((parent, theirs))
        began = time.monotonic()
        given = (theirs, self._modules, self._traced_as, self._hooks, self._place)
        child = self._context.Process(target=main, args=given, name="offramp-lane", daemon=True)
        try:
            child.start()
            theirs.close()
            self._children.add(child)
            if not parent.poll(self._start_timeout_s):
                raise TimeoutError(f"it is not ready after {self._start_timeout_s:g} s (start_timeout)")
            ready = msgspec.msgpack.decode(parent.recv_bytes(), type=Ready)
        except (EOFError, OSError, RuntimeError) as error:
            self._reap(child)
            what = str(error) or "its process ended at once"
            guard = "" if isinstance(error, TimeoutError) else f". {_GUARD}"
            raise StartFailed(f"a process lane did not start: {what}{guard}") from error
        if ready.failed:
            self._reap(child)
            failed = StartFailed(f"a process lane did not start: {ready.failed}")
            annotate(failed, f"in the process lane:\n{ready.traceback}")
            raise failed
        if ready.problems:
            logger.warning("a process lane failed to start properly: %s", "; ".join(ready.problems))
        self._started(time.monotonic() - began)
        self._ready.add(child)
        return child, parent

    def _not_started(self, error: StartFailed, first: Future[None]) -> None:
        """Fail the start of this process, or later the step that needs the lane: wait for that rather than spin."""
        if self._closed:
            if not first.done():
                first.set_exception(error)
            return
        logger.error("%s", "\n".join([str(error), *getattr(error, "__notes__", [])]))
        if not first.done():
            first.set_exception(error)
        request = self._requests.get()
        if request is not None:
            death = LaneDied(str(error))
            request.end(None, death)
            call_threadsafe(request.loop, _settle, request.begun, None, death)

    def _death(self, request: _Request, child: SpawnProcess) -> LaneDied:
        child.join(1.0)
        killed = child.exitcode == _KILLED
        hint = "did it run out of memory?" if killed else "look for os._exit, or a crash in code that is not Python"
        return LaneDied(
            f"the process that executed step {request.attempt.call.name!r} ended (exit code {child.exitcode}); {hint}"
        )

    def _died_idle(self, child: SpawnProcess) -> bool:
        """Whether it died without a step that caused it: then another takes its place before a step needs it."""
        if self._closed or child.is_alive():
            return False
        logger.warning("an idle process of the process lane ended (exit code %s); another is started", child.exitcode)
        self._reap(child)
        return True

    def _reap(self, child: SpawnProcess) -> None:
        self._children.discard(child)
        self._ready.discard(child)
        process_group.kill(child)
        with contextlib.suppress(ValueError, AttributeError, AssertionError):
            child.join(1.0)

    def _let_go(self, child: SpawnProcess, pipe: Connection) -> None:
        """End an idle child: a traced one ends by itself, as it has spans to export."""
        pipe.close()
        if self._traced_as is not None:
            child.join(LEAVE_S_MAX)
        self._reap(child)

    def close(self) -> None:
        """Kill the children, let traced idle ones end by themselves, and end the threads."""
        self._closed = True
        for _ in self._threads:
            self._requests.put(None)
        for child in list(self._children if self._traced_as is None else self._busy):
            process_group.kill(child)
        ends = time.monotonic() + LEAVE_S_MAX + 0.5
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))


def _current_trace() -> dict[str, str]:
    from offramp.telemetry.context import carried

    return carried()


def _unbreakable() -> Future[None]:
    """A future that no waiter can cancel."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
