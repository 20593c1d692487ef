"""A run: its id, its states with the one table of transitions, and its stored record.

Owns no I/O; `document` renders the public form.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec

from offramp.core.claims import LeftBy, Suspicion
from offramp.core.failure import Failure
from offramp.core.reference import reference_in
from offramp.core.timestamps import NEVER_S, rfc3339
from offramp.errors import RunConflict

Status = Literal["queued", "running", "completed", "failed", "cancelled", "expired"]
Path = Literal["fast", "deep"]
By = Literal["preference", "class", "rule", "classifier", "learned", "load", "default"]
"""What decided about a run's path, in the order in which it is asked; `default` where nothing else did."""
DemotionReason = Literal["budget", "predicted", "disconnect", "drain", "overload"]
Doubt = Literal["", "wait", "belief", "control"]
"""What is known of a run that is demoted: it was sure to wait (`wait`), or it was expected to miss its budget, and was
therefore demoted (`belief`) or let go on, to see whether that is right (`control`)."""
OutcomeStatus = Literal["completed", "failed", "cancelled", "expired"]

NOT_TAKEN = 0.0
"""`started_at` of a run that has recorded steps of the run that it retries, but that no process has taken yet."""

OUTCOMES: frozenset[str] = frozenset({"completed", "failed", "cancelled", "expired"})

