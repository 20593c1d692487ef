"""Attempts to deliver a webhook: part of the run's trace at first, linked to it later, and what came of them."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import baggage

from offramp import App
from offramp.core.run import Webhook
from offramp.core.webhooks import Answer
from offramp.paths.submission import Submission
from offramp.telemetry import names
from offramp.telemetry.context import restored
from offramp.telemetry.tracing import WEBHOOK_CHILD_S_MAX, Tracing
from tests.support import a_record, result_of
from tests.webhooks.receiver import SECRET, receiving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
DELIVERED = Answer("delivered", "204")


def attempted(memory, *, attempt=1, age_s=0.0, answer=DELIVERED, traced=True):
    """The span of an attempt, and the headers that went with it."""
    trace = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "v=1", "baggage": "user=u"} if traced else {}
    record = a_record(session_id="s1", trace=trace)
    with Tracing.current(None).webhook(record, "run.completed", attempt, age_s) as webhook:
        webhook.answered("desk.example", answer)
    (span,) = memory.spans
    return span, webhook.headers


def test_the_first_attempt_is_below_the_run(memory):
    span, headers = attempted(memory)
    assert (span.name, span.kind.name) == ("offramp.webhook run.completed", "CLIENT")
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert headers == {"traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01", "tracestate": "v=1"}
    assert span.attributes[names.WEBHOOK_ATTEMPT] == 1
    assert (span.attributes[names.SERVER_ADDRESS], span.attributes[names.HTTP_STATUS]) == ("desk.example", 204)
    assert span.attributes["session.id"] == "s1"
    assert span.status.status_code.name == "UNSET"


@pytest.mark.parametrize(
    ("attempt", "age_s", "linked"),
    [(1, WEBHOOK_CHILD_S_MAX, False), (1, WEBHOOK_CHILD_S_MAX + 1, True), (2, 0.0, True)],
)
def test_later_ones_link_to_it(memory, attempt, age_s, linked):
    span, headers = attempted(memory, attempt=attempt, age_s=age_s)
    assert (span.parent is None) is linked
    assert [f"{link.context.span_id:016x}" for link in span.links] == ([SPAN] if linked else [])
    assert headers["traceparent"].startswith(f"00-{span.context.trace_id:032x}-")
    assert "baggage" not in headers


def test_a_run_without_a_trace_has_webhooks_with_one(memory):
    span, headers = attempted(memory, traced=False, attempt=2)
    assert (span.parent, len(span.links)) == (None, 0)
    assert set(headers) == {"traceparent"}


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (Answer("gone", "410"), "UNSET", None),
        (Answer("refused", "503"), "ERROR", "503"),
        (Answer("timeout", "no answer within 10 s"), "ERROR", "timeout"),
    ],
)
def test_what_came_of_it_is_told(memory, answer, status, error):
    span, _ = attempted(memory, answer=answer)
    assert span.status.status_code.name == status
    assert span.attributes[names.WEBHOOK_RESULT] == answer.result
    assert span.attributes.get(names.ERROR_TYPE) == error


def test_baggage_that_came_in_is_kept_for_the_run_itself(memory):
    record = a_record(trace={"traceparent": f"00-{TRACE}-{SPAN}-01", "baggage": "user=u%20v"})
    run = Tracing.current(None).begin(record)
    run.end()
    assert baggage.get_all(restored(record.trace)) == {"user": "u v"}


@pytest.mark.parametrize(
    ("trace", "sent"),
    [
        (
            {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "v=1", "baggage": "user=u"},
            {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "v=1"},
        ),
        ({"traceparent": "nonsense", "tracestate": "v=1", "baggage": "user=u"}, {}),
        (
            {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "no state\x01"},
            {"traceparent": f"00-{TRACE}-{SPAN}-01"},
        ),
    ],
)
async def test_without_tracing_the_callers_trace_goes_out_as_it_came(trace, sent):
    app = App("desk")

    @app.pipeline
    async def quick() -> str:
        return "done"

    with receiving() as hook:
        async with app.local(webhook_secret=SECRET, webhook_allow="127.0.0.1") as runtime:
            wanted = Submission(pipeline="quick", trace=trace, webhook=Webhook(hook.url))
            assert await result_of(await runtime.submit(wanted)) == "done"
            headers = await asyncio.to_thread(hook.next)
    kept = {"traceparent", "tracestate", "baggage"} & set(headers.headers)
    assert {name: headers.headers[name] for name in kept} == sent
