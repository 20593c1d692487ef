"""The run, step and trace of a log line, determined when it is written.

Owns the context variable in which a run's code executes, so that its log lines can name their origin.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

from offramp.core.run import RunRecord, is_run_id, trace_id

current: ContextVar[Any] = ContextVar("offramp_run", default=None)
"""The executing attempt or body; `offramp.execution.context` defines it."""

FIELDS = ("run_id", "session_id", "step", "attempt", "trace_id", "span_id")

FRAMES = "traceback"
"""The `extra=` of a line about a failure: its frames and classes, without the messages, which may hold secrets."""


class LogContext(logging.Filter):
    """A filter for a `logging` handler: gives each record `FIELDS`, "" for unknown ones.

    In a step or a pipeline's body they are those of its run; elsewhere `run_id` is the run that the line names. The
    trace is that of OpenTelemetry's current span. Values given as `extra=` are left unchanged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with the fields."""
        found = _trace() | _run() | _named(record)
        given = vars(record)
        for name in FIELDS:
            if not given.get(name):
                given[name] = found.get(name, "")
        return True


class ReplayFilter(logging.Filter):
    """A filter for a `logging` handler: drops lines of a pipeline's body while it replays an earlier execution.

    These are the lines with `current_run().replaying`. Offramp's own lines pass.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is new."""
        ambient = current.get()
        return record.name == "offramp" or ambient is None or not ambient.replaying


def about(run: RunRecord) -> dict[str, Any]:
    """`extra=` for a line about a run from outside its code."""
    known = {"run_id": run.id, "session_id": run.session_id, "trace_id": trace_id(run.trace), "pipeline": run.pipeline}
    return {name: value for name, value in known.items() if value is not None}


def _run() -> dict[str, Any]:
    ambient = current.get()
    if ambient is None:
        return {}
    run = ambient.run()
    found = {"run_id": run.id, "session_id": run.session_id or ""}
    return found if run.step is None else found | {"step": run.step, "attempt": run.attempt}


def _named(record: logging.LogRecord) -> dict[str, Any]:
    arguments = record.args if isinstance(record.args, tuple) else ()
    named = [argument for argument in arguments if isinstance(argument, str) and is_run_id(argument)]
    return {"run_id": named[0]} if named else {}


def _trace() -> dict[str, Any]:
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    span = get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": format_trace_id(span.trace_id), "span_id": format_span_id(span.span_id)}
