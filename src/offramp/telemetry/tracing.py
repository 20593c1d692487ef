"""Opens the spans of a process: requests, runs on either path, the hop between them, webhooks. `names` has the names.

With tracing off there is no `Tracing`, and callers skip it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Self

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer

from offramp.core.run import Outcome, RunRecord
from offramp.core.webhooks import Answer
from offramp.ports.bodies import TraceContext
from offramp.telemetry import names
from offramp.telemetry.chosen_ids import ChosenIds, WhileNew, at
from offramp.telemetry.content import shown
from offramp.telemetry.context import carried, restored, session_attributes, session_of
from offramp.telemetry.run_trace import RunTrace, SendTrace, messaging

if TYPE_CHECKING:
    from starlette.types import Scope

WEBHOOK_CHILD_S_MAX = 3600.0
"""How old a run may be for its webhook to be part of its trace; a later one starts its own, with a link."""
PATH_LENGTH_MAX = 200
"""The maximum of characters shown of a request's path."""


class Tracing:
    """The spans of one process.

    Args:
        tracer: the tracer of a real provider.
        content_bytes: the maximum shown of an input or output; None shows none.
    """

    def __init__(self, tracer: Tracer, content_bytes: int | None) -> None:
        from opentelemetry.propagate import extract  # loads the propagators that OTEL_PROPAGATORS names

        self._tracer = tracer
        self._ids = ChosenIds.of(tracer)
        self._content_bytes = content_bytes
        self._extract = extract

    @classmethod
    def current(cls, content_bytes: int | None) -> Tracing | None:
        """Use the present provider of this process; None if it has none, or a disabled one."""
        provider = trace.get_tracer_provider()
        if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            return None
        tracer = provider.get_tracer(names.SCOPE, metadata.version("offramp"))
        return None if isinstance(tracer, trace.NoOpTracer) else cls(tracer, content_bytes)

    # Runs.

    def begin(self, record: RunRecord) -> RunTrace:
        """Begin the span of a run that executes where it was accepted; its record carries its context from now on."""
        origin = _origin(record)
        run = self._run(record, origin, _session(record, origin))
        record.trace = run.headers()
        return run

    def send(self, record: RunRecord) -> SendTrace:
        """Begin the handoff of a new run that goes deep at once; its record carries the context for the worker."""
        origin = _origin(record)
        sent = SendTrace(self._tracer, record.pipeline, origin, _shared(record, _session(record, origin)))
        record.trace = sent.headers
        return sent

    def resume(self, record: RunRecord, replayed_steps: int, waited_s: float | None, began_ns: int) -> RunTrace:
        """Begin the span of a claimed run in this process.

        Its first part on the deep path belongs to the trace that sent it. Later ones start a new trace with a link
        back, so that no trace grows for days.

        Args:
            record: the run.
            replayed_steps: how many steps it has finished.
            waited_s: seconds since it was sent to the deep path; None if this is not its first part there.
            began_ns: the time of the claim, in epoch nanoseconds.
        """
        process, origin, session = self._taken_up(record, waited_s, began_ns)
        run = self._run(record, trace.set_span_in_context(process, origin), session, process)
        run.span.set_attribute(names.REPLAYED_STEPS, replayed_steps)
        return run

    def _taken_up(self, record: RunRecord, waited_s: float | None, began_ns: int) -> tuple[Span, Context, str]:
        """Open the consumer's span; returns it with its outer context and the session."""
        first = waited_s is not None
        stored = record.demotion.trace if record.demotion is not None and record.demotion.trace else record.trace
        origin = restored(stored)
        sent = trace.get_current_span(origin).get_span_context()
        links = [Link(sent, {names.LINK: "handoff" if first else "goes-on"})] if sent.is_valid else []
        if not first:
            origin = trace.set_span_in_context(trace.INVALID_SPAN, origin)
        session = _session(record, origin)
        attributes: dict[str, str | float] = {
            **_shared(record, session),
            **messaging("process", record.pipeline),
            names.SPAN_KIND: "CHAIN",
        }
        if waited_s is not None:
            attributes[names.QUEUE_WAIT_MS if record.demotion is None else names.HANDOFF_MS] = _ms(waited_s)
        name = f"{names.SPAN_PROCESS} {record.pipeline}"
        process = self._tracer.start_span(name, origin, SpanKind.CONSUMER, attributes, links, began_ns)
        return process, origin, session

    # Runs whose body and steps many processes execute: no process holds their span while they last.

    def take_up(self, record: RunRecord, replayed_steps: int, waited_s: float | None, began_ns: int) -> TraceContext:
        """Like `resume`, but only reserve the place of the run's span in the trace; `ran` makes the span."""
        process, origin, session = self._taken_up(record, waited_s, began_ns)
        process.set_attribute(names.REPLAYED_STEPS, replayed_steps)
        parent = trace.set_span_in_context(process, origin)
        run = parent if self._ids is None else at(parent, self._ids.generate_span_id())
        process.end()
        own = process.get_span_context().span_id
        return TraceContext(carried(run), session, f"{own:016x}", time.time_ns(), replayed_steps)

    def part(self, run_id: str, part: TraceContext, repeats: Callable[[], bool] | None = None) -> RunTrace:
        """The trace for executing a part of such a run; while the part `repeats` earlier work, nothing is recorded."""
        context = restored(part.trace)
        span = trace.get_current_span(context)
        if repeats is not None:
            span = WhileNew(span.get_span_context(), repeats)
        shared = {**session_attributes(part.session), names.RUN_ID: run_id}
        return RunTrace(self._tracer, span, None, context, part.session, shared, self._content_bytes)

    def taken_over(self, run_id: str, pipeline: str, part: TraceContext, replayed_steps: int) -> None:
        """Another process continues the body of such a run."""
        run = self.part(run_id, part)
        attributes = {**run.shared, **messaging("process", pipeline), names.SPAN_KIND: "CHAIN"}
        name = f"{names.SPAN_PROCESS} {pipeline}"
        span = self._tracer.start_span(name, restored(part.trace), SpanKind.CONSUMER, attributes)
        span.set_attribute(names.REPLAYED_STEPS, replayed_steps)
        span.end()

    def waited(self, run_id: str, part: TraceContext, what: str, began: float, *, over: bool) -> None:
        """The body of such a run waited from `began`, in epoch seconds, until now."""
        run = self.part(run_id, part)
        attributes = {**run.shared, names.SPAN_KIND: "CHAIN", names.WAIT_FOR: what}
        began_ns = min(int(began * 1e9), time.time_ns())
        name = f"{names.SPAN_WAIT} {what}"
        span = self._tracer.start_span(name, restored(part.trace), attributes=attributes, start_time=began_ns)
        span.set_attribute(names.WAIT_OUTCOME, "over" if over else "left")
        span.end()

    def ran(self, record: RunRecord, part: TraceContext, outcome: Outcome) -> None:
        """Make the span of such a run, which has its outcome."""
        context = restored(part.trace)
        own, parent = trace.get_current_span(context).get_span_context().span_id, at(context, int(part.parent, 16))
        with contextlib.nullcontext() if self._ids is None else self._ids.next_is(own):
            run = self._run(record, parent, part.session, began_ns=part.began_ns)
        run.span.set_attribute(names.REPLAYED_STEPS, part.replayed_steps)
        run.concluded(outcome)
        run.end()

    def _run(
        self, record: RunRecord, parent: Context, session: str, outer: Span | None = None, began_ns: int | None = None
    ) -> RunTrace:
        shared = _shared(record, session)
        span = self._tracer.start_span(
            f"{names.SPAN_RUN} {record.pipeline}",
            parent,
            attributes={
                **shared,
                names.SPAN_KIND: "CHAIN",
                names.OPERATION: names.SPAN_RUN,
                names.WORKFLOW: record.pipeline,
                names.AGENT: record.pipeline,
            },
            start_time=began_ns,
        )
        if span.is_recording():
            span.set_attributes(_facts(record))
            if self._content_bytes is not None:
                text = shown(record.input, self._content_bytes)
                span.set_attributes({names.INPUT: text, names.INPUT_TYPE: names.JSON})
        return RunTrace(self._tracer, span, outer, parent, session, shared, self._content_bytes)

    # The edge.

    def request(self, scope: Scope, method: str, route: str | None, began_ns: int) -> RequestTrace:
        """Begin the span of a request that came at `began_ns` (epoch nanoseconds); `route` is its template or None."""
        here = otel.get_current()
        kind = SpanKind.INTERNAL
        if not trace.get_current_span(here).get_span_context().is_valid:  # no middleware has traced it before
            here = self._extract(scope["headers"], here, _HEADERS)
            kind = SpanKind.SERVER
        path = scope["path"][:PATH_LENGTH_MAX]
        attributes = {names.HTTP_METHOD: method, names.URL_PATH: path, names.URL_SCHEME: scope.get("scheme", "http")}
        if route is not None:
            attributes[names.HTTP_ROUTE] = route
        name = method if route is None else f"{method} {route}"
        span = self._tracer.start_span(name, here, kind, attributes, start_time=began_ns)
        return RequestTrace(span, here)

    def webhook(self, record: RunRecord, event: str, attempt: int, age_s: float) -> WebhookTrace:
        """One attempt, counted from 1, to announce an event of a run that was accepted `age_s` seconds ago."""
        origin = restored(record.trace)
        sent = trace.get_current_span(origin).get_span_context()
        session = _session(record, origin)
        links: Sequence[Link] = ()
        if sent.is_valid and (attempt > 1 or age_s > WEBHOOK_CHILD_S_MAX):
            links = [Link(sent, {names.LINK: "announces"})]
            origin = trace.set_span_in_context(trace.INVALID_SPAN, origin)
        attributes: dict[str, str | int] = {
            **_shared(record, session),
            names.SPAN_KIND: "CHAIN",
            names.HTTP_METHOD: "POST",
            names.WEBHOOK_EVENT: event,
            names.WEBHOOK_ATTEMPT: attempt,
        }
        span = self._tracer.start_span(f"{names.SPAN_WEBHOOK} {event}", origin, SpanKind.CLIENT, attributes, links)
        return WebhookTrace(span)


