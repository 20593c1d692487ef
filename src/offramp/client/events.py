"""The events of a run as typed objects: one class for each type, with the fields of core/events.py as attributes.

An event of a type that this version does not know is a plain `Event`: its fields are in `data`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field

from offramp.client.documents import RouteTaken, RunError
from offramp.core.events import TERMINAL, Event
from offramp.document import FieldError, shown


class _Known(Event, frozen=True, kw_only=True):
    def __repr__(self) -> str:
        return shown(self)


class RunAccepted(_Known, frozen=True, kw_only=True, rename={"class_": "class"}):
    """The run exists; always the first event."""

    pipeline: str = ""
    session_id: str | None = None
    path: str = ""
    class_: str = ""
    route: RouteTaken = field(default_factory=RouteTaken)


class _OfStep(_Known, frozen=True, kw_only=True):
    step: str = ""
    key: str = ""
    attempt: int = 1


class StepWaiting(_Known, frozen=True, kw_only=True):
    """A step, or a request of its code, waits for a permit of `resource`: `reason` says what for."""

    step: str = ""
    key: str = ""
    resource: str = ""
    reason: str = ""
    ahead: int = 0
    expected_ms: float | None = None


class StepStarted(_OfStep, frozen=True, kw_only=True):
    """An attempt of a step begins; in a failover, `target` is the step whose code it executes."""

    label: str | None = None
    target: str | None = None


class StepDelta(_OfStep, frozen=True, kw_only=True):
    """A step emitted `delta`: text, or another JSON value."""

    delta: Any = None


class StepRetrying(_OfStep, frozen=True, kw_only=True):
    """An attempt failed, and another follows in `delay_ms`; the deltas of `attempt` are void."""

    error: RunError = field(default_factory=RunError)
    delay_ms: float = 0.0
    target: str | None = None


class StepCompleted(_OfStep, frozen=True, kw_only=True):
    """A step finished."""

    duration_ms: float = 0.0


class StepFailed(_OfStep, frozen=True, kw_only=True):
    """A step failed for good."""

    duration_ms: float = 0.0
    error: RunError = field(default_factory=RunError)


class WaitStarted(_Known, frozen=True, kw_only=True):
    """The pipeline waits for a time or a signal; `ask` and `schema` say what a signal is to answer."""

    wait: str = ""
    name: str | None = None
    key: str = ""
    until: str | None = None
    ask: Any = None
    schema: Any = None


class WaitEnded(_Known, frozen=True, kw_only=True):
    """A wait ended: it was `due`, `received` its signal, or was `cancelled`."""

    wait: str = ""
    name: str | None = None
    key: str = ""
    reason: str = ""


class SignalRefused(_Known, frozen=True, kw_only=True):
    """A signal that came before its wait does not fit the schema; `signal` is its place among those of the run."""

    name: str = ""
    key: str = ""
    signal: int = 0
    errors: list[FieldError] = field(default_factory=list)


class RunDemoted(_Known, frozen=True, kw_only=True):
    """The run goes on durably on the deep path; `message` is for a person."""

    reason: str = ""
    budget_ms: float = 0.0
    elapsed_ms: float = 0.0
    message: str = ""
    links: dict[str, str] = field(default_factory=dict)


class RunResumed(_Known, frozen=True, kw_only=True):
    """A worker took the run over."""

    worker: str = ""
    replayed_steps: int = 0
    reason: str | None = None


class RunCompleted(_Known, frozen=True, kw_only=True):
    """Terminal: `result`, or `result_url` for a large one, which `Client.result` reads."""

    result: Any = None
    result_url: str | None = None


class RunFailed(_Known, frozen=True, kw_only=True):
    """Terminal: the run failed."""

    error: RunError = field(default_factory=RunError)


class RunCancelled(_Known, frozen=True, kw_only=True):
    """Terminal: the run was cancelled."""

    error: RunError = field(default_factory=RunError)


class RunExpired(_Known, frozen=True, kw_only=True):
    """Terminal: the run's deadline passed."""

    error: RunError = field(default_factory=RunError)


KINDS: dict[str, type[Event]] = {
    "run.accepted": RunAccepted,
    "step.waiting": StepWaiting,
    "step.started": StepStarted,
    "step.delta": StepDelta,
    "step.retrying": StepRetrying,
    "step.completed": StepCompleted,
    "step.failed": StepFailed,
    "wait.started": WaitStarted,
    "wait.ended": WaitEnded,
    "signal.refused": SignalRefused,
    "run.demoted": RunDemoted,
    "run.resumed": RunResumed,
    "run.completed": RunCompleted,
    "run.failed": RunFailed,
    "run.cancelled": RunCancelled,
    "run.expired": RunExpired,
}

_COMMON = {"type", "run_id", "seq", "at"}


def read_event(encoded: bytes) -> Event:
    """The event in the data of a server-sent event.

    Raises:
        msgspec.DecodeError: it is no event.
    """
    fields = msgspec.json.decode(encoded, type=dict[str, Any])
    data = {name: value for name, value in fields.items() if name not in _COMMON}
    return msgspec.convert({**fields, "data": data}, KINDS.get(str(fields.get("type")), Event))


def is_terminal(event: Event) -> bool:
    """Whether it is the last event of its run."""
    return event.type in TERMINAL
