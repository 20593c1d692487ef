"""A demoted run of real gateway and worker processes, as a real Arize Phoenix has it."""

from __future__ import annotations

import ipaddress
import os
import signal

import psutil
import pytest

from offramp.telemetry import names
from tests.docs.test_backends import Case, local, variables
from tests.phoenix.server import serving_phoenix
from tests.telemetry.conftest import serving, warm
from tests.telemetry.test_one_trace import ended, submit

pytestmark = [pytest.mark.phoenix, pytest.mark.timeout(400)]

PROJECT = "desk"


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory):
    with serving_phoenix(tmp_path_factory.mktemp("phoenix")) as made:
        yield made


def exporting(folder, phoenix):
    """`offramp serve` with the variables of the page on Phoenix."""
    given = variables(Case("phoenix", "/v1/traces", "session.id"))
    return serving(folder, None, **{name: local(value, phoenix.url) for name, value in given.items()})


def left(serve):
    """It has drained, and what was to be exported is."""
    serve.send(signal.SIGTERM)
    code, _, said = serve.end()
    assert code == 0, said


def trace(phoenix, trace_id, *, holds):
    """The spans of a trace by id, once one of this name is among them."""

    def whole():
        received = {
            span["context"]["span_id"]: span
            for span in phoenix.spans(PROJECT)
            if span["context"]["trace_id"] == trace_id
        }
        return received if holds <= {span["name"] for span in received.values()} else None

    return phoenix.once(whole)


def session(phoenix, session_id, traces):
    """A session as the sessions API gives it, once it has so many traces."""

    def received():
        listed = phoenix.get(f"projects/{PROJECT}/sessions") or []
        return next(
            (each for each in listed if each["session_id"] == session_id and len(each["traces"]) == traces), None
        )

    return phoenix.once(received)


def line(spans, span):
    """The names from a span up to the root."""
    names_up = [span["name"]]
    while span["parent_id"] is not None:
        span = spans[span["parent_id"]]  # a KeyError here is a trace that is not connected
        names_up.append(span["name"])
    return names_up


def test_a_demoted_run_is_one_connected_trace_of_its_session(phoenix, tmp_path):
    with exporting(tmp_path, phoenix) as serve:
        run = submit(serve.url, "answer", {"word": "why", "gate": "open"}, session_id="talk-1")
        assert (run["status"], run["demotion"]["reason"]) == ("running", "budget")
        (tmp_path / "open").touch()
        document = ended(serve.url, run["id"])
        assert (document["status"], document["path"]) == ("completed", "deep")
        left(serve)
    request, workflow, send, process = (
        "POST /v1/pipelines/{name}/runs",
        "invoke_workflow answer",
        "send answer",
        "process answer",
    )
    spans = trace(phoenix, document["trace_id"], holds={request, send, process, "chat write", "GET loop"})
    lines = sorted(line(spans, span)[::-1] for span in spans.values())
    fast, deep = [request, workflow], [request, workflow, send, process, workflow]
    assert lines == sorted(
        [
            [request],
            fast,
            [*fast, "execute_tool look_up"],
            [*fast, "execute_tool look_up", "GET thread"],
            [*fast, "execute_tool look_up", "GET thread"],
            [*fast, "offramp.step count"],
            [*fast, "offramp.step count", "GET process"],
            [*fast, "offramp.wait sleep"],
            [*fast, "invoke_agent wait_for"],
            deep[:3],
            deep[:4],
            deep,
            [*deep, "chat write"],
            [*deep, "chat write", "GET loop"],
        ]
    )
    for span in spans.values():
        assert span["attributes"].get("session.id") == "talk-1", span["name"]
    kinds = {span["name"]: span["span_kind"] for span in spans.values()}
    assert [kinds[name] for name in ("execute_tool look_up", "invoke_agent wait_for", "chat write", workflow)] == [
        "TOOL",
        "AGENT",
        "LLM",
        "CHAIN",
    ]
    (demoted,) = [span for span in spans.values() if "run.demoted" in [event["name"] for event in span["events"]]]
    assert line(spans, demoted) == [workflow, request]
    assert demoted["attributes"][names.DEMOTION_REASON] == "budget"
    shown = session(phoenix, "talk-1", traces=1)
    assert [each["trace_id"] for each in shown["traces"]] == [document["trace_id"]]


def test_a_recovered_run_is_two_traces_of_one_session(phoenix, tmp_path):
    with exporting(tmp_path, phoenix) as serve:
        run = submit(serve.url, "audit", {"gate": "open"}, session_id="talk-2")
        trace_id = phoenix.once(lambda: _trace_of_a_finished_step(phoenix, run["id"]))
        os.kill(serve.worker, signal.SIGKILL)
        warm(serve)
        (tmp_path / "open").touch()
        document = ended(serve.url, run["id"])
        assert document["status"] == "completed"
        left(serve)
    shown = session(phoenix, "talk-2", traces=2)
    traces = {each["trace_id"] for each in shown["traces"]}
    assert trace_id in traces
    assert document["trace_id"] in traces
    (other,) = traces - {trace_id}
    spans = trace(phoenix, other, holds={"process audit", "chat write"})
    assert {span["attributes"].get("session.id") for span in spans.values()} == {"talk-2"}


def _trace_of_a_finished_step(phoenix, run_id):
    return next(
        (
            span["context"]["trace_id"]
            for span in phoenix.spans(PROJECT)
            if span["name"] == "chat write" and span["attributes"].get(names.RUN_ID) == run_id
        ),
        None,
    )


def test_it_listens_on_loopback_only_below_the_ports_of_clients(phoenix):
    listening = [
        connection.laddr
        for connection in psutil.Process(phoenix.process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in listening} >= {phoenix.grpc_port}
    assert len(listening) == 2
    for address in listening:
        ip = ipaddress.ip_address(address.ip)
        assert (getattr(ip, "ipv4_mapped", None) or ip).is_loopback, address
        assert address.port < 32_768
