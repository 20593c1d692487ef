"""The child side of the process lane: imports the step's module, executes, replies. Runs nothing else."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import importlib
import inspect
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from multiprocessing.connection import Connection
from typing import Any, Literal

import msgspec

from offramp.core.codec import Signature
from offramp.core.failure import Failure, failure_of
from offramp.core.question import Question
from offramp.errors import SettingsError
from offramp.execution.borrowing import Borrower, LaneLimits
from offramp.execution.clock import SystemClock
from offramp.execution.context import Run, current
from offramp.execution.endings import aborted
from offramp.execution.forked import Territory
from offramp.execution.lending import Loan
from offramp.execution.process_group import Leader
from offramp.ports.limits import Place
from offramp.telemetry.setup import LANE_CLOSE_S_MAX, LANE_DELAY_MS, Telemetry, set_up

TRACEBACK_LENGTH_MAX = 6_000
"""Characters of the end of a failed hook's traceback that the parent logs."""


class Job(msgspec.Struct):
    """One attempt to execute; `arguments` is a JSON object, `remaining_s` None for no end, `trace` empty for none."""

    module: str
    qualname: str
    arguments: bytes
    run_id: str
    pipeline: str
    session_id: str | None
    metadata: dict[str, str]
    step: str
    attempt: int
    idempotency_key: str
    target: str | None
    path: Literal["fast", "deep"]
    remaining_s: float | None
    trace: dict[str, str]
    awaits_first: bool = False
    loan: Loan | None = None


class Reply(msgspec.Struct):
    """`emit` any number of times, then one `done`; `first` for the first token, where that is waited for.

    `permit` is news for `lending.Lender`.
    """

    kind: Literal["emit", "first", "permit", "done"]
    value: bytes | None = None
    failure: Failure | None = None


class Ready(msgspec.Struct):
    """The first message: the child takes jobs, unless it `failed` to start."""

    problems: list[str]
    failed: str = ""
    traceback: str = ""


class RemoteAttempt:
    """The value of the context variable in a lane process; emitted values return through the pipe."""

    def __init__(self, job: Job, pipe: Connection, limits: LaneLimits) -> None:
        self._job = job
        self._pipe = pipe
        self._lock = threading.Lock()
        self._is_over = False
        self._began = time.monotonic()
        self.clock = SystemClock()
        self.target = job.target
        """See `Attempt`."""
        self._awaits_first = job.awaits_first
        self.holder: Borrower | None = None
        """See `Attempt`."""
        if job.loan is not None:
            news = functools.partial(self._send, "permit")
            self.holder = Borrower(job.loan, job.run_id, limits, news, self.first_token)

    def _send(self, kind: Literal["emit", "first", "permit"], value: bytes | None = None) -> None:
        """To the parent, from any thread; nothing once the attempt is over, as another one may have begun."""
        encoded = msgspec.msgpack.encode(Reply(kind, value))
        with self._lock:
            if not self._is_over:
                self._pipe.send_bytes(encoded)

    def close(self) -> None:
        """The attempt is over."""
        if self.holder is not None:
            self.holder.close()
        with self._lock:
            self._is_over = True

    def run(self) -> Run:
        """The view of the run, as it was when the step began."""
        job = self._job
        return Run(
            run_id=job.run_id,
            pipeline=job.pipeline,
            session_id=job.session_id,
            metadata=job.metadata,
            step=job.step,
            attempt=job.attempt,
            idempotency_key=job.idempotency_key,
            path=lambda: job.path,
            remaining=self._remaining,
            cancelled=lambda: False,  # a cancelled process step is killed instead
        )

    def _remaining(self) -> float:
        left = self._job.remaining_s
        return float("inf") if left is None else max(0.0, left - (time.monotonic() - self._began))

    @property
    def replaying(self) -> bool:
        """False: a step that executes is new."""
        return False

    def emit(self, encoded: bytes) -> None:
        """Send a delta to the parent."""
        if self.holder is not None:
            self.holder.emitted()
        self._send("emit", encoded)

    def first_token(self) -> None:
        """See `Attempt`."""
        if self._awaits_first:
            self._awaits_first = False
            self._send("first")

    def value(self, _name: str, compute: Callable[[], Any]) -> Any:
        """Call it: inside a step, only the result is journaled."""
        return compute()

    async def signal(self, question: Question, timeout: float | None) -> bytes:
        """Process steps are plain functions, so nothing can await this."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Process steps are plain functions, so nothing can await this."""
        raise NotImplementedError

    def cleanup(self, _timeout: float) -> AbstractAsyncContextManager[object]:
        """Process steps are plain functions, so nothing can enter this."""
        raise NotImplementedError


