"""Every event of a run, in one table, and its one encoding.

An event is drafted where it happens and numbered by the store when it is committed: `frame` joins the two.
A reader on the wire gets the same JSON from every transport.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

import msgspec

from offramp.core.attempts import FailedAttempt
from offramp.core.limits.messages import Reason
from offramp.core.run import Path, ShownRoute

RESULT_INLINE_BYTES_MAX = 256 * 1024
"""`run.completed` carries no larger result; its `result_url` gives the address."""

SAID_AFTER_S = 0.25
"""A wait for a permit that is shorter is in no event."""
SAID_TIMES_MAX = 3
"""How often one wait for a permit is said."""
EMITTED_BYTES_MAX = 256 * 1024
"""The limit of one emitted value, encoded."""


class Body(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    """The fields of an event beside `run_id`, `seq` and `at`.

    Events, drafts and frames refer to nothing that could refer to them: they need not be garbage-collected.
    """


class RunAccepted(Body, frozen=True, tag="run.accepted", rename={"sla": "class"}):
    """The run exists; always seq 1."""

    pipeline: str
    session_id: str | None
    path: Path
    sla: str
    route: ShownRoute


class StepStarted(Body, frozen=True, tag="step.started", omit_defaults=True):
    """An attempt of a step begins; with its label, if it has one, and its target in a failover."""

    step: str
    key: str
    attempt: int
    label: str | None = None
    target: str | None = None


class StepWaiting(Body, frozen=True, tag="step.waiting"):
    """A step, or a request of its code, has waited 250 ms for a permit of `resource`; `ahead` of it so many calls wait.

    It goes on in about `expected_ms`, null if no call has shown yet how long it takes, or how many tokens. `reason` is
    `rate`, `tokens`, `concurrency`, `breaker` or `retry-after`; when that changes, a wait is said again, at most 3
    times.
    """

    step: str
    key: str
    resource: str
    reason: Reason
    ahead: int
    expected_ms: float | None


class StepDelta(Body, frozen=True, tag="step.delta"):
    """A step emitted something; from the pipeline's own body, `step` is the pipeline's name."""

    step: str
    key: str
    attempt: int
    delta: msgspec.Raw


class StepRetrying(Body, frozen=True, tag="step.retrying", omit_defaults=True):
    """An attempt failed and another follows in `delay_ms`; the deltas of `attempt` are void.

    In a failover, `target` is the one that failed.
    """

    step: str
    key: str
    attempt: int
    error: dict[str, Any]
    delay_ms: float
    target: str | None = None


class StepCompleted(Body, frozen=True, tag="step.completed"):
    """A step finished and its result is in the journal."""

    step: str
    key: str
    attempt: int
    duration_ms: float


class StepFailed(Body, frozen=True, tag="step.failed"):
    """A step failed for good, and that is in the journal."""

    step: str
    key: str
    attempt: int
    duration_ms: float
    error: dict[str, Any]


class WaitStarted(Body, frozen=True, tag="wait.started"):
    """The pipeline waits for a time or a signal, until `until` at the latest; said once, however often it is parked.

    Of a signal, `ask` says what is asked, and `schema` which values fit.
    """

    wait: Literal["sleep", "signal"]
    name: str | None
    key: str
    until: str | None
    ask: msgspec.Raw = msgspec.Raw(b"null")
    schema: msgspec.Raw = msgspec.Raw(b"null")


class WaitEnded(Body, frozen=True, tag="wait.ended"):
    """A wait ended: `until` came (`due`), the signal did (`received`), or the pipeline gave it up (`cancelled`)."""

    wait: Literal["sleep", "signal"]
    name: str | None
    key: str
    reason: Literal["due", "received", "cancelled"]


class SignalRefused(Body, frozen=True, tag="signal.refused"):
    """A signal came before its wait and does not fit its schema; `signal` is its place among those of the run."""

    name: str
    key: str
    signal: int
    errors: list[dict[str, str]]


class RunDemoted(Body, frozen=True, tag="run.demoted"):
    """The deep path owns the run from here on."""

    reason: str
    budget_ms: float
    elapsed_ms: float
    message: str
    links: dict[str, str]


class RunResumed(Body, frozen=True, tag="run.resumed"):
    """A worker took the run over after a demotion or a recovery."""

    worker: str
    replayed_steps: int
    reason: Literal["demotion", "retry", "exit", "wait", "death", "silence"] | None


class RunCompleted(Body, frozen=True, tag="run.completed", omit_defaults=True):
    """Terminal: the result, or where to get it."""

    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result_url: str | msgspec.UnsetType = msgspec.UNSET


class RunFailed(Body, frozen=True, tag="run.failed"):
    """Terminal: the run failed."""

    error: dict[str, Any]


class RunCancelled(Body, frozen=True, tag="run.cancelled"):
    """Terminal: the run was cancelled."""

    error: dict[str, Any]


class RunExpired(Body, frozen=True, tag="run.expired"):
    """Terminal: the run's deadline passed."""

    error: dict[str, Any]


