"""Sample data for the cases: ordinary records, journal entries and events."""

from __future__ import annotations

from typing import Any

import msgspec

from offramp.core import events
from offramp.core.events import Draft
from offramp.core.journal import Entry
from offramp.core.run import Demotion, Outcome, Route, RunRecord, run_id
from offramp.core.timestamps import rfc3339
from offramp.ports.store import Owner

NOW = 1_700_000_000.0
PIPELINE = "conformance"
DONE = Outcome("completed", b'"done"')
DEMOTION = Demotion("budget", NOW + 6, 6000.0, 6000.0, {"traceparent": "p"}, moved_ms=5900.0)


def record_of(number: int, **changes: Any) -> RunRecord:
    """A run; a greater number is a younger one."""
    made: dict[str, Any] = {
        "id": run_id(NOW + number, number.to_bytes(10, "big")),
        "pipeline": PIPELINE,
        "version": "1",
        "status": "running",
        "path": "fast",
        "sla": "default",
        "route": Route("fast", ["because"], 1500.0, "learned", 9000.0, 40),
        "created_at": NOW,
        "started_at": NOW,
        "input": b"{}",
        "budget_s": 6.0,
    }
    if changes.get("status") == "queued":
        made |= {"path": "deep", "started_at": None}
    return RunRecord(**(made | changes))


def drafted(body: events.Body) -> Draft:
    """An event that happened now."""
    return events.draft(body, rfc3339(NOW))


def accepted(record: RunRecord) -> Draft:
    """The first event of a run."""
    return drafted(
        events.RunAccepted(record.pipeline, record.session_id, record.path, record.sla, record.route.shown())
    )


def entry(number: int) -> Entry:
    """A finished step."""
    return Entry(f"work:{number}:0", "work", "step", str(number).encode(), arguments=b'{"number":1}', label="of 1")


def started(number: int) -> Draft:
    """The event that a step began."""
    return drafted(events.StepStarted("work", f"work:{number}:0", 1))


def delta(text: str) -> Draft:
    """The event that a step emitted something."""
    return drafted(events.StepDelta("work", "work:0:0", 1, msgspec.Raw(msgspec.json.encode(text))))


def completed() -> Draft:
    """The terminal event of a run that completed."""
    return drafted(events.RunCompleted(msgspec.Raw(b'"done"')))


def owner(name: str, expires_at: float = NOW + 10) -> Owner:
    """A process."""
    return Owner(name, "worker", 0, ready=True, expires_at=expires_at, started_at=NOW)