class RequestTrace:
    """The span of a request to the gateway, current until its answer is sent."""

    def __init__(self, span: Span, parent: Context) -> None:
        self._span = span
        self._token = otel.attach(trace.set_span_in_context(span, parent))

    def of_run(self, run_id: str) -> None:
        """The request is about a run."""
        self._span.set_attribute(names.RUN_ID, run_id)

    def of_tenant(self, tenant: str) -> None:
        """The request is of this tenant."""
        self._span.set_attribute(names.TENANT, tenant)

    def accepted(self, record: RunRecord, *, attached: bool) -> None:
        """The request became a run, or was attached to an existing one."""
        if not self._span.is_recording():
            return
        origin = restored(record.trace)
        shared = _shared(record, _session(record, origin))
        self._span.set_attributes({**shared, names.SPAN_KIND: "CHAIN", **_facts(record)})
        if attached:
            self._span.set_attribute(names.RUN_ATTACHED, True)
            self._span.add_link(trace.get_current_span(origin).get_span_context(), {names.LINK: "attached"})

    def end(self, status: int) -> None:
        """The answer was sent, with this status; called in the task that began it."""
        self._span.set_attribute(names.HTTP_STATUS, status)
        if status >= 500:
            self._span.set_attribute(names.ERROR_TYPE, str(status))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        otel.detach(self._token)


