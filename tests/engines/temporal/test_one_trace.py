"""A gateway and workers on Temporal, as processes: a run is one trace, also where a worker of it is killed."""

from __future__ import annotations

import contextlib
import signal

import pytest

from offramp.telemetry import names
from tests.cli.harness import running
from tests.mixed.place import until
from tests.telemetry.conftest import DESK
from tests.telemetry.receiver import receiving
from tests.telemetry.test_one_trace import CALLER, CALLER_SPAN, CALLER_TRACE, below, ended, of_run, submit

SPANS_SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OFFRAMP_LEASE": "1", "OFFRAMP_PROCESSES": "1"}


class Place:
    """Processes over one folder and one task queue, which send their spans to a receiver."""

    def __init__(self, home, url, receiver):
        self.home = home
        self.receiver = receiver
        self._options = ("--engine", url, "--data", str(home / "data"), "--drain-timeout", "10")
        self._env = SPANS_SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}

    @contextlib.contextmanager
    def worker(self):
        with running("worker", str(DESK), *self._options, cwd=self.home, env=self._env) as process:
            process.wait_for(r"ready in")
            yield process

    @contextlib.contextmanager
    def gateway(self):
        options = ("--port", "0", "--workers", "0", *self._options)
        with running("serve", str(DESK), *options, cwd=self.home, env=self._env) as process:
            process.url = process.wait_for(r"at (http://[\d.:]+),")[1]
            yield process

    def whole(self, run_id, ends):
        """The trace of a run, once the span of this name is there."""
        (last,) = self.receiver.wait_for(of_run(run_id, ends))
        return [span for span in self.receiver.spans if span.trace_id == last.trace_id]


@pytest.fixture
def place(tmp_path, url):
    with receiving() as receiver:
        yield Place(tmp_path, url, receiver)


def assert_connected(whole, run_id, session, root=""):
    known = {span.id for span in whole} | {root}
    assert [span for span in whole if span.parent not in known] == []
    for span in whole:
        assert {span.attributes.get(name) for name in names.SESSION} == {session}, span
        assert span.began <= span.ended


def leave(*processes):
    """Everybody stops in order, and so has sent its spans."""
    for process in processes:
        process.send(signal.SIGTERM)
    for process in processes:
        code, _, said = process.end()
        assert code == 0, said


def test_a_demoted_run_is_one_trace(place, tmp_path):
    with place.worker() as worker, place.gateway() as gateway:
        run = submit(gateway.url, "answer", {"word": "why", "gate": "open"}, CALLER, session_id="talk-1")
        assert run["demotion"]["reason"] == "budget"
        place.receiver.wait_for(of_run(run["id"], "process answer"))  # it goes on beside its step in flight
        (tmp_path / "open").touch()
        assert ended(gateway.url, run["id"])["result"] == "WHY! 3"
        leave(gateway, worker)
    whole = [span for span in place.receiver.spans if span.trace_id == CALLER_TRACE]
    assert_connected(whole, run["id"], "talk-1", CALLER_SPAN)
    assert {span.state for span in whole} == {CALLER["tracestate"]}
    (sent,) = [span for span in whole if span.name == "send answer"]
    (process,) = below(whole, sent)
    assert (process.name, process.kind) == ("process answer", "CONSUMER")
    assert [span for _, span, _ in process.links] == [sent.id]
    assert process.attributes[names.HANDOFF_MS] >= 0
    (deep,) = below(whole, process)
    assert (deep.name, deep.attributes[names.RUN_PATH]) == ("invoke_workflow answer", "deep")
    assert (deep.attributes[names.REPLAYED_STEPS], deep.attributes[names.RUN_OUTCOME]) == (2, "completed")
    (step,) = below(whole, deep)
    assert (step.name, step.attributes[names.SPAN_KIND]) == ("chat write", "LLM")
    assert (step.attributes[names.STEP_ATTEMPTS], step.attributes[names.STEP_OUTCOME]) == (1, "completed")
    assert step.attributes[names.QUEUE_WAIT_MS] >= 0
    assert [span.name for span in below(whole, step)] == ["GET loop"]
    assert {span.resource["offramp.process.kind"] for span in (process, deep, step)} == {"worker"}
    (held,) = [span for span in whole if span.name == "invoke_agent wait_for"]
    assert (held.resource["offramp.process.kind"], held.attributes[names.STEP_OUTCOME]) == ("gateway", "completed")


def test_a_run_that_goes_deep_at_once_is_one_trace_with_its_retries_and_waits(place, tmp_path):
    body = {"session_id": "talk-3", "class": "batch"}
    with place.worker() as worker, place.gateway() as gateway:
        (tmp_path / "open").touch()
        run = submit(gateway.url, "answer", {"word": "why", "gate": "open"}, **body)
        document = ended(gateway.url, run["id"])
        assert document["result"] == "WHY! 3"
        leave(gateway, worker)
    whole = place.whole(run["id"], "invoke_workflow answer")
    assert document["trace_id"] == whole[0].trace_id
    assert_connected(whole, run["id"], "talk-3")
    (request,) = [span for span in whole if not span.parent]
    (sent,) = below(whole, request)
    (process,) = below(whole, sent)
    assert [sent.name, process.name] == ["send answer", "process answer"]
    assert process.attributes[names.QUEUE_WAIT_MS] >= 0
    (deep,) = below(whole, process)
    parts = below(whole, deep)
    assert [(span.name, span.attributes.get(names.STEP_OUTCOME)) for span in parts] == [
        ("execute_tool look_up", "retrying"),
        ("execute_tool look_up", "completed"),
        ("offramp.step count", "completed"),
        ("offramp.wait sleep", None),
        ("invoke_agent wait_for", "completed"),
        ("chat write", "completed"),
    ]
    first, second = parts[:2]
    assert [name for name, _ in first.events] == ["step.retrying"]
    assert (first.status, first.attributes[names.STEP_ATTEMPTS], second.attributes[names.STEP_ATTEMPTS]) == (
        "UNSET",
        1,
        2,
    )
    assert parts[3].attributes[names.WAIT_OUTCOME] == "over"
    for step, called in ((first, "thread"), (second, "thread"), (parts[2], "process"), (parts[5], "loop")):
        assert [span.name for span in below(whole, step)] == [f"GET {called}"]


def test_a_killed_worker_does_not_break_the_trace(place, tmp_path):
    with place.worker() as one, place.gateway() as gateway:
        run = submit(gateway.url, "audit", {"gate": "open"}, session_id="talk-2")
        until((tmp_path / "open-held").exists)  # Temporal has its first step's result, and its second step waits
        place.receiver.wait_for(of_run(run["id"], "chat write"))
        one.send(signal.SIGKILL)
        with place.worker() as two:
            (tmp_path / "open").touch()
            assert ended(gateway.url, run["id"])["status"] == "completed"
            leave(gateway, two)
    whole = place.whole(run["id"], "invoke_workflow audit")
    assert_connected(whole, run["id"], "talk-2")
    (deep,) = [span for span in whole if span.name == "invoke_workflow audit"]
    parts = [(span.name, span.resource["service.instance.id"]) for span in below(whole, deep)]
    assert sorted(name for name, _ in parts) == ["chat write", "chat write", "invoke_agent wait_for", "process audit"]
    assert len({process for name, process in parts if name == "chat write"}) == 2
    (again,) = [span for span in below(whole, deep) if span.name == "process audit"]
    assert (again.kind, again.attributes[names.REPLAYED_STEPS]) == ("CONSUMER", 2)
