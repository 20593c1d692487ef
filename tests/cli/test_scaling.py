"""`serve --workers A..B`: real worker processes follow the queue, also through a kill and a stop."""

from __future__ import annotations

import os
import re
import signal
import time

import httpx
import pytest

from tests.cli.harness import WAIT_S, offramp, running

SETTINGS = {"OFFRAMP_WORKER_RUNS": "2", "OFFRAMP_WORKERS_IDLE": "1", "OFFRAMP_POLL": "0.2"}


def submitted(url: str, gate: str, count: int) -> list[str]:
    with httpx.Client(base_url=url, trust_env=False, timeout=WAIT_S) as client:
        asked = [client.post("/v1/pipelines/audit/runs", json={"input": {"gates": [gate]}}) for _ in range(count)]
    assert {answer.status_code for answer in asked} == {202}
    return [answer.json()["id"] for answer in asked]


def documents(url: str, ids: list[str]) -> list[dict]:
    """Of the runs, once all have ended."""
    ends_at = time.monotonic() + WAIT_S
    with httpx.Client(base_url=url, trust_env=False, timeout=WAIT_S) as client:
        while True:
            found = [client.get(f"/v1/runs/{each}").json() for each in ids]
            if all(each["finished_at"] for each in found):
                return found
            assert time.monotonic() < ends_at, [each["status"] for each in found]
            time.sleep(0.05)


def workers(url: str) -> dict:
    return httpx.get(f"{url}/v1/workers", trust_env=False, timeout=WAIT_S).json()


def test_the_workers_follow_the_queue_and_no_run_is_lost(project):
    """Takes some seconds, as workers are started, killed and stopped; one test, as they are what takes long."""
    serve = ("serve", "desk.py", "--port", "0", "--workers", "1..3", "--drain-timeout", "1")
    with running(*serve, cwd=project, env=SETTINGS) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        command.wait_for(r"worker 1  ready")
        first = submitted(url, "gate", 8)
        command.wait_for(r"workers: 2 instead of 1 \(1\.\.3\): \d runs waited without room")
        pid = int(command.wait_for(r"worker 2 started \(pid (\d+)\)")[1])
        os.kill(pid, signal.SIGKILL)  # while it starts
        command.wait_for(r"worker 2 \(pid \d+\) died: SIGKILL")
        command.wait_for(r"workers: 3 instead of 2")
        scaling = workers(url)["scaling"]
        assert (scaling["kept"], scaling["least"], scaling["most"]) == (3, 1, 3)
        shown = offramp("top", "--once", "--url", url, cwd=project).stdout
        assert re.search(r"workers: 3 kept here \(1\.\.3\), \d needed", shown), shown
        (project / "gate").touch()
        ended = documents(url, first)
        assert [(each["status"], each["steps"][0]["attempts"]) for each in ended] == [("completed", 1)] * 8
        command.wait_for(r"workers: 1 instead of \d \(1\.\.3\): no more were needed for 1 s")
        assert sum("died" in line for line in command.seen) == 1, "a worker that leaves did not die"
        metrics = httpx.get(f"{url}/metrics", trust_env=False, timeout=WAIT_S).text
        assert "\nofframp_workers_wanted 1.0" in metrics
        assert "\nofframp_workers_needed 1.0" in metrics

        second = submitted(url, "late", 8)
        command.wait_for(r"workers: 2 instead of 1")
        command.send(signal.SIGTERM)  # while one starts
        assert command.end()[0] == 0
    (project / "late").touch()
    with running(*serve, cwd=project, env=SETTINGS) as command:
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        assert {each["status"] for each in documents(url, second)} == {"completed"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "1..2"], "allow 3 or more, such as 1..3"),
        (["--workers", "2"], "allow 3 or more"),
        (["--workers", "8..2"], "such as 2..8"),
        (["--workers", "-1"], "workers: it is a number"),
        (["--workers", "many"], "workers: it is a number"),
    ],
)
def test_a_wrong_number_is_one_line_that_says_what_to_change(project, arguments, says):
    text = (project / "desk.py").read_text().replace("budget=0)", "budget=0, min_warm=3)")
    (project / "desk.py").write_text(text)
    done = offramp("serve", "desk.py", "--port", "0", *arguments, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
