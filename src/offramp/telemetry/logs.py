"""What a log line is about: the run, step and trace it belongs to, found out when it is written.

Owns the context variable that a run's code executes in, so that logs can be told where they come from.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

from offramp.core.run import RunRecord, is_run_id, trace_id

current: ContextVar[Any] = ContextVar("offramp_run", default=None)
"""What executes here; see `offramp.execution.context`, which says what it holds."""

FIELDS = ("run_id", "session_id", "step", "attempt", "trace_id", "span_id")


class LogContext(logging.Filter):
    """A filter for a `logging` handler: gives each record `FIELDS`, "" where something is not known.

    In a step or a pipeline's body they are those of its run; elsewhere `run_id` is the run that the line names. The
    trace is that of OpenTelemetry's current span. What is given as `extra=` stays as it is.
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
    """A filter for a `logging` handler: drops what a pipeline's body logs while it repeats an earlier execution.

    `current_run().replaying` says when that is. What Offramp itself logs passes.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        ambient = current.get()
        return record.name == "offramp" or ambient is None or not ambient.replaying


def about(run: RunRecord) -> dict[str, Any]:
    """`extra=` for a line about a run from outside of its code."""
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
