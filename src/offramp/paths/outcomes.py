"""The ends of runs in words: the outcomes that the paths give a run, and the event that announces one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from offramp.core import events
from offramp.core.ending import ended_by
from offramp.core.failure import Failure, failure_of
from offramp.core.reference import reference_in
from offramp.core.run import Outcome, RunRecord, links
from offramp.errors import StepKilledProcess

UNKNOWN = -1
"""The value of `deaths_silent` when silence and death look alike."""


def cancelled() -> Outcome:
    """The outcome of a cancelled run."""
    return ended_by("cancelled", None)


def expired(record: RunRecord) -> Outcome:
    """The outcome of a run that reached its deadline."""
    return ended_by("expired", record.deadline_at)


def how_processes_ended(record: RunRecord) -> str:
    """A description of how the processes that executed a run ended."""
    deaths, silent = record.deaths, record.deaths_silent
    count = "a process" if deaths == 1 else f"{deaths} processes in a row"
    if silent == UNKNOWN:
        return f"{count} died, or fell silent,"
    if not silent:
        return f"{count} died"
    if silent == deaths:
        return f"{count} fell silent for longer than {'its' if deaths == 1 else 'their'} lease"
    return f"{count} died, or fell silent for longer than their lease ({silent} of them),"


def killed(record: RunRecord, in_flight: Sequence[events.StepState]) -> Outcome:
    """The outcome of a run whose processes died, one after the other, in these steps."""
    names = ", ".join(sorted({step.name for step in in_flight})) or "no recorded step"
    causes = []
    if record.deaths_silent < record.deaths:
        causes.append("a crash in C code, os._exit, or memory")
    # A process that hangs in the middle of a write is killed before its silence is noticed.
    causes.append("a call that holds the interpreter, such as a regular expression that backtracks")
    beside = "" if record.deaths_alone == record.deaths else f", {record.deaths_alone} of them without another suspect"
    text = (
        f"{how_processes_ended(record)} while they executed this run{beside}, the last one in: {names}. It is not "
        f"retried. Look for {', or for '.join(causes)}; with lane='process' a step takes down only its own process"
    )
    step, attempt = (in_flight[0].name, in_flight[0].attempts) if len(in_flight) == 1 else (None, None)
    return Outcome("failed", error=failure_of(StepKilledProcess(text), step, attempt))


def terminal_event(record: RunRecord, outcome: Outcome) -> events.Body:
    """The event that announces how a run ended."""
    if outcome.status == "completed":
        result = outcome.result or b"null"
        if reference_in(result) is not None or len(result) > events.RESULT_INLINE_BYTES_MAX:
            return events.RunCompleted(result_url=links(record.id, record.mount)["result"])
        return events.RunCompleted(result=msgspec.Raw(result))
    failure = outcome.error or Failure("internal", "no error was recorded")
    kind: Any = {"failed": events.RunFailed, "cancelled": events.RunCancelled, "expired": events.RunExpired}
    body: events.Body = kind[outcome.status](failure.public())
    return body
