"""Real gateway, worker and lane processes: one run is one connected trace, and every span names its session."""

from __future__ import annotations

import os
import signal

import httpx

from offramp.telemetry import names
from tests.telemetry.conftest import serving, warm
from tests.webhooks.receiver import SECRET
from tests.webhooks.receiver import receiving as hooks

CALLER_TRACE, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01", "tracestate": "vendor=opaque"}


def submit(url, pipeline, arguments, headers=None, **body):
    answer = httpx.post(
        f"{url}/v1/pipelines/{pipeline}/runs",
        json={"input": arguments, **body},
        headers=headers,
        timeout=30,
    )
    assert answer.is_success, answer.text
    return answer.json()


def ended(url, run_id):
    """The run document, once the run has ended."""
    httpx.get(f"{url}/v1/runs/{run_id}/events", timeout=30).raise_for_status()
    return httpx.get(f"{url}/v1/runs/{run_id}").json()


def of_run(run_id, name):
    return lambda spans: [span for span in spans if span.name == name and span.attributes.get(names.RUN_ID) == run_id]


def below(spans, parent):
    return sorted((span for span in spans if span.parent == parent.id), key=lambda span: span.began)


def demoted_run(serve, tmp_path, hook):
    """A demoted run's document and its webhooks by event, after everything has left in order."""
    body = {"session_id": "talk-1", "webhook": {"url": hook.url}}
    run = submit(serve.url, "answer", {"word": "why", "gate": "open"}, CALLER, **body)
    assert (run["status"], run["demotion"]["reason"]) == ("running", "budget")
    (tmp_path / "open").touch()
    document = ended(serve.url, run["id"])
    assert (document["status"], document["result"]) == ("completed", "WHY! 3")
    announced = {request.json["type"]: request for request in (hook.next(), hook.next())}
    serve.send(signal.SIGTERM)
    code, _, said = serve.end()
    assert code == 0, said
    return document, announced


def test_a_demoted_run_is_one_trace(receiver, tmp_path):
    settings = {"OFFRAMP_WEBHOOK_SECRET": SECRET, "OFFRAMP_WEBHOOK_ALLOW": "127.0.0.1", "OFFRAMP_PROCESSES": "1"}
    with hooks() as hook, serving(tmp_path, receiver.url, **settings) as serve:
        document, announced = demoted_run(serve, tmp_path, hook)
    whole = [span for span in receiver.spans if span.trace_id == CALLER_TRACE]
    assert document["trace_id"] == CALLER_TRACE
    known = {span.id for span in whole} | {CALLER_SPAN}
    assert [span for span in whole if span.parent not in known] == []
    for span in whole:
        assert {span.attributes.get(name) for name in names.SESSION} == {"talk-1"}, span
        assert span.state == CALLER["tracestate"]

    (request,) = [span for span in whole if span.parent == CALLER_SPAN]
    assert (request.name, request.kind) == ("POST /v1/pipelines/{name}/runs", "SERVER")
    assert request.attributes[names.HTTP_STATUS] == 202
    assert request.attributes[names.ROUTE_REASONS] == ["a budget of 1 s (class 'interactive')"]
    (fast,) = below(whole, request)
    sent = in_the_gateway(whole, fast)
    in_the_worker(whole, sent)

    kinds = {span.name: span.resource["offramp.process.kind"] for span in whole}
    assert (kinds["send answer"], kinds["process answer"], kinds["GET process"]) == ("gateway", "worker", "lane")
    assert {span.resource["service.name"] for span in whole} == {"desk"}
    for event, message in announced.items():
        (span,) = [span for span in below(whole, fast) if span.name == f"offramp.webhook {event}"]
        assert message.headers["traceparent"] == f"00-{CALLER_TRACE}-{span.id}-01"
        assert message.headers["tracestate"] == CALLER["tracestate"]
        assert "baggage" not in message.headers


