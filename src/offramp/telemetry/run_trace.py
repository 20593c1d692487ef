"""The spans of one executing run: the run's own, its steps, its waits, and the handoff to the deep path.

Usable from any thread. Must not raise because of the run's data: a fault in tracing must not fail the run.
"""

from __future__ import annotations

from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from offramp.core.attempts import Failed, RetryLater
from offramp.core.failure import Failure, failure_of
from offramp.core.run import Demotion, Outcome
from offramp.telemetry import names
from offramp.telemetry.content import cut, shown
from offramp.telemetry.context import carried, with_session

if TYPE_CHECKING:
    from offramp.core.attempts import AttemptOutcome
    from offramp.core.call import Call
    from offramp.ports.limits import Waits


class RunTrace:
    """A run while it executes in this process.

    Args:
        tracer: opens the spans below it.
        span: the run's.
        outer: the span around it that ends with it; in a worker, the consumer's.
        parent: the context that the span was opened in.
        session: its session.
        shared: attributes of every span of the run.
        content_bytes: the maximum shown of an input or output; None shows none.
    """

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        outer: Span | None,
        parent: Context,
        session: str,
        shared: dict[str, str],
        content_bytes: int | None,
    ) -> None:
        self.tracer = tracer
        self.span = span
        self.shared = shared
        self.content_bytes = content_bytes
        self.recording = span.is_recording() or span.get_span_context().trace_flags.sampled
        """False if it is sampled out; then no span is needed below it."""
        self._outer = outer
        # Without the session: the process that resumes the run reads it from the record.
        self._context = trace.set_span_in_context(span, parent)
        self._session = session

    def enter(self) -> None:
        """Make the current task the run's; tasks that it starts inherit it."""
        otel.attach(with_session(self._context, self._session))

    def headers(self) -> dict[str, str]:
        """The context from which another process continues."""
        return carried(self._context)

    def step(self, call: Call) -> StepTrace:
        """A step call that will execute."""
        return StepTrace(self, call)

    def wait(self, what: str) -> WaitTrace:
        """The run waits for a signal or `sleep`."""
        return WaitTrace(self, what)

    def waited(self, name: str, attributes: dict[str, Any], around: Context | None, began_ns: int) -> None:
        """A wait that is over, in the run's span or in one below it."""
        self.tracer.start_span(name, around or self._context, attributes=attributes, start_time=began_ns).end()

    def send(self, pipeline: str) -> SendTrace:
        """The run is handed to the deep path."""
        return SendTrace(self.tracer, pipeline, self._context, self.shared)

    def demoted(self, demotion: Demotion) -> None:
        """The deep path owns the run."""
        if self.span.is_recording():  # the run may have ended in the meantime
            facts = {names.DEMOTION_REASON: demotion.reason}
            self.span.set_attributes(facts)
            times = {names.ELAPSED_MS: demotion.elapsed_ms, names.BUDGET_MS: demotion.budget_ms}
            self.span.add_event(names.EVENT_DEMOTED, {**facts, **times})

    def concluded(self, outcome: Outcome) -> None:
        """The run has its outcome."""
        if not self.span.is_recording():
            return
        self.span.set_attribute(names.RUN_OUTCOME, outcome.status)
        if outcome.result is not None and self.content_bytes is not None:
            show_output(self.span, shown(outcome.result, self.content_bytes))
        if outcome.error is not None:
            if outcome.status != "cancelled":
                note_failure(self.span, outcome.error, self.content_bytes)
            self.span.set_attribute(names.ERROR_CODE, outcome.error.code)
            if outcome.error.step is not None:
                self.span.set_attribute(names.ERROR_STEP, outcome.error.step)

    def end(self) -> None:
        """It no longer executes in this process."""
        self.span.end()
        if self._outer is not None:
            self._outer.end()