class WebhookTrace:
    """One attempt to deliver a webhook message."""

    def __init__(self, span: Span) -> None:
        self._span = span
        # Without baggage: the receiver is a third party.
        self.headers = carried(trace.set_span_in_context(span, Context()))

    def __enter__(self) -> Self:
        return self

    def answered(self, host: str, answer: Answer) -> None:
        """Record the result."""
        attributes: dict[str, str | int] = {names.SERVER_ADDRESS: host, names.WEBHOOK_RESULT: answer.result}
        if answer.detail.isdigit():
            attributes[names.HTTP_STATUS] = int(answer.detail)
        if answer.result not in {"delivered", "gone"}:
            attributes[names.ERROR_TYPE] = answer.detail if answer.detail.isdigit() else answer.result
            self._span.set_status(StatusCode.ERROR)
        self._span.set_attributes(attributes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._span.end()


RawHeaders = Iterable[tuple[bytes, bytes]]


class _HeaderGetter(Getter[RawHeaders]):
    """Reads ASGI's headers; a repeated `traceparent` counts as absent (W3C Trace Context, 3.2.2)."""

    def get(self, carrier: RawHeaders, key: str) -> list[str] | None:
        wanted = key.lower().encode("latin-1")
        found = [value.decode("latin-1") for name, value in carrier if name == wanted]
        return None if not found or (wanted == b"traceparent" and len(found) > 1) else found

    def keys(self, carrier: RawHeaders) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_HEADERS = _HeaderGetter()


def _origin(record: RunRecord) -> Context:
    """The parent context of a new run: the current one, else the submission's."""
    here = otel.get_current()
    return here if trace.get_current_span(here).get_span_context().is_valid else restored(record.trace)


def _session(record: RunRecord, origin: Context) -> str:
    """The session of the run, else of its caller, else the run's id."""
    return record.session_id or session_of(origin) or record.id


def _shared(record: RunRecord, session: str) -> dict[str, str]:
    return {**session_attributes(session), names.RUN_ID: record.id}


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)


def _facts(record: RunRecord) -> dict[str, str | float | Sequence[str]]:
    facts: dict[str, str | float | Sequence[str]] = {
        names.RUN_PATH: record.path,
        names.RUN_CLASS: record.sla,
        names.RUN_VERSION: record.version,
        names.ROUTE_BY: record.route.by,
        names.ROUTE_REASONS: record.route.reasons,
        names.BUDGET_MS: record.budget_s * 1000,
    }
    if record.route.predicted_ms is not None:
        facts[names.ROUTE_PREDICTED_MS] = record.route.predicted_ms
        facts[names.ROUTE_CONFIDENCE] = record.route.confidence
    if record.route.p95_ms is not None:
        facts[names.ROUTE_PREDICTED_P95_MS] = record.route.p95_ms
    if record.demotion is not None:
        facts[names.DEMOTION_REASON] = record.demotion.reason
    return facts
