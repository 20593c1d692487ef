"""The README's program under a real `offramp serve`: streamed, demoted, and one log of it all."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from tests.docs.pages import ROOT, blocks

GUARD_S = 30.0


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    (program,) = blocks(ROOT / "README.md", "python")
    (folder / "quickstart.py").write_text(program.code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "offramp", "serve", "quickstart.py:app", "--port", "0"],
        cwd=folder,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    lines = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stderr, lines), daemon=True)
    reader.start()
    try:
        address = _line(lines, r"at (http://\S+),")[1]
        _line(lines, r"worker 1 +ready")
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(GUARD_S)
        reader.join(GUARD_S)
        process.stderr.close()


def _read(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put("")


def _line(lines, pattern):
    seen = []
    while True:
        line = lines.get(timeout=GUARD_S)
        assert line, "it ended: " + "".join(seen)
        seen.append(line)
        found = re.search(pattern, line)
        if found:
            return found


def _stream(url, path, *, method="GET", **request):
    headers = {"Accept": "text/event-stream"} | request.pop("headers", {})
    with httpx.stream(method, url + path, headers=headers, timeout=GUARD_S, trust_env=False, **request) as answer:
        assert answer.status_code == 200
        return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]


def _runs(url, body):
    return _stream(url, "/v1/pipelines/research/runs", method="POST", json=body)


def _steps(events, kind):
    return [event["key"] for event in events if event["type"] == kind]


def test_one_round_ends_on_the_fast_path(url):
    events = _runs(url, {"input": {"question": "Why?"}})
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run.accepted"
    assert events[-1]["type"] == "run.completed"
    assert "run.demoted" not in [event["type"] for event in events]
    deltas = "".join(event["delta"] for event in events if event["type"] == "step.delta")
    assert deltas.strip() == events[-1]["result"]


def test_five_rounds_are_demoted_and_executed_once_in_one_log(url):
    events = _runs(url, {"input": {"question": "Why?", "rounds": 5}, "follow": True})
    kinds = [event["type"] for event in events]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert kinds.index("run.demoted") < kinds.index("run.resumed")
    assert kinds[-1] == "run.completed"
    assert "step.retrying" not in kinds
    started = _steps(events, "step.started")
    assert len(set(started)) == len(started) == 11
    assert sorted(_steps(events, "step.completed")) == sorted(started)
    assert events[-1]["result"] == "Why? 10 notes say it: web on Why? (1) to wiki on Why? (5)."


def test_without_follow_the_stream_ends_at_the_demotion_and_its_link_goes_on(url):
    events = _runs(url, {"input": {"question": "Why?", "rounds": 2}, "budget": 0.3})
    assert events[-1]["type"] == "run.demoted"
    rest = _stream(url, events[-1]["links"]["events"], headers={"Last-Event-ID": str(events[-1]["seq"])})
    assert [event["seq"] for event in events + rest] == list(range(1, len(events + rest) + 1))
    assert rest[-1]["type"] == "run.completed"
    assert events + rest == _stream(url, events[-1]["links"]["events"])


def test_the_page_about_python_calls_it(url, monkeypatch, capsys):
    monkeypatch.setenv("OFFRAMP_URL", url)
    page = ROOT / "docs" / "how-to" / "python.md"
    seen = {}
    for block in blocks(page, "python"):
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), seen)
    shown = capsys.readouterr().out
    assert "Why? 8 notes say it: web on Why? (1) to wiki on Why? (4)." in shown
    assert "[This takes longer than usual." in shown
    assert seen["answer"] == "Why? 2 notes say it: web on Why? (1) to wiki on Why? (1)."
    assert [answer.split()[0] for answer in seen["answers"]] == ["Why?", "How?", "When?"]
    assert seen["complaints"] == [("/input/question", "Expected `str`, got `int`")]
