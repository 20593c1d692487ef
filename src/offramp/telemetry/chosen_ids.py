"""Spans whose ids are chosen before they are made, so that other processes can open their children first.

Only the process that began a span can end it. A span with children in many processes is made at its end, with its id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer

_chosen: ContextVar[int] = ContextVar("offramp_chosen_span_id", default=0)


class ChosenIds:
    """A provider's id generator, which can return a chosen id."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids

    @classmethod
    def of(cls, tracer: Tracer) -> ChosenIds | None:
        """Install it in a tracer; None if its ids cannot be chosen, which only the SDK's tracer allows."""
        ids = getattr(tracer, "id_generator", None)
        if ids is None or isinstance(ids, ChosenIds):
            return ids
        made = tracer.id_generator = cls(ids)  # type: ignore[attr-defined]
        return made

    @contextlib.contextmanager
    def next_is(self, span_id: int) -> Iterator[None]:
        """A span that begins within the block has this id."""
        token = _chosen.set(span_id)
        try:
            yield
        finally:
            _chosen.reset(token)

    def generate_span_id(self) -> int:
        """The chosen id, else a new one."""
        return _chosen.get() or int(self._ids.generate_span_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


def at(beside: Context, span_id: int) -> Context:
    """The context of a span that may not exist yet, in the trace of a given context."""
    known = trace.get_current_span(beside).get_span_context()
    own = SpanContext(
        known.trace_id, span_id, is_remote=True, trace_flags=known.trace_flags, trace_state=known.trace_state
    )
    return trace.set_span_in_context(NonRecordingSpan(own), beside)


class WhileNew(NonRecordingSpan):
    """A span below which nothing is recorded while a body repeats work that was recorded before."""

    def __init__(self, context: SpanContext, repeats: Callable[[], bool]) -> None:
        super().__init__(context)
        self._new = context
        self._repeated = SpanContext(
            context.trace_id,
            context.span_id,
            is_remote=True,
            trace_flags=TraceFlags(0),
            trace_state=context.trace_state,
        )
        self._repeats = repeats

    def get_span_context(self) -> SpanContext:
        """Its context, not sampled while the body repeats."""
        return self._repeated if self._repeats() else self._new
