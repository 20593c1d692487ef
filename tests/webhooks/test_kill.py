"""`offramp serve` as a real process, killed between a delivery and the note that it was made."""

from __future__ import annotations

import os
import signal
import sqlite3

import httpx
import pytest

from tests.cli.harness import running
from tests.webhooks.receiver import SECRET, WAIT_S

DESK = """
from offramp import SLA, App

app = App("desk", classes=[SLA("interactive", budget=5.0), SLA("batch", budget=0)])


@app.step(timeout=20)
async def double(text: str) -> str:
    return text * 2


@app.pipeline(sla="interactive")
async def fast(text: str) -> str:
    return await double(text)


@app.pipeline(sla="batch")
async def deep(text: str) -> str:
    return await double(text)
"""
ENVIRONMENT = {
    "OFFRAMP_WEBHOOK_SECRET": SECRET,
    "OFFRAMP_WEBHOOK_ALLOW": "127.0.0.1",
    # A claim lasts this and 5 s: how long the message waits for the process after the one that was killed.
    "OFFRAMP_WEBHOOK_TIMEOUT": "1",
    "OFFRAMP_LEASE": "2",
}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "desk.py").write_text(DESK)
    return tmp_path


def serve(project):
    return running("serve", "desk.py", "--port", "0", "--drain-timeout", "5", cwd=project, env=ENVIRONMENT)


def ready(command):
    url = command.wait_for(r"at (http://[\d.:]+),")[1]
    command.wait_for(r"worker 1  ready in")
    return url


def submit(url, pipeline, body):
    with httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as web:
        return web.post(f"/v1/pipelines/{pipeline}/runs", json={"input": {"text": "hi"}} | body)


def entries(project):
    connection = sqlite3.connect(project / ".offramp" / "offramp.db")
    try:
        return connection.execute("SELECT run_id FROM webhooks").fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("pipeline", ["fast", "deep"])
def test_a_message_is_sent_again_under_its_id_after_a_kill(project, receiver, pipeline):
    with serve(project) as first:

        def kill(_):
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait(WAIT_S)
            return 204

        receiver.answer = kill
        answer = submit(ready(first), pipeline, {"webhook": {"url": receiver.url}})
        run_id = answer.json()["id"]
        assert "hidden" not in answer.text
        before = receiver.next()
        assert first.process.wait(WAIT_S) == -signal.SIGKILL
        assert "hidden" not in "\n".join(first.seen)
    assert entries(project) == [(run_id,)]
    receiver.answer = lambda _: 204
    with serve(project) as second:
        ready(second)
        after = receiver.next()
        second.send(signal.SIGTERM)
        code, _, stderr = second.end()
    assert code == 0
    assert before.id == after.id == f"{run_id}-{before.id.rpartition('-')[2]}"
    assert before.body == after.body
    for request in (before, after):
        assert request.verified()["data"]["result"] == "hihi"
    assert entries(project) == []
    assert "hidden" not in stderr
    assert SECRET not in stderr


def test_the_edge_refuses_what_would_not_be_delivered(project, receiver):
    with serve(project) as command:
        url = ready(command)
        for webhook, pointer in (
            ({"url": "http://10.0.0.1/"}, "/webhook/url"),
            ({"url": "http://169.254.169.254/latest"}, "/webhook/url"),
            ({"url": receiver.url, "events": ["step.delta"]}, "/webhook/events/0"),
            ({"url": receiver.url, "event": ["run.failed"]}, "/webhook/event"),
        ):
            answer = submit(url, "fast", {"webhook": webhook})
            assert answer.status_code == 422
            assert [each["pointer"] for each in answer.json()["errors"]] == [pointer]
        assert submit(url, "fast", {"webhook": {"url": receiver.url}}).status_code == 200
        assert receiver.next().verified()["type"] == "run.completed"
        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    assert "offramp_webhook_attempts_total" in metrics
    assert len(receiver.seen) == 1
