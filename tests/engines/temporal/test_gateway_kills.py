"""Gateways killed around the demotion of runs with parallel steps: each run ends once, no step begins after its end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time

import httpx
import pytest

from tests import temporal
from tests.engines.temporal.test_kills import Place, assert_whole, events, outcome
from tests.engines.temporal.test_kills import _until as until

RUNS_PER_GATEWAY = 6


def submit(gateway, tag):
    """Ask for a run; the gateway may die meanwhile."""
    body = {"input": {"tag": tag}}
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{gateway.url}/v1/pipelines/forks/runs", json=body, headers={"Accept": "application/json"})


def runs_of(gateway):
    return httpx.get(f"{gateway.url}/v1/runs", params={"limit": 100}).json()["runs"]


def play(place, rounds, chance):
    with place.worker(), place.worker():
        for number in range(rounds):
            with place.gateway() as gateway:
                tags = [f"{number}.{each}" for each in range(RUNS_PER_GATEWAY)]
                asking = [threading.Thread(target=submit, args=(gateway, tag)) for tag in tags]
                for thread in asking:
                    thread.start()
                wanted = (number + 1) * RUNS_PER_GATEWAY
                until(lambda wanted=wanted, gateway=gateway: len(runs_of(gateway)) == wanted)
                time.sleep(chance.uniform(0.0, 1.0))  # the budget ends at 0.3, the last step in flight at 0.7
                gateway.send(signal.SIGKILL)
                for thread in asking:
                    thread.join()
        with place.gateway() as gateway:
            assert_all_ended(gateway, rounds)


def assert_all_ended(gateway, rounds):
    runs = runs_of(gateway)
    assert len(runs) == rounds * RUNS_PER_GATEWAY
    resumed = 0
    for run in runs:
        document = outcome(gateway, run["id"])
        assert document["status"] == "completed", document
        tag = document["result"][0].partition("-")[0]
        assert document["result"] == [f"{tag}-{name}" for name in ("slow", "other", "a", "b", "last")]
        seen = events(gateway, run["id"])
        assert_whole(seen)
        ended = set()
        for event in seen:
            if event["type"] in {"step.started", "step.completed"}:
                assert event["key"] not in ended, f"{event['type']} of a step that had ended: {event}"
            if event["type"] == "step.completed":
                ended.add(event["key"])
        assert len(ended) == 5
        resumed += any(event["type"] == "run.resumed" for event in seen)
    assert resumed, "no run came to a worker"


def test_gateways_killed_around_the_demotion(tmp_path):
    play(Place(tmp_path, temporal.server()), 2, random.Random(7))


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_many_gateways_killed_around_the_demotion(tmp_path):
    play(Place(tmp_path, temporal.server()), 15, random.Random(int(os.environ.get("SEED", "7"))))
