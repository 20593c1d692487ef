"""User code's access to its run: `current_run`, `emit`, and values that a replay does not change.

One context variable carries it through tasks and threads. Outside a run everything here works too, unjournaled.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, overload

from offramp.core.codec import encode
from offramp.core.ending import CLEANUP_S_MAX
from offramp.core.events import EMITTED_BYTES_MAX
from offramp.core.question import Question
from offramp.core.run import Path
from offramp.errors import OutsideRun, TooLarge
from offramp.ports.clock import Clock
from offramp.telemetry import logs

T = TypeVar("T")


class Run:
    """The run that is executing.

    Attributes:
        id: the run's id, for life.
        pipeline: its pipeline's name.
        session_id: the conversation it belongs to, if any.
        metadata: the metadata of the request.
        step: the executing step's name; None in the pipeline's own body.
        attempt: the number of this attempt of the step, from 1; 1 in the body.
        idempotency_key: inside a step, a key for outside services, the same over retries and recoveries; else None.
    """

    __slots__ = (
        "_cancelled",
        "_path",
        "_remaining",
        "_replaying",
        "attempt",
        "id",
        "idempotency_key",
        "metadata",
        "pipeline",
        "session_id",
        "step",
    )

    def __init__(  # noqa: PLR0913
        self,
        *,
        run_id: str,
        pipeline: str,
        session_id: str | None,
        metadata: dict[str, str],
        step: str | None,
        attempt: int,
        idempotency_key: str | None,
        path: Callable[[], Path],
        remaining: Callable[[], float],
        cancelled: Callable[[], bool],
        replaying: Callable[[], bool] = lambda: False,
    ) -> None:
        self.id = run_id
        self.pipeline = pipeline
        self.session_id = session_id
        self.metadata = metadata
        self.step = step
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self._path = path
        self._remaining = remaining
        self._cancelled = cancelled
        self._replaying = replaying

    @property
    def path(self) -> Path:
        """`fast`, or `deep` from the demotion on. In the body, a replay returns the same value."""
        return self._path()

    @property
    def cancelled(self) -> bool:
        """Whether the run is being cancelled, or its deadline has passed; False in a step of its `cleanup`.

        A step in a thread should check it periodically, and return.

        In the body it is true from the `CancelledError` on, in a replay at the same place.
        """
        return self._cancelled()

    @property
    def replaying(self) -> bool:
        """Whether the pipeline's body repeats an earlier execution of the run; False in a step.

        For code outside the run's logic, such as logging: a body that depends on it diverges in a replay.
        """
        return self._replaying()

    def remaining(self) -> float:
        """Seconds left: of the budget on the fast path, until the deadline on the deep path (`inf` without one).

        In the body, a replay returns the same value.
        """
        return self._remaining()


class Ambient(Protocol):
    """The value of the context variable while user code runs."""

    @property
    def clock(self) -> Clock:
        """The source of time and randomness."""

    def run(self) -> Run:
        """The view of the run."""

    @property
    def replaying(self) -> bool:
        """See `Run.replaying`."""

    def emit(self, encoded: bytes) -> None:
        """Pass on an emitted value."""

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A JSON value that a replay returns again."""

    async def sleep(self, seconds: float) -> None:
        """Wait; after a restart, only for the remaining time."""

    async def signal(self, question: Question, timeout: float | None) -> bytes:
        """The encoded value of the next signal that answers this question."""

    def cleanup(self, timeout: float) -> AbstractAsyncContextManager[object]:
        """A block whose steps execute after a cancellation or a deadline."""


current: ContextVar[Ambient | None] = logs.current


def current_run() -> Run:
    """The run of the calling code.

    Raises:
        OutsideRun: called outside a run.
    """
    ambient = current.get()
    if ambient is None:
        raise OutsideRun("current_run() works inside a pipeline or a step that a run executes")
    return ambient.run()


def emit(value: Any) -> None:
    """Send a token, text or any JSON-encodable value to all readers of the run, as a `step.delta` event.

    Works in steps (in every lane) and in the pipeline's body, where it is journaled, so a replay does not repeat it.
    Outside a run it does nothing. Waits while more than `backlog_bytes` are unwritten.

    Raises:
        EncodingError: the value cannot be written as JSON.
        TooLarge: it has more than `EMITTED_BYTES_MAX` (256 KiB) as JSON.
    """
    ambient = current.get()
    if ambient is None:
        return
    encoded = encode(value, "an emitted value")
    if len(encoded) > EMITTED_BYTES_MAX:
        raise TooLarge(
            f"an emitted value has {len(encoded)} bytes as JSON, at most {EMITTED_BYTES_MAX} (EMITTED_BYTES_MAX): "
            "emit it in parts, or return it"
        )
    ambient.emit(encoded)