def main(
    pipe: Connection,
    modules: list[str],
    traced_as: str | None,
    hooks: Sequence[tuple[str, str]] = (),
    place: Place | None = None,
) -> None:
    """Serve jobs until the pipe closes.

    Args:
        pipe: to the parent.
        modules: names to import first.
        traced_as: the service's name, None where nothing is traced.
        hooks: module and name of the functions to call first.
        place: leads to the limits of the service, None if nothing here can reach any.
    """
    leader = Leader(pipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    problems = _imported(modules)
    telemetry = Telemetry()
    if traced_as is not None:
        try:
            telemetry = set_up(traced_as, "lane", LANE_DELAY_MS)
        except SettingsError as error:
            problems.append(str(error))
    ready = _called(hooks)
    ready.problems = problems
    pipe.send_bytes(msgspec.msgpack.encode(ready))
    limits = LaneLimits(place, SystemClock())
    try:
        if not ready.failed:
            _serve(pipe, leader.territory, limits)
    finally:
        limits.close()
        telemetry.close(LANE_CLOSE_S_MAX)


def _serve(pipe: Connection, territory: Territory, limits: LaneLimits) -> None:
    known: dict[tuple[str, str], tuple[Callable[..., Any], Signature]] = {}
    while True:
        try:
            job = msgspec.msgpack.decode(pipe.recv_bytes(), type=Job)
        except (EOFError, OSError):
            return
        # The next step does not see the variables that a step sets.
        attempt = RemoteAttempt(job, pipe, limits)
        reply = contextvars.Context().run(_execute, job, attempt, known, territory)
        attempt.close()
        try:
            pipe.send_bytes(msgspec.msgpack.encode(reply))
        except OSError:
            return


def _imported(modules: list[str]) -> list[str]:
    problems = []
    for name in modules:
        try:
            _module(name)
        except Exception as error:  # noqa: BLE001 - reported, and again when a step needs the module
            problems.append(f"{name}: {error!r}")
    return problems


def _called(hooks: Sequence[tuple[str, str]]) -> Ready:
    for module, name in hooks:
        try:
            made = _member(module, name)()
            if inspect.isawaitable(made):
                asyncio.run(_awaited(made))
        except BaseException as error:  # noqa: BLE001 - the parent reports it
            lines = "".join(traceback.format_exception(error))[-TRACEBACK_LENGTH_MAX:]
            return Ready([], f"on_start {name!r} failed: {type(error).__name__}: {error}", lines)
    return Ready([])


async def _awaited(made: Awaitable[object]) -> None:
    await made


def _module(name: str) -> Any:
    # Multiprocessing loads the parent's __main__ under this name in a spawned child.
    if name == "__main__":
        return sys.modules.get("__mp_main__", sys.modules["__main__"])
    return importlib.import_module(name)


def _member(module: str, qualname: str) -> Any:
    found: Any = _module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _function(job: Job) -> Callable[..., Any]:
    found = _member(job.module, job.qualname)
    function: Callable[..., Any] = getattr(found, "fn", found)  # the name is bound to the Step
    return function


def _execute(
    job: Job,
    attempt: RemoteAttempt,
    known: dict[tuple[str, str], tuple[Callable[..., Any], Signature]],
    territory: Territory,
) -> Reply:
    began_in = os.getpid()
    current.set(attempt)
    if job.trace:
        _enter(job.trace)
    try:
        place = (job.module, job.qualname)
        if place not in known:
            function = _function(job)
            known[place] = function, Signature(function, f"step {job.step!r}")
        function, signature = known[place]
        arguments = signature.decode_call(job.arguments)
        with territory:
            result = signature.call(function, arguments)
        return Reply("done", signature.encode_result(result))
    except BaseException as raised:
        if os.getpid() != began_in:  # the step forked, and this is the child
            raise
        error = raised if isinstance(raised, Exception) else aborted(raised, f"step {job.step!r}")
        return Reply("done", failure=failure_of(error))


def _enter(trace: dict[str, str]) -> None:
    """Make the span of the executing step the current one of its context."""
    from opentelemetry import context

    from offramp.telemetry.context import restored

    context.attach(restored(trace))
