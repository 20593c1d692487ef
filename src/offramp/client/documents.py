"""What a gateway answers, as typed objects. Fields that a newer gateway adds are kept in `data`; none is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from msgspec import field

from offramp.core.run import OUTCOMES
from offramp.document import Document


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a document or an event; `part["field"]` is the same as `part.field`."""

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)


class Where(Part, frozen=True, kw_only=True):
    """A line of the pipeline's code: where an error was raised."""

    file: str = ""
    line: int = 0
    function: str = ""


class RunError(Part, frozen=True, kw_only=True):
    """Why a run, or an attempt of a step, failed; `traceback` only with `include=["traceback"]`."""

    code: str = ""
    message: str = ""
    step: str | None = None
    attempt: int | None = None
    at: datetime | None = None
    where: Where | None = None
    traceback: Any = None
    causes: list[RunError] = field(default_factory=list)


class Predicted(Part, frozen=True, kw_only=True):
    """How long a run was expected to take, in milliseconds; `p95` is None where only the median is known."""

    p50: float
    p95: float | None = None


class RouteTaken(Part, frozen=True, kw_only=True):
    """The path on which a run began, and why.

    `by` says what decided: `preference`, `class`, `rule`, `classifier`, `learned`, `load` or `default`. `confidence` is
    the number of runs that the prediction rests on. Gateways of earlier versions predict a number: the median.
    """

    path: str = ""
    by: str = ""
    reasons: list[str] = field(default_factory=list)
    predicted_ms: Predicted | float | None = None
    confidence: int = 0


class Demotion(Part, frozen=True, kw_only=True):
    """When and why a run moved to the deep path; times in milliseconds.

    `reasons` are sentences for a person, of a demotion that is `predicted`.
    """

    reason: str = ""
    at: datetime | None = None
    elapsed_ms: float | None = None
    budget_ms: float | None = None
    reasons: list[str] = field(default_factory=list)


class StepDocument(Part, frozen=True, kw_only=True):
    """One step of a run; from `arguments` on only with `include=["steps"]`."""

    name: str = ""
    status: str = ""
    attempts: int = 0
    started_at: datetime | None = None
    duration_ms: float | None = None
    label: str | None = None
    target: str | None = None
    key: str | None = None
    arguments: Any = None
    result: Any = None
    error: RunError | None = None
    failures: list[RunError] = field(default_factory=list)


class WaitingFor(Part, frozen=True, kw_only=True):
    """What a run waits for: a `signal` or a `time`; `ask` and `schema` are what the pipeline gave with the signal."""

    kind: str = ""
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ask: Any = None
    schema: Any = None


class RunDocument(Document, frozen=True, kw_only=True, rename={"class_": "class"}):
    """A run as its gateway sees it.

    `class_` is its SLA class. `awaited` says, in the answer to a signal, whether the run waited for it. `retry_of` and
    `retried_as` lead to the runs that this one repeats or that repeat it.
    """

    id: str
    status: str
    pipeline: str = ""
    path: str = ""
    class_: str = ""
    session_id: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    route: RouteTaken | None = None
    demotion: Demotion | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    input: Any = None
    result: Any = None
    error: RunError | None = None
    steps: list[StepDocument] = field(default_factory=list)
    waiting_for: list[WaitingFor] = field(default_factory=list)
    awaited: bool | None = None
    retry_of: str | None = None
    retried_as: list[str] = field(default_factory=list)
    trace_id: str | None = None
    links: dict[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the run has completed, failed, expired or been cancelled."""
        return self.status in OUTCOMES


class RunPage(Document, frozen=True, kw_only=True):
    """Runs, newest first; iterate it. `after` continues the listing while `has_more` is true."""

    runs: list[RunDocument]
    has_more: bool = False
    after: str | None = None

    def __iter__(self) -> Iterator[RunDocument]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


class PipelineDocument(Document, frozen=True, kw_only=True, rename={"class_": "class"}):
    """A served pipeline; `budget`, `deadline` and `retention` in seconds, the schemas JSON Schemas."""

    name: str
    doc: str = ""
    class_: str = ""
    budget: float | None = None
    deadline: float | None = None
    retention: float | None = None
    on_disconnect: str = ""
    version: str = ""
    input_schema: dict[str, Any] = field(default_factory=dict)
    result_schema: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


class Ticket(Document, frozen=True, kw_only=True):
    """Opens one run's events and WebSocket, as `?ticket=`, until `expires_at`; without a key, so keep it secret."""

    ticket: str
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return f"Ticket(expires_at={self.expires_at!r})"
