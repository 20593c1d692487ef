"""Real processes that die: a worker, a gateway, the Temporal server itself. No finished step is executed again."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import uuid
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests import temporal
from tests.cli.harness import running

APP = Path(__file__).with_name("pipelines.py")
GUARD_S = 40.0
LEASE_S = "1"


class Place:
    """Gateways and workers over one folder and one Temporal server."""

    app = APP
    more = ()

    def __init__(self, home, server):
        self.home = home
        self.server = server
        self._queue = uuid.uuid4().hex
        self._env = {"OFFRAMP_LEASE": LEASE_S, "OFFRAMP_DRAIN_TIMEOUT": "8", "STEPS_HOME": str(home)}

    def _options(self):
        return ["--engine", self.server.url(self._queue), "--data", str(self.home / "data"), *self.more]

    @contextlib.contextmanager
    def worker(self, **env):
        with running("worker", str(self.app), *self._options(), cwd=self.home, env=self._env | env) as process:
            process.wait_for(r"ready in")
            yield process

    @contextlib.contextmanager
    def gateway(self, workers=0):
        options = ["--port", "0", "--workers", str(workers), *self._options()]
        with running("serve", str(self.app), *options, cwd=self.home, env=self._env) as process:
            process.url = process.wait_for(r"at (http://127.0.0.1:\d+),")[1]
            _until(lambda: httpx.get(f"{process.url}/readyz").status_code == 200)
            yield process

    def executed(self):
        """How often each step was executed, and by whom."""
        path = self.home / "steps"
        lines = path.read_text(encoding="utf-8").split() if path.exists() else []
        return list(zip(lines[::2], map(int, lines[1::2]), strict=True))

    def reached(self, step, times=1):
        """Wait until a step began; the process that executed it last."""
        _until(lambda: [made for made, _ in self.executed()].count(step) >= times)
        return [pid for made, pid in self.executed() if made == step][-1]

    def count(self, number):
        """Wait until so many steps began."""
        _until(lambda: len(self.executed()) >= number)

    def let_go(self, name):
        (self.home / f"go-{name}").touch()


def _until(condition, patience_s=GUARD_S):
    ends = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < ends, "what has to happen did not happen"
        time.sleep(0.02)


def submit(gateway, pipeline, tag, **headers):
    answer = httpx.post(f"{gateway.url}/v1/pipelines/{pipeline}/runs", json={"input": {"tag": tag}}, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def outcome(gateway, run_id, patience_s=GUARD_S):
    url = f"{gateway.url}/v1/runs/{run_id}"
    _until(lambda: httpx.get(url).json()["status"] not in {"queued", "running"}, patience_s)
    return httpx.get(f"{gateway.url}/v1/runs/{run_id}").json()


def events(gateway, run_id, after=0):
    """The rest of a run's stream."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    with httpx.stream("GET", f"{gateway.url}/v1/runs/{run_id}/events", headers=headers, timeout=GUARD_S) as stream:
        return [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]


def assert_whole(seen, after=0, end="run.completed"):
    assert [event["seq"] for event in seen] == list(range(after + 1, after + len(seen) + 1))
    assert [event["type"] for event in seen if event["type"].startswith("run.")][-1] == end


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, temporal.server())


def test_a_killed_workers_step_goes_on_at_another(place):
    with place.worker() as one, place.worker() as two, place.gateway() as gateway:
        run = submit(gateway, "deep", "a")
        pid = place.reached("a-held")
        victim = one if one.process.pid == pid else two
        assert victim.process.pid == pid
        victim.send(signal.SIGKILL)
        place.let_go("a-held")
        assert place.reached("a-held", times=2) != pid
        assert outcome(gateway, run)["result"] == ["a-first", "a-held", "a-last"]
        assert_whole(events(gateway, run))
    assert Counter(step for step, _ in place.executed()) == {"a-first": 1, "a-held": 2, "a-last": 1}


def test_a_worker_that_dies_between_an_object_and_its_entry_leaves_nothing_wrong(place):
    place.app, place.more = APP.with_name("large.py"), ("--objects", str(place.home / "objects"))
    with place.worker() as one, place.worker() as two, place.gateway() as gateway:
        run = submit(gateway, "makes", "t")
        assert outcome(gateway, run)["result"] == ["a", "b", "t"]
        assert_whole(events(gateway, run))
        assert [each.process.poll() for each in (one, two)].count(-signal.SIGKILL) == 1
    objects = [path for path in (place.home / "objects").rglob("*") if path.is_file()]
    assert len(objects) == 2, "put again, the same bytes are the same object"
    assert Counter(step for step, _ in place.executed()) == {"a": 1, "b": 2}


def test_a_step_with_an_effect_is_not_repeated_when_its_worker_died(place):
    with place.worker() as one, place.worker() as two, place.gateway() as gateway:
        run = submit(gateway, "charges", "once")
        pid = place.reached("once")
        (one if one.process.pid == pid else two).send(signal.SIGKILL)
        document = outcome(gateway, run)
    assert (document["status"], document["error"]["code"]) == ("failed", "effect-unknown")
    assert [step for step, _ in place.executed()] == ["once"]


