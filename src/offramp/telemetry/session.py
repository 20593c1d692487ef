"""Puts the session on spans of others, such as instrumented clients inside runs. Needs the SDK."""

from __future__ import annotations

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import Span, SpanProcessor

from offramp.telemetry import names
from offramp.telemetry.context import session_attributes, session_of


class SessionProcessor(SpanProcessor):
    """Gives every span that begins inside a run the attributes of the run's session.

    `offramp serve` and `offramp worker` install it. A program with its own TracerProvider adds it:
    `provider.add_span_processor(SessionProcessor())`.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Set the attributes as a span begins; Offramp's own spans already have them."""
        if span.instrumentation_scope is not None and span.instrumentation_scope.name == names.SCOPE:
            return
        session = session_of(get_current() if parent_context is None else parent_context)
        if session is not None:
            span.set_attributes(session_attributes(session))