EVENTS: tuple[type[Body], ...] = (
    RunAccepted,
    StepWaiting,
    StepStarted,
    StepDelta,
    StepRetrying,
    StepCompleted,
    StepFailed,
    WaitStarted,
    WaitEnded,
    SignalRefused,
    RunDemoted,
    RunResumed,
    RunCompleted,
    RunFailed,
    RunCancelled,
    RunExpired,
)
TYPES: tuple[str, ...] = tuple(str(event.__struct_config__.tag) for event in EVENTS)
TERMINAL: frozenset[str] = frozenset({"run.completed", "run.failed", "run.cancelled", "run.expired"})

_TYPE_AT = len('{"type":"')
_OF_RUN = b'{"type":"run.'
_encode = msgspec.json.Encoder().encode


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event before it has a number: `split` is where `run_id`, `seq` and `at` go into `body`."""

    type: str
    at: str
    body: bytes
    split: int


def draft(body: Body, at: str) -> Draft:
    """Encode an event that happened at `at` (RFC 3339)."""
    name: str = body.__struct_config__.tag  # type: ignore[assignment]
    return Draft(name, at, _encode(body), _TYPE_AT + len(name) + 2)


class _Of(msgspec.Struct):
    key: str = ""


def key_in(event: Draft | None) -> str:
    """The key of the call that an event is about; empty if it is about none."""
    return "" if event is None else msgspec.json.decode(event.body, type=_Of).key


def frame(drafted: Draft, run: str, seq: int) -> bytes:
    """The event as one line of JSON, `{"type", "run_id", "seq", "at", …}`."""
    body, split = drafted.body, drafted.split
    return b'%b"run_id":"%b","seq":%d,"at":"%b",%b' % (
        body[:split],
        run.encode(),
        seq,
        drafted.at.encode(),
        body[split:],
    )


def type_of(framed: bytes) -> str:
    """The type of an encoded event, without decoding it."""
    return framed[_TYPE_AT : framed.index(b'"', _TYPE_AT)].decode()


def first_bytes(frames: Iterable[Frame], size: int) -> list[Frame]:
    """The first frames, up to and with the one with which they have `size` bytes."""
    found: list[Frame] = []
    for each in frames:
        found.append(each)
        size -= len(each.data)
        if size <= 0:
            break
    return found


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A numbered, encoded event."""

    seq: int
    data: bytes

    @property
    def type(self) -> str:
        """The event's type."""
        return type_of(self.data)

    @property
    def terminal(self) -> bool:
        """Whether it is the last event of its run."""
        return self.data.startswith(_OF_RUN) and type_of(self.data) in TERMINAL


class Event(msgspec.Struct, frozen=True):
    """A decoded event: `data` holds what its type adds (see docs/reference/events.md)."""

    type: str
    run_id: str
    seq: int
    at: str
    data: dict[str, Any]


class _Completed(msgspec.Struct):
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_completed = msgspec.json.Decoder(_Completed).decode


def result_in(framed: bytes) -> bytes | None:
    """The JSON result that an encoded `run.completed` carries; None in other events, and where it has only a URL."""
    if type_of(framed) != "run.completed":
        return None
    result = _decode_completed(framed).result
    return None if isinstance(result, msgspec.UnsetType) else bytes(result)