def in_the_gateway(whole, fast):
    """What the fast part has below it; gives the producer's span."""
    assert (fast.name, fast.kind) == ("invoke_workflow answer", "INTERNAL")
    assert (fast.attributes[names.RUN_PATH], fast.attributes[names.RUN_VERSION]) == ("fast", "7")
    assert [name for name, _ in fast.events] == ["run.demoted"]
    assert fast.attributes[names.DEMOTION_REASON] == "budget"
    parts = {span.name: span for span in below(whole, fast)}
    assert sorted(parts) == [
        "execute_tool look_up",
        "invoke_agent wait_for",
        "offramp.step count",
        "offramp.wait sleep",
        "offramp.webhook run.completed",
        "offramp.webhook run.demoted",
        "send answer",
    ]
    tool = parts["execute_tool look_up"]
    assert [name for name, _ in tool.events] == ["step.retrying"]
    assert tool.attributes[names.STEP_ATTEMPTS] == 2
    assert [span.name for span in below(whole, tool)] == ["GET thread"] * 2
    assert [span.name for span in below(whole, parts["offramp.step count"])] == ["GET process"]
    assert parts["send answer"].kind == "PRODUCER"
    return parts["send answer"]


def in_the_worker(whole, sent):
    """What went on below the producer's span."""
    (process,) = below(whole, sent)
    assert (process.name, process.kind) == ("process answer", "CONSUMER")
    assert [(trace, span) for trace, span, _ in process.links] == [(CALLER_TRACE, sent.id)]
    assert process.attributes[names.HANDOFF_MS] >= 0
    (deep,) = below(whole, process)
    assert (deep.name, deep.attributes[names.RUN_PATH]) == ("invoke_workflow answer", "deep")
    assert (deep.attributes[names.REPLAYED_STEPS], deep.attributes[names.RUN_OUTCOME]) == (3, "completed")
    (step,) = below(whole, deep)
    assert (step.name, step.attributes[names.SPAN_KIND]) == ("chat write", "LLM")
    assert [span.name for span in below(whole, step)] == ["GET loop"]


def test_a_run_that_is_sent_deep_at_once_is_one_trace(receiver, tmp_path):
    with serving(tmp_path, receiver.url) as serve:
        run = submit(serve.url, "audit", {"gate": "open"})
        (tmp_path / "open").touch()
        document = ended(serve.url, run["id"])
        (deep,) = receiver.wait_for(of_run(run["id"], "invoke_workflow audit"))
        (process,) = receiver.wait_for(of_run(run["id"], "process audit"))
        (sent,) = receiver.wait_for(of_run(run["id"], "send audit"))
        (request,) = receiver.wait_for(of_run(run["id"], "POST /v1/pipelines/{name}/runs"))
    assert (request.parent, sent.parent, process.parent, deep.parent) == ("", request.id, sent.id, process.id)
    assert {request.trace_id, sent.trace_id, process.trace_id, deep.trace_id} == {document["trace_id"]}
    assert process.attributes[names.QUEUE_WAIT_MS] >= 0
    steps = sorted(below(receiver.spans, deep), key=lambda span: span.began)
    assert [span.name for span in steps] == ["chat write", "invoke_agent wait_for", "chat write"]
    # A run without a session is a session of its own.
    for span in [request, sent, process, deep, *steps]:
        assert {span.attributes.get(name) for name in names.SESSION} == {run["id"]}, span


def test_a_recovery_is_a_new_trace_that_links_back(receiver, tmp_path):
    with serving(tmp_path, receiver.url) as serve:
        run = submit(serve.url, "audit", {"gate": "open"}, session_id="talk-2")
        receiver.wait_for(of_run(run["id"], "chat write"))  # its first step is over, its second one waits
        os.kill(serve.worker, signal.SIGKILL)
        warm(serve)
        (tmp_path / "open").touch()
        document = ended(serve.url, run["id"])
        (process,) = receiver.wait_for(of_run(run["id"], "process audit"))
        (sent,) = receiver.wait_for(of_run(run["id"], "send audit"))
    assert document["status"] == "completed"
    assert document["trace_id"] == sent.trace_id != process.trace_id
    assert process.parent == ""
    assert [(trace, span) for trace, span, _ in process.links] == [(sent.trace_id, sent.id)]
    (deep,) = below(receiver.spans, process)
    assert (deep.attributes[names.REPLAYED_STEPS], deep.attributes[names.RUN_OUTCOME]) == (1, "completed")
    assert [span.name for span in below(receiver.spans, deep)] == ["invoke_agent wait_for", "chat write"]
    for span in receiver.spans:
        if span.trace_id in {sent.trace_id, process.trace_id}:
            assert span.attributes["session.id"] == "talk-2", span
