"""Passes trace context between processes, as W3C headers in records, jobs and webhooks.

Always `traceparent`, `tracestate` and `baggage`, whatever OTEL_PROPAGATORS is: both sides are Offramp's processes.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from offramp.telemetry import names

SESSION_LENGTH_MAX = 200
"""The longest session accepted from baggage."""

_TRACE = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


def carried(context: Context | None = None) -> dict[str, str]:
    """A context as headers; by default the current one."""
    headers: dict[str, str] = {}
    _TRACE.inject(headers, context)
    _BAGGAGE.inject(headers, context)
    return headers


def restored(headers: Mapping[str, str]) -> Context:
    """The context from headers, of `carried` or from outside; empty if they are malformed."""
    return _BAGGAGE.extract(headers, _TRACE.extract(headers, Context()))


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """Incoming headers as a third party may see them: well-formed, and without baggage."""
    sent: dict[str, str] = {}
    _TRACE.inject(sent, _TRACE.extract(headers, Context()))
    return sent


def session_of(context: Context) -> str | None:
    """The session in a context's baggage."""
    found = baggage.get_baggage(names.BAGGAGE_SESSION, context)
    return found if isinstance(found, str) and 0 < len(found) <= SESSION_LENGTH_MAX else None


def with_session(context: Context, session: str) -> Context:
    """The context with the session in its baggage, which reaches every span below and the services they call."""
    return baggage.set_baggage(names.BAGGAGE_SESSION, session, context)


def session_attributes(session: str) -> dict[str, str]:
    """The session as attributes of a span."""
    return dict.fromkeys(names.SESSION, session)
