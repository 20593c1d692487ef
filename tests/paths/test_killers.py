"""A step that kills its process is not repeated without end, and fails no other run: real processes, really dead."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import time
from pathlib import Path

import httpx
import psutil
import pytest

from offramp.paths.deep import STEPLESS_DEATHS_FACTOR
from offramp.paths.submission import Submission
from tests.cli.harness import WAIT_S, running
from tests.paths import killers
from tests.support import frames_of, member

APP = Path(__file__).with_name("killers.py")


@contextlib.contextmanager
def serving(folder, *, workers=2, drain_timeout="20", **settings):
    """`offramp serve`, ready, and a client of it."""
    # Leases of a minute: a process given up here has died, or announced that it leaves.
    variables = {"OFFRAMP_LEASE": "60", "OFFRAMP_POLL": "0.1", "OFFRAMP_TEST_FOLDER": str(folder), **settings}
    options = ["--port", "0", "--workers", str(workers), "--drain-timeout", drain_timeout]
    with running("serve", str(APP), *options, cwd=folder, env=variables) as command, leaves_none_behind(command):
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        for _ in range(workers):
            command.wait_for(r"worker \d+  ready in")
        with httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as web:
            yield command, web


@contextlib.contextmanager
def leaves_none_behind(command):
    """One that hangs does not hear that its gateway is gone."""
    try:
        yield
    finally:
        if command.process.poll() is None:
            workers = psutil.Process(command.process.pid).children()
            command.process.kill()
            for worker in workers:
                worker.kill()


def submit(web, pipeline, **arguments):
    answer = web.post(f"/v1/pipelines/{pipeline}/runs", json={"input": arguments}, headers={"prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def until(condition, patience_s=WAIT_S):
    ends_at = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < ends_at, "it did not come about"
        time.sleep(0.02)
    return found


def ended(web, run, patience_s=WAIT_S):
    """The run's document, once it has its outcome; its log is whole then."""

    def look():
        document = web.get(f"/v1/runs/{run}").json()
        return document if document["finished_at"] else None

    document = until(look, patience_s)
    log = web.get(f"/v1/runs/{run}/events").text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in log if line.startswith("data: ")]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events][-1] == f"run.{document['status']}"
    return document


def executed(folder, line="crash"):
    file = folder / "executed"
    return file.read_text().splitlines().count(line) if file.exists() else 0


def deaths(folder, run):
    with contextlib.closing(sqlite3.connect(folder / ".offramp" / "offramp.db")) as connection:
        return connection.execute("SELECT deaths FROM runs WHERE id = ?", (run,)).fetchone()[0]


def assert_given_up(document, step, deaths=(3,), how="died"):
    assert document["status"] == "failed"
    error = document["error"]
    assert error["code"] == "step-killed-process"
    assert step in error["message"]
    told = re.match(rf"StepKilledProcess: (\d+) processes in a row {how} while they executed", error["message"])
    assert told, error["message"]
    assert int(told[1]) in deaths


@pytest.mark.parametrize(
    ("pipeline", "how", "step"),
    [
        ("kills", "exit", "crash"),
        ("kills", "SIGSEGV", "crash"),
        ("kills_in_thread", "SIGKILL", "crash_in_thread"),
        ("kills_beside_others", "exit", "crash_later"),
    ],
)
def test_a_run_that_takes_down_its_process_is_given_up(tmp_path, pipeline, how, step):
    with serving(tmp_path) as (_, web):
        run = submit(web, pipeline, how=how)
        document = ended(web, run)
    assert_given_up(document, step)
    # One more where a step ended just before the first death: what is written behind died with it.
    assert executed(tmp_path) in ({3, 4} if pipeline == "kills" else {3})
    if pipeline == "kills":
        assert document["error"]["step"] == step
        assert [(known["name"], known["status"]) for known in document["steps"]] == [
            ("prepare", "completed"),
            ("crash", "failed"),
        ]


@pytest.mark.parametrize(
    ("counted", "status"), [(3 * STEPLESS_DEATHS_FACTOR - 1, "completed"), (3 * STEPLESS_DEATHS_FACTOR, "failed")]
)
async def test_deaths_between_steps_are_borne_longer(tmp_path, monkeypatch, counted, status):
    monkeypatch.setattr(killers, "folder", tmp_path)
    (tmp_path / "go").touch()
    async with member(killers.app, tmp_path, "gateway") as gateway:
        run = (await gateway.submit(Submission(pipeline="waits", input=b'{"n":1}'))).record.id
        with contextlib.closing(sqlite3.connect(tmp_path / "offramp.db")) as connection, connection:
            died = "deaths = ?1, deaths_alone = ?1, company = 1"
            connection.execute(f"UPDATE runs SET {died}, started_at = 1", (counted,))
        async with member(killers.app, tmp_path, "worker", poll=0.1):
            frames = await frames_of(gateway, run)
        record = await gateway.get(run)
    assert frames[-1].type == f"run.{status}"
    assert record.error is None or (record.error.code, record.error.step) == ("step-killed-process", None)