TRANSITIONS: dict[Status, frozenset[Status]] = {
    "queued": frozenset({"running", "cancelled", "expired"}),
    # A running run is queued again when its process dies, or hands it over at a step boundary.
    "running": frozenset({"queued", "completed", "failed", "cancelled", "expired"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
}

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]
RUN_ID_LENGTH = 30


def transition(current: Status, to: Status) -> Status:
    """`to`, if a run may go there from `current`.

    Raises:
        RunConflict: it may not.
    """
    if to not in TRANSITIONS[current]:
        raise RunConflict(f"a run that is {current} cannot become {to}")
    return to


def run_id(now_s: float, randomness: bytes) -> str:
    """`run_` and a ULID: 48 bits of milliseconds and 80 of randomness (github.com/ulid/spec)."""
    number = (int(now_s * 1000) << 80) | int.from_bytes(randomness[:10], "big")
    return "run_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def first_id(at_s: float) -> str:
    """A text that no run accepted at this time or later has an id below, and every earlier one has."""
    number = int(min(max(at_s, 0.0), NEVER_S) * 1000)
    return "run_" + "".join([_CROCKFORD[(number >> shift) & 31] for shift in range(45, -1, -5)])


def accepted_at(run_id: str) -> float:
    """When a run was accepted, in epoch seconds, by its id."""
    number = 0
    for character in run_id[4:14]:
        number = number * 32 + _CROCKFORD.index(character)
    return number / 1000


def is_run_id(text: str) -> bool:
    """Whether `text` has the form of a run id."""
    return len(text) == RUN_ID_LENGTH and text.startswith("run_") and all(c in _CROCKFORD for c in text[4:])


def key_digest(key: str) -> str:
    """The stored form of an idempotency key, which may hold a client's private data."""
    return blake2b(key.encode(), digest_size=32).hexdigest()


class Predicted(msgspec.Struct, frozen=True):
    """The expected duration of a run in milliseconds; `p95` is None where only the median is known."""

    p50: float
    p95: float | None = None


class ShownRoute(msgspec.Struct, frozen=True):
    """The public form of a route."""

    path: Path
    by: By
    reasons: list[str]
    predicted_ms: Predicted | None
    confidence: int


class Route(msgspec.Struct, frozen=True):
    """Where the router sent a run and why, as it is stored.

    Processes of earlier versions read it too: they know only the first three fields. `predicted_ms` is the median,
    None where nothing was predicted. `confidence` is the number of runs that the prediction rests on.
    """

    path: Path
    reasons: list[str]
    predicted_ms: float | None = None
    by: By = "default"
    p95_ms: float | None = None
    confidence: int = 0

    def without_data(self) -> Route:
        """The same without its reasons: those of rules and classifiers may quote the input."""
        return msgspec.structs.replace(self, reasons=[])

    def shown(self) -> ShownRoute:
        """The public form."""
        predicted = None if self.predicted_ms is None else Predicted(self.predicted_ms, self.p95_ms)
        return ShownRoute(self.path, self.by, self.reasons, predicted, self.confidence)


class Demotion(msgspec.Struct, frozen=True):
    """The move of a run from the fast to the deep path; `at` in epoch seconds.

    `trace` is the context, as headers, that the deep path continues from; no document shows it. `reasons` are sentences
    for a person, where the reason alone does not say it. `moved_ms` is how long the run had moved until then; None if
    that was not noted.
    """

    reason: DemotionReason
    at: float
    elapsed_ms: float
    budget_ms: float
    trace: dict[str, str] = {}
    reasons: list[str] = []
    by: Doubt = ""
    moved_ms: float | None = None

    def without_data(self) -> Demotion:
        """The same without its reasons, which say how the run compares with others."""
        return msgspec.structs.replace(self, reasons=[])


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a run's events are announced, and which; the URL may hold secrets, so nothing shows it."""

    url: str
    events: tuple[str, ...] = ("run.demoted", "run.completed", "run.failed", "run.cancelled", "run.expired")

    def __repr__(self) -> str:
        return f"Webhook(events={self.events!r})"


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What was known of a run when it was accepted, beside its input; it is compared with others by both.

    Attributes:
        turns: the runs of its session that had ended; None without a session, or if that was not known.
        last_s: seconds that the last ones of them had moved, the newest first.
        own: what the function with which its pipeline describes runs said about it.
    """

    turns: int | None = None
    last_s: tuple[float, ...] = ()
    own: dict[str, float | str] | None = None


class RunRecord(msgspec.Struct, kw_only=True):
    """The stored record of a run, beside its journal and its events.

    Times are epoch seconds, `started_at` also `NOT_TAKEN`; `mount` is the prefix under which clients reach the
    accepting gateway. `trace` is the context, as headers, that the next process continues from: the run's own if it is
    traced, else the caller's. `deaths` counts the processes in a row that died while they executed the run without
    finishing a step in between; the fields after it describe them, see `Suspicion`. `left_by` is how the last owner
    left the run; None if no owner left it, or if that is unknown. A retry of another run names it (`retry_of`), and is
    named there (`retried_as`). The idempotency keys of its steps are made from the id in `keys_of`; None for its own.
    `seen` is None if nothing but its input is known.
    `api_key` is the API key that started it, as TENANT/NAME, if that key has limits.
    """

    id: str
    pipeline: str
    version: str
    status: Status
    path: Path
    sla: str
    route: Route
    created_at: float
    input: bytes
    budget_s: float
    priority: int = 0
    session_id: str | None = None
    metadata: dict[str, str] = {}
    tenant: str = ""
    trace: dict[str, str] = {}
    deadline_at: float | None = None
    retention_s: float = 86_400.0
    demotion: Demotion | None = None
    started_at: float | None = None
    finished_at: float | None = None
    purged: bool = False
    result: bytes | None = None
    error: Failure | None = None
    cancel_requested: bool = False
    webhook: Webhook | None = None
    mount: str = ""
    deaths: int = 0
    deaths_alone: int = 0
    deaths_silent: int = 0
    company: int = 0
    left_by: LeftBy | None = None
    waits: int = 0
    retry_of: str | None = None
    retried_as: list[str] = []
    keys_of: str | None = None
    seen: Seen | None = None
    api_key: str | None = None

    @property
    def suspicion(self) -> Suspicion:
        """What is known of the processes that died with this run."""
        return Suspicion(self.deaths, self.deaths_alone, self.deaths_silent, self.company)

    @property
    def finished(self) -> bool:
        """Whether the run has its outcome."""
        return self.status in OUTCOMES


class RunHead(NamedTuple):
    """What changes of a run, with what it is chosen by; `seq` is the number of its last event.

    `demoted` says whether it left the fast path.
    """

    id: str
    tenant: str
    pipeline: str
    sla: str
    session_id: str | None
    status: Status
    path: Path
    finished_at: float | None
    seq: int
    demoted: bool


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended: a JSON result when completed, else a failure."""

    status: OutcomeStatus
    result: bytes | None = None
    error: Failure | None = None


def document(
    record: RunRecord, steps: list[dict[str, Any]], prefix: str = "", waiting_for: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The run document; `prefix` is where the gateway is mounted."""
    return {
        "id": record.id,
        "pipeline": record.pipeline,
        "status": record.status,
        "path": record.path,
        "class": record.sla,
        "session_id": record.session_id,
        "metadata": record.metadata,
        "route": msgspec.to_builtins(record.route.shown()),
        "demotion": _demotion(record.demotion),
        "created_at": rfc3339(record.created_at),
        "started_at": rfc3339(record.started_at) if record.started_at else None,
        "finished_at": None if record.finished_at is None else rfc3339(record.finished_at),
        "result": _inline(record.result),
        "error": None if record.error is None else record.error.public(),
        "steps": steps,
        "waiting_for": waiting_for or [],
        "trace_id": trace_id(record.trace),
        "retry_of": record.retry_of,
        "retried_as": record.retried_as,
        "links": links(record.id, prefix),
    }


def _inline(result: bytes | None) -> msgspec.Raw | None:
    """A result, unless it is stored elsewhere: its link leads there."""
    return None if result is None or reference_in(result) is not None else msgspec.Raw(result)


def _demotion(demotion: Demotion | None) -> dict[str, Any] | None:
    if demotion is None:
        return None
    return {
        "reason": demotion.reason,
        "at": rfc3339(demotion.at),
        "elapsed_ms": demotion.elapsed_ms,
        "budget_ms": demotion.budget_ms,
        "reasons": demotion.reasons,
    }


def links(run: str, prefix: str = "") -> dict[str, str]:
    """The addresses of a run, relative to the gateway's origin."""
    base = f"{prefix}/v1/runs/{run}"
    return {
        "self": base,
        "events": f"{base}/events",
        "result": f"{base}/result",
        "ws": f"{base}/ws",
        "cancel": f"{base}/cancel",
    }


_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def trace_id(trace: dict[str, str]) -> str | None:
    """The trace id of a `traceparent` (W3C Trace Context, 3.2.2), None without a valid one."""
    found = _TRACEPARENT.fullmatch(trace.get("traceparent", "").strip(" \t"))
    # What follows the flags is for versions to come.
    return None if found is None or (found[2] and found[0].startswith("00")) else found[1]