def now() -> datetime:
    """The current time, aware and in UTC; in a pipeline's body a replay returns the recorded one."""
    ambient = current.get()
    epoch = time.time() if ambient is None else ambient.value("offramp.now", ambient.clock.time)
    return datetime.fromtimestamp(epoch, UTC)


def uuid4() -> uuid.UUID:
    """A random UUID; in a pipeline's body a replay returns the recorded one."""
    ambient = current.get()
    if ambient is None:
        return uuid.uuid4()
    clock = ambient.clock
    made: str = ambient.value("offramp.uuid4", lambda: str(uuid.UUID(bytes=clock.random_bytes(16), version=4)))
    return uuid.UUID(made)


def random() -> float:
    """A number in [0, 1); in a pipeline's body a replay returns the recorded one."""
    ambient = current.get()
    if ambient is None:
        return _random.random()  # noqa: S311 - no secret
    return float(ambient.value("offramp.random", ambient.clock.random))


async def sleep(seconds: float) -> None:
    """Wait this long; after a restart, only for the remaining time."""
    ambient = current.get()
    await (asyncio.sleep(seconds) if ambient is None else ambient.sleep(seconds))


@overload
async def signal(name: str, *, timeout: float | None = None, ask: Any = None, schema: type[T]) -> T: ...
@overload
async def signal(name: str, *, timeout: float | None = None, ask: Any = None, schema: Any = None) -> Any: ...
async def signal(name: str, *, timeout: float | None = None, ask: Any = None, schema: Any = None) -> Any:
    """Wait for the next signal of this name that is sent to the run, and return its JSON value.

    The store holds signals until a call takes them, so one may come early. Two of one name go to two calls, in order.
    A waiting run is parked: it holds no worker, and survives restarts.

    With a schema, a value that does not fit is refused (422) while the run waits for it. One that came before goes to
    the next call that it fits; the event `signal.refused` says so.

    Args:
        name: as in `POST /v1/runs/{id}/signals/{name}`.
        timeout: seconds; None to wait until the end of the run.
        ask: what is asked, for the person or program that answers: any JSON value, at most `ASK_BYTES_MAX` (16 KiB).
            The run's document and the event `wait.started` show it.
        schema: which values fit: a type, of which the value is returned, or a JSON Schema as a dict, at most
            `SCHEMA_BYTES_MAX` (16 KiB). Shown beside `ask`.

    Raises:
        SignalTimeout: none came in time; also a `TimeoutError`.
        OutsideRun: called outside a pipeline's body.
        DeclarationError: the schema uses what is not checked, or JSON cannot carry the type.
        EncodingError: `ask` is not JSON; `TooLarge`, if it or the schema has too many bytes.
    """
    ambient = current.get()
    if ambient is None:
        raise OutsideRun(f"signal({name!r}) works inside a pipeline that a run executes")
    question = Question(name, ask, schema)
    return question.read(await ambient.signal(question, timeout))


def cleanup(timeout: float = 30.0) -> AbstractAsyncContextManager[object]:
    """A block of a pipeline's body whose steps execute although the run was cancelled or its deadline has passed.

    `async with offramp.cleanup():` in a `finally` or an `except asyncio.CancelledError`. The steps are journaled and
    retried like any other; then the run ends `cancelled` or `expired`. In a normally executing run, the block is like
    any other code, unbounded. A cancellation or deadline inside the block does not interrupt it. If the run continues
    in another process, as after a demotion, the block is not entered. Outside a run it does nothing.

    Args:
        timeout: seconds that it may take after a cancellation or a deadline, at most `CLEANUP_S_MAX` (60) for all
            cleanups of the run together. Then its steps are cancelled and the run ends. Overlapping cleanups end
            together, at the latest of their times.

    Raises:
        OutsideRun: called inside a step.
        ValueError: the timeout is not a number from 0 to `CLEANUP_S_MAX`.
    """
    if not 0 < timeout <= CLEANUP_S_MAX:
        raise ValueError(f"cleanup(timeout=) takes more than 0 and at most {CLEANUP_S_MAX:g} seconds, got {timeout!r}")
    ambient = current.get()
    return nullcontext() if ambient is None else ambient.cleanup(timeout)