def test_the_number_of_deaths_is_a_setting(tmp_path):
    with serving(tmp_path, OFFRAMP_PROCESS_DEATHS="1") as (_, web):
        document = ended(web, submit(web, "kills", how="exit"))
    assert document["error"]["code"] == "step-killed-process"
    assert executed(tmp_path) in {1, 2}  # that it had begun may have died with it


def test_a_fast_run_that_takes_down_the_gateway_is_given_up(tmp_path):
    with serving(tmp_path) as (command, web):
        with pytest.raises(httpx.TransportError):
            web.post("/v1/pipelines/kills_fast/runs", json={"input": {"how": "exit"}})
        assert command.process.wait(WAIT_S) == 7
    with serving(tmp_path) as (_, web):
        [known] = web.get("/v1/runs").json()["runs"]
        document = ended(web, known["id"])
    assert_given_up(document, "crash_later")
    assert executed(tmp_path) == 3


def test_deaths_in_steps_that_finish_at_last_do_not_add_up(tmp_path):
    with serving(tmp_path) as (_, web):
        document = ended(web, submit(web, "stumbles", steps=2))
    assert document["result"] == [0, 1]
    assert [executed(tmp_path, f"stumble {n}") for n in range(2)] == [3, 3]


def test_runs_beside_one_that_kills_all_complete(tmp_path):
    with serving(tmp_path, workers=1) as (command, web):
        beside = [submit(web, "waits", n=n) for n in range(6)]
        until(lambda: all(executed(tmp_path, f"wait {n}") for n in range(6)))
        killer = submit(web, "kills", how="exit")
        until(lambda: executed(tmp_path) == 2)  # twice beside all of them
        (tmp_path / "go").touch()
        assert [ended(web, run)["result"] for run in beside] == list(range(6))
        # Twice beside all, perhaps once beside the half of them, and three times alone.
        document = ended(web, killer)
        command.wait_for(r"is executed again: a process died while it was under way$")
        command.wait_for(r"is executed again: 2 processes .* executes here beside at most 2 other suspects")
    assert_given_up(document, "crash", {4, 5, 6})
    assert "3 of them without another suspect" in document["error"]["message"]


def test_a_step_that_holds_the_interpreter_ends_its_run_and_no_other(tmp_path):
    # Each of them hangs for good: its lease runs out, its runs go to another, and it is killed.
    with serving(tmp_path, OFFRAMP_LEASE="1.5", OFFRAMP_PROCESS_DEATHS="2") as (command, web):
        beside = [submit(web, "waits", n=n) for n in range(3)]
        until(lambda: all(executed(tmp_path, f"wait {n}") for n in range(3)))
        holder = submit(web, "holds")
        until(lambda: executed(tmp_path, "hold") >= 2)
        (tmp_path / "go").touch()
        assert [ended(web, run)["result"] for run in beside] == list(range(3))
        document = ended(web, holder, 4 * WAIT_S)
        # A worker that hangs in the middle of a write keeps the others from seeing its silence; its pulse ends it.
        command.wait_for(
            "is executed again: a process (fell silent for longer than its lease|died) while it was under way"
        )
        command.wait_for("it hung, and is killed")
        command.wait_for(r"killers\.py.* in hold")
    hung = r"(died|fell silent for longer than their lease|died, or fell silent .* \(\d of them\),)"
    assert_given_up(document, "hold", {2, 3, 4, 5}, hung)
    assert "2 of them without another suspect" in document["error"]["message"] or executed(tmp_path, "hold") == 2
    assert "a call that holds the interpreter" in document["error"]["message"]


def test_a_step_that_is_interrupted_by_stopping_processes_is_not_given_up(tmp_path):
    run = None
    for times in range(1, 5):
        with serving(tmp_path, workers=1, drain_timeout="0.1") as (command, web):
            run = run or submit(web, "waits", n=1)
            until(lambda times=times: executed(tmp_path, "wait 1") == times)
            command.send(signal.SIGTERM)
            assert command.end()[0] == 0
        assert deaths(tmp_path, run) == 0
    (tmp_path / "go").touch()
    with serving(tmp_path, workers=1) as (_, web):
        assert ended(web, run)["result"] == 1


def test_who_is_killed_while_it_stops_does_not_count(tmp_path):
    with serving(tmp_path, workers=1) as (command, web):
        run = submit(web, "waits", n=1)
        until(lambda: executed(tmp_path, "wait 1") == 1)
        [worker] = [child for child in psutil.Process(command.process.pid).children() if "worker" in child.cmdline()]
        os.kill(worker.pid, signal.SIGTERM)
        command.wait_for("stopping")
        until(lambda: "leaving" in said_by_owners(tmp_path))
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: executed(tmp_path, "wait 1") == 2)
        assert deaths(tmp_path, run) == 0
        os.kill(psutil.Process(command.process.pid).children()[0].pid, signal.SIGKILL)
        until(lambda: executed(tmp_path, "wait 1") == 3)
        assert deaths(tmp_path, run) == 1
        (tmp_path / "go").touch()
        assert ended(web, run)["result"] == 1


def said_by_owners(folder):
    with contextlib.closing(sqlite3.connect(folder / ".offramp" / "offramp.db")) as connection:
        rows = connection.execute("SELECT leaving FROM owners WHERE kind = 'worker'").fetchall()
    return ["leaving" for (leaving,) in rows if leaving]