class _Below:
    """A span below a run's span that is current for a while, in one task."""

    __slots__ = ("_run", "_span", "_token")

    def __init__(self, run: RunTrace) -> None:
        self._run = run
        self._span: Span | None = None
        self._token: Token[Context] | None = None

    def _open(self, name: str, attributes: dict[str, str | int]) -> None:
        # Below the current span, which the pipeline's code may have opened below the run's.
        self._span = self._run.tracer.start_span(name, attributes={**self._run.shared, **attributes})
        self._token = otel.attach(trace.set_span_in_context(self._span))

    def _close(self, span: Span, kind: type[BaseException] | None) -> None:
        span.end()
        # An unfinished coroutine that is discarded is closed in the context that collects it.
        if self._token is not None and kind is not GeneratorExit:
            otel.detach(self._token)


class StepTrace(_Below):
    """One step call: a span from its first attempt to its end, waits between attempts included."""

    __slots__ = ("_again", "_attempts", "_call", "_failed", "_queued_s", "_target")

    def __init__(self, run: RunTrace, call: Call) -> None:
        super().__init__(run)
        self._call = call
        self._attempts = 0
        self._again = False
        self._failed: Exception | None = None
        self._queued_s = 0.0
        self._target: str | None = None

    def __enter__(self) -> Self:
        return self

    def attempt(self, number: int, label: str | None = None, target: str | None = None) -> None:
        """An attempt begins; with its target in a failover."""
        self._attempts, self._target = number, target
        if self._span is not None:
            return
        call = self._call
        attributes: dict[str, str | int] = {
            names.STEP_NAME: call.name,
            names.STEP_KEY: call.key,
            names.STEP_LANE: call.policy.lane,
            names.SPAN_KIND: names.SPAN_KIND_OF[call.kind],
        }
        if label is not None:
            attributes[names.STEP_LABEL] = label
        if call.kind in names.OPERATION_OF:
            attributes[names.OPERATION] = names.OPERATION_OF[call.kind]
        if call.kind in names.NAME_OF:
            attributes[names.NAME_OF[call.kind]] = call.name
        if self._run.content_bytes is not None:
            text = shown(call.arguments, self._run.content_bytes, call.codec.names)
            attributes |= {names.INPUT: text, names.INPUT_TYPE: names.JSON}
            if call.kind == "tool":
                attributes[names.TOOL_ARGUMENTS] = text
        self._open(f"{names.SPAN_STEP[call.kind]} {call.name}", attributes)

    def queued(self, seconds: float) -> None:
        """The attempt waited this long for a thread, a process or a worker."""
        self._queued_s += seconds

    def waited(self, resource: str, first: Waits, seconds: float, began_ns: int) -> None:
        """A permit was waited for until now, by the attempt or in its code; `first` is how the wait looked at first."""
        attributes: dict[str, str | int | float] = {
            **self._run.shared,
            names.SPAN_KIND: "CHAIN",
            names.STEP_NAME: self._call.name,
            names.WAIT_RESOURCE: resource,
            names.WAIT_REASON: first.reason,
            names.WAIT_AHEAD: first.ahead,
            names.WAITED_MS: round(seconds * 1000, 3),
        }
        if first.expected_s is not None:
            attributes[names.WAIT_EXPECTED_MS] = round(first.expected_s * 1000, 3)
        around = None if self._span is None else trace.set_span_in_context(self._span)
        self._run.waited(f"{names.SPAN_PERMIT} {resource}", attributes, around, began_ns)

    def retrying(self, number: int, failure: Failure, delay_s: float) -> None:
        """The attempt failed, and another will follow."""
        if self._span is not None:
            attributes: dict[str, str | int | float] = {
                names.STEP_ATTEMPT: number,
                names.ERROR_TYPE: type_of(failure),
                names.DELAY_MS: round(delay_s * 1000, 3),
            }
            if self._target is not None:
                attributes[names.STEP_TARGET] = self._target
            if self._run.content_bytes is not None:
                attributes[names.EXCEPTION_MESSAGE] = cut(failure.message.encode(), self._run.content_bytes)
            self._span.add_event(names.EVENT_RETRYING, attributes)

    def slow(self, number: int, after_s: float) -> None:
        """The attempt has no first token after this time."""
        if self._span is not None:
            after_ms = round(after_s * 1000, 3)
            self._span.add_event(names.EVENT_SLOW, {names.STEP_ATTEMPT: number, names.SLOW_AFTER_MS: after_ms})

    def hedged(self, number: int, *, won: bool) -> None:
        """The attempt's code was executed a second time beside the first, and that has won or not."""
        if self._span is not None:
            self._span.add_event(names.EVENT_HEDGED, {names.STEP_ATTEMPT: number, names.HEDGE_WON: won})

    def ended(self, outcome: AttemptOutcome) -> None:
        """An attempt with its own span has ended."""
        self._again = isinstance(outcome, RetryLater)
        self._failed = outcome.error if isinstance(outcome, Failed) else None

    def completed(self, encoded: bytes) -> None:
        """The step has its result."""
        if self._run.content_bytes is not None and self._span is not None:
            text = shown(encoded, self._run.content_bytes)
            show_output(self._span, text)
            if self._call.kind == "tool":
                self._span.set_attribute(names.TOOL_RESULT, text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        span = self._span
        if span is None:
            return
        error = error or self._failed
        ended = "retrying" if self._again else "completed"
        outcome = ended if error is None else "failed" if isinstance(error, Exception) else "cancelled"
        span.set_attributes({names.STEP_ATTEMPTS: self._attempts, names.STEP_OUTCOME: outcome})
        if self._target is not None:
            span.set_attribute(names.STEP_TARGET, self._target)
        if self._call.policy.lane != "loop" or self._queued_s > 0:
            span.set_attribute(names.QUEUE_WAIT_MS, round(self._queued_s * 1000, 3))
        if isinstance(error, Exception):
            note_failure(span, failure_of(error), self._run.content_bytes)
        self._close(span, kind)


class WaitTrace(_Below):
    """A wait of a run in this process; `left` if the run was parked or moved in the meantime."""

    __slots__ = ("_what",)

    def __init__(self, run: RunTrace, what: str) -> None:
        super().__init__(run)
        self._what = what

    def __enter__(self) -> Self:
        self._open(f"{names.SPAN_WAIT} {self._what}", {names.SPAN_KIND: "CHAIN", names.WAIT_FOR: self._what})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.set_attribute(names.WAIT_OUTCOME, "over" if kind is None else "left")
            self._close(self._span, kind)


class SendTrace:
    """The handoff of a run to a worker: a producer's span until the engine owns the run."""

    def __init__(self, tracer: Tracer, pipeline: str, parent: Context, shared: dict[str, str]) -> None:
        self._span = tracer.start_span(
            f"{names.SPAN_SEND} {pipeline}",
            parent,
            SpanKind.PRODUCER,
            {**shared, **messaging("send", pipeline), names.SPAN_KIND: "CHAIN"},
        )
        self.headers = carried(trace.set_span_in_context(self._span, parent))
        """The context from which the worker continues."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            note_failure(self._span, failure_of(error), None)
        self._span.end()


def messaging(operation: str, pipeline: str) -> dict[str, str]:
    """Attributes of a span at the engine hop."""
    return {
        names.MESSAGING_SYSTEM: "offramp",
        names.MESSAGING_OPERATION: operation,
        names.MESSAGING_DESTINATION: pipeline,
    }


def show_output(span: Span, text: str) -> None:
    """An output as it is shown."""
    span.set_attributes({names.OUTPUT: text, names.OUTPUT_TYPE: names.JSON})


def note_failure(span: Span, failure: Failure, content_bytes: int | None) -> None:
    """Mark the span as failed; messages may quote inputs, so they are shown only if inputs are."""
    kind = type_of(failure)
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR, kind)
    if content_bytes is not None:
        message = cut(failure.message.encode(), content_bytes)
        span.add_event(names.EVENT_EXCEPTION, {names.EXCEPTION_TYPE: kind, names.EXCEPTION_MESSAGE: message})


def type_of(failure: Failure) -> str:
    """The exception's class, with its module unless it is a builtin; without a class, the error's code."""
    return failure.code if failure.type is None else failure.type.removeprefix("builtins:").replace(":", ".")