def decode(framed: bytes) -> Event:
    """An encoded event as an object."""
    fields: dict[str, Any] = msgspec.json.decode(framed)
    return Event(fields.pop("type"), fields.pop("run_id"), fields.pop("seq"), fields.pop("at"), fields)


class _SeenError(msgspec.Struct):
    code: str = ""
    message: str = ""
    where: dict[str, Any] | None = None


class _Seen(msgspec.Struct):
    """The part of an event that the list of steps needs."""

    type: str
    at: str
    step: str = ""
    key: str = ""
    attempt: int = 1
    duration_ms: float | None = None
    delay_ms: float = 0.0
    error: _SeenError | None = None
    label: str | None = None
    target: str | None = None


class StepState(msgspec.Struct):
    """The state of one step according to the event log."""

    name: str
    key: str
    status: str
    attempts: int
    started_at: str
    duration_ms: float | None = None
    delay_ms: float = 0.0
    changed_at: str = ""
    starts: int = 1
    """How often its last attempt was started: more than once where processes ended meanwhile, 0 if only in the run that
    this one retries."""
    interrupted: bool = False
    """Whether an attempt was ever interrupted."""
    left: bool = False
    """Whether the process that executed the attempt reported that it stopped."""
    failed: list[FailedAttempt] = []
    """The attempts that others followed."""
    final: FailedAttempt | None = None
    """The attempt with which the step failed for good."""
    label: str | None = None
    target: str | None = None
    """In a failover, the target of its last attempt."""

    def changed_epoch(self) -> float:
        """When the last of these events happened, in epoch seconds."""
        return datetime.fromisoformat(self.changed_at).timestamp()

    def document(self) -> dict[str, Any]:
        """`{name, key, label, status, attempts, started_at, duration_ms}`, and `target` in a failover."""
        shown = {
            "name": self.name,
            "key": self.key,
            "label": self.label,
            "status": self.status,
            "attempts": self.attempts,
            "started_at": self.started_at,
            "duration_ms": self.duration_ms,
        }
        return shown if self.target is None else {**shown, "target": self.target}


INTERRUPTED = "interrupted"
"""Code of the error in a `step.retrying` that repeats an attempt because the process that executed it ended."""
POSTPONED = "postponed"
"""Code of why an engine is to ask again for an attempt that has not begun; never in an event."""
_STATUS = {"step.retrying": "retrying", "step.completed": "completed", "step.failed": "failed"}
_seen = msgspec.json.Decoder(_Seen)


def _ended(step: StepState, seen: _Seen) -> None:
    """An attempt of the step has ended."""
    step.status, step.attempts = _STATUS[seen.type], seen.attempt
    step.duration_ms, step.delay_ms, step.changed_at = seen.duration_ms, seen.delay_ms, seen.at
    error = seen.error
    if error is not None:
        target = seen.target or step.target
        failed = FailedAttempt(seen.attempt, error.code, error.message, seen.at, error.where, target)
        if seen.type == "step.retrying":
            step.failed.append(failed)
        else:
            step.final = failed


def fold_steps(frames: Iterable[bytes], *, finished: bool = False) -> dict[str, StepState]:
    """The steps of a run by key, in the order they started.

    A step still running when its run has its outcome (`finished`) was cancelled with it.
    """
    steps: dict[str, StepState] = {}
    for data in frames:
        seen = _seen.decode(data)
        if seen.type == "step.started":
            known = steps.get(seen.key)
            if known is None:
                begun = StepState(seen.step, seen.key, "running", seen.attempt, seen.at, changed_at=seen.at)
                begun.label = seen.label
                steps[seen.key] = begun
            else:
                known.starts = known.starts + 1 if known.status == "running" else 1
                known.status, known.attempts, known.changed_at = "running", seen.attempt, seen.at
                known.left = False
            steps[seen.key].target = seen.target
        elif seen.type == "step.retrying" and seen.error is not None and seen.error.code == INTERRUPTED:
            if seen.key in steps:  # its process died or gave it up; the same attempt is still to be finished (D3)
                steps[seen.key].left = steps[seen.key].interrupted = True
        elif seen.type in _STATUS and seen.key in steps:
            _ended(steps[seen.key], seen)
    if finished:
        for known in steps.values():
            if known.status in {"running", "retrying"}:
                known.status = "cancelled"
    return steps