def test_a_finished_short_step_is_not_repeated_when_its_worker_died(place):
    with place.worker(), place.worker(), place.gateway() as gateway:
        run = submit(gateway, "briefly", "s")
        assert outcome(gateway, run)["result"] == ["s-0", "s-1", "s-2"]
        seen = events(gateway, run)
        assert_whole(seen)
        # Temporal does not tell why another worker goes on.
        assert {event["reason"] for event in seen if event["type"] == "run.resumed"} == {None}
    assert Counter(step for step, _ in place.executed()) == {"s-0": 1, "s-1": 2, "s-2": 1}


def test_all_workers_killed_lose_nothing(place):
    with place.worker() as one, place.gateway() as gateway:
        runs = [submit(gateway, "deep", f"r{number}") for number in range(5)]
        for number in range(5):
            place.reached(f"r{number}-held")
            place.let_go(f"r{number}-held")
        one.send(signal.SIGKILL)
        runs += [submit(gateway, "deep", f"r{number}") for number in range(5, 8)]
        for number in range(5, 8):
            place.let_go(f"r{number}-held")
        with place.worker():
            for run in runs:
                assert outcome(gateway, run)["status"] == "completed"
                assert_whole(events(gateway, run))
    counted = Counter(step for step, _ in place.executed())
    # The others may have been in flight when the worker was killed.
    assert {count for step, count in counted.items() if step.endswith("first")} == {1}


def test_what_a_killed_gateway_had_in_flight_goes_on_and_its_stream_is_resumed(place):
    with place.worker(), place.gateway() as first, place.gateway() as second:
        run = submit(first, "now", "b", Accept="application/json")  # 202 at its budget: demoted, one step in flight
        assert place.reached("b-held") == first.process.pid
        with httpx.stream(
            "GET", f"{first.url}/v1/runs/{run}/events", headers={"Accept": "text/event-stream"}, timeout=GUARD_S
        ) as stream:
            lines = stream.iter_lines()
            got = []
            while not got or got[-1]["type"] != "run.demoted":
                line = next(lines)
                if line.startswith("data:"):
                    got.append(json.loads(line[5:]))
            first.send(signal.SIGKILL)
        place.let_go("b-held")
        assert place.reached("b-held", times=2) != first.process.pid
        rest = events(second, run, after=got[-1]["seq"])
        assert_whole(rest, after=got[-1]["seq"])
        assert "run.resumed" in [event["type"] for event in rest]
        assert outcome(second, run)["result"] == ["b-first", "b-held", "b-last"]
    assert Counter(step for step, _ in place.executed()) == {"b-first": 1, "b-held": 2, "b-last": 1}


def test_a_drained_gateway_and_worker_lose_nothing(place):
    with place.worker() as one, place.worker(), place.gateway() as gateway:
        run = submit(gateway, "deep", "c")
        place.reached("c-held")
        other = submit(gateway, "now", "d", Accept="application/json")
        place.reached("d-held")
        for process in (one, gateway):
            process.send(signal.SIGTERM)
        time.sleep(0.3)
        for name in ("c-held", "d-held"):
            place.let_go(name)
        assert one.end()[0] == gateway.end()[0] == 0
        with place.gateway() as after:
            for name in (run, other):
                assert outcome(after, name)["status"] == "completed"
                assert_whole(events(after, name))
    assert set(Counter(step for step, _ in place.executed()).values()) == {1}, "a drain repeated a step"


def test_a_worker_leaves_though_temporal_is_away(tmp_path):
    server = temporal.Server(tmp_path)
    place = Place(tmp_path, server)
    with place.worker() as worker, place.gateway() as gateway:
        submit(gateway, "deep", "h")
        place.reached("h-held")
        server.kill()
        for process in (worker, gateway):
            process.send(signal.SIGTERM)
        assert worker.end()[0] == gateway.end()[0] == 0


def test_the_temporal_server_may_go_away_and_come_back(tmp_path):
    server = temporal.Server(tmp_path)
    try:
        place = Place(tmp_path, server)
        with place.worker(), place.gateway() as gateway:
            run = submit(gateway, "deep", "e")
            place.reached("e-held")
            server.kill()
            began = time.monotonic()
            other = submit(gateway, "deep", "f")
            late = submit(gateway, "now", "g", Accept="application/json")
            assert time.monotonic() - began < 5, "accepting and demoting waited for Temporal"
            for name in ("e-held", "f-held", "g-held"):
                place.let_go(name)
            server.start()
            for name in (run, other, late):
                assert outcome(gateway, name)["status"] == "completed"
                assert_whole(events(gateway, name))
    finally:
        server.kill()
    counted = Counter(step for step, _ in place.executed())
    assert {count for step, count in counted.items() if not step.startswith("e-held")} == {1}
