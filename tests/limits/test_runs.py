"""Runs whose steps share a resource, in real processes: no more at once than it has, whatever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests import valkey
from tests.cli.harness import WAIT_S, running
from tests.limits import limited
from tests.paths.test_killers import ended, leaves_none_behind, submit, until

APP = Path(limited.__file__)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no coordinator there")


class Noted:
    """What the steps wrote."""

    def __init__(self, folder):
        self.folder = folder

    def lines(self):
        path = self.folder / "noted"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def begun(self):
        return [tag for what, tag, _ in self.lines() if what == "begin"]

    def holder(self, tag):
        return next(int(pid) for what, each, pid in reversed(self.lines()) if (what, each) == ("begin", tag))

    def go(self, tag=None):
        (self.folder / ("go" if tag is None else f"go-{tag}")).touch()

    def at_once_at_most(self, dead=()):
        """How many were between begin and end at once; those of dead processes ended with these."""
        now, most = {}, 0
        for what, tag, pid in self.lines():
            now = {key: value for key, value in now.items() if not (value in dead and key[1] != pid)}
            if what == "begin":
                now[tag, pid] = int(pid)
            else:
                now.pop((tag, pid), None)
            most = max(most, len(now))
        return most


@pytest.fixture
def noted(tmp_path):
    return Noted(tmp_path)


@contextlib.contextmanager
def serving(folder, workers=2, drain_s=20, **settings):
    variables = {"OFFRAMP_LEASE": "60", "OFFRAMP_POLL": "0.1", "OFFRAMP_TEST_FOLDER": str(folder), **settings}
    options = ["--port", "0", "--workers", str(workers), "--drain-timeout", str(drain_s)]
    with running("serve", str(APP), *options, cwd=folder, env=variables) as command, leaves_none_behind(command):
        url = command.wait_for(r"at (http://[\d.:]+),")[1]
        for _ in range(workers):
            command.wait_for(r"worker \d+  ready in")
        with httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as web:
            yield command, web


def coordinators(folder):
    lines = [(each, " ".join(each.info["cmdline"] or ())) for each in psutil.process_iter(["cmdline"])]
    return [each for each, line in lines if "offramp.limits.coordinator" in line and str(folder) in line]


@pytest.mark.parametrize("over", ["socket", "redis"])
def test_one_at_a_time_over_all_processes_and_a_killed_holder_gives_its_permit_back(tmp_path, noted, over):
    if over == "redis" and valkey.binary() is None:
        pytest.skip("no server: make setup")
    store = {"OFFRAMP_STORE": valkey.server().url()} if over == "redis" else {}
    # Over Redis a dead process loses its runs with its lease.
    lease = {"OFFRAMP_LEASE": "3"} if over == "redis" else {}
    with serving(tmp_path, **store, **lease) as (_, web):
        runs = [submit(web, "line", tag=f"r{number}") for number in range(4)]
        until(lambda: len(noted.begun()) == 1)
        tag = noted.begun()[0]
        holder = noted.holder(tag)
        os.kill(holder, signal.SIGKILL)
        until(lambda: len(noted.begun()) == 2)
        noted.go()
        assert {ended(web, run)["status"] for run in runs} == {"completed"}
        assert noted.at_once_at_most({holder}) == 1
        assert len(noted.begun()) == 5


def test_a_request_within_a_step_waits_too_and_says_so(tmp_path, noted):
    with serving(tmp_path) as (_, web):
        first = submit(web, "line", tag="first")
        until(lambda: noted.begun() == ["first"])
        second = submit(web, "asking", tag="second")
        until(lambda: "step.waiting" in web.get(f"/v1/runs/{second}/events?follow=false").text)
        assert noted.begun() == ["first"]
        noted.go()
        assert [ended(web, run)["status"] for run in (first, second)] == ["completed"] * 2
        assert noted.at_once_at_most() == 1


def test_a_process_lane_uses_its_steps_permit_and_asks_for_more_by_itself(tmp_path, noted):
    with serving(tmp_path) as (_, web):
        first = submit(web, "laned", tag="a")
        until(lambda: noted.begun() == ["a-0"])
        second = submit(web, "line", tag="b")
        noted.go("a-0")
        until(lambda: len(noted.begun()) == 2)
        noted.go()
        assert [ended(web, run)["status"] for run in (first, second)] == ["completed"] * 2
        assert noted.at_once_at_most() == 1
        assert sorted(noted.begun()) == ["a-0", "a-1", "b"]


def test_a_killed_coordinator_takes_no_permit_along(tmp_path, noted):
    with serving(tmp_path) as (_, web):
        runs = [submit(web, "line", tag=f"r{number}") for number in range(3)]
        until(lambda: len(noted.begun()) == 1)
        [old] = until(lambda: coordinators(tmp_path))
        old.kill()
        until(lambda: [each for each in coordinators(tmp_path) if each.pid != old.pid])
        late = submit(web, "line", tag="late")
        noted.go(noted.begun()[0])
        until(lambda: len(noted.begun()) == 2)
        noted.go()
        assert {ended(web, run)["status"] for run in (*runs, late)} == {"completed"}
        assert noted.at_once_at_most() == 1


def test_a_high_one_is_next_although_low_ones_have_waited(tmp_path, noted):
    with serving(tmp_path) as (_, web):
        low = [submit(web, "line", tag=f"low{number:02d}") for number in range(20)]
        until(lambda: len(noted.begun()) == 1)
        high = submit(web, "urgent", tag="high")
        until(lambda: web.get("/v1/resources").json()["resources"][0]["waiting"].get("high", {}).get("count") == 1)
        noted.go(noted.begun()[0])
        until(lambda: len(noted.begun()) == 2)
        assert noted.begun()[1] == "high"
        noted.go()
        assert {ended(web, run)["status"] for run in (*low, high)} == {"completed"}
        assert noted.at_once_at_most() == 1


def test_a_drain_gives_everything_back(tmp_path, noted):
    with serving(tmp_path, drain_s=1) as (command, web):
        runs = [submit(web, "line", tag=f"r{number}") for number in range(4)]
        until(lambda: len(noted.begun()) == 1)
        noted.go(noted.begun()[0])
        command.send(signal.SIGTERM)
        code, _, errors = command.end()
        assert (code, "Traceback" in errors) == (0, False)
    noted.go()
    with serving(tmp_path) as (_, web):
        assert {ended(web, run)["status"] for run in runs} == {"completed"}
    assert len(noted.begun()) <= 5
