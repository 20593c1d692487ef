"""Spans that are known before they are made: their children may be opened meanwhile, by other processes.

A span can be ended only where it was begun. One that many processes work below is made at its end, with its id.
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
    """The ids of a provider, and now and then one that was chosen before."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids

    @classmethod
    def of(cls, tracer: Tracer) -> ChosenIds | None:
        """Those of a tracer from here on; None where it does not let its ids be chosen, as none but the SDK's does."""
        ids = getattr(tracer, "id_generator", None)
        if ids is None or isinstance(ids, ChosenIds):
            return ids
        made = tracer.id_generator = cls(ids)  # type: ignore[attr-defined]
        return made

    @contextlib.contextmanager
    def next_is(self, span_id: int) -> Iterator[None]:
        """A span that is begun inside has this id."""
        token = _chosen.set(span_id)
        try:
            yield
        finally:
            _chosen.reset(token)

    def generate_span_id(self) -> int:
        """The chosen one, else a new one."""
        return _chosen.get() or int(self._ids.generate_span_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


def at(beside: Context, span_id: int) -> Context:
    """The context of another span, which need not be made yet, in the trace of a context's."""
    known = trace.get_current_span(beside).get_span_context()
    own = SpanContext(
        known.trace_id, span_id, is_remote=True, trace_flags=known.trace_flags, trace_state=known.trace_state
    )
    return trace.set_span_in_context(NonRecordingSpan(own), beside)


class WhileNew(NonRecordingSpan):
    """A span below which nothing is recorded while something is just being repeated that was recorded before."""

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
        """Not sampled while it repeats."""
        return self._repeated if self._repeats() else self._new
