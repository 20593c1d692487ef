"""Limits hold over three workers on Temporal, and give their permits in the order of the classes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests import temporal
from tests.chaos.providing import providing
from tests.engines.temporal.test_kills import Place, outcome
from tests.engines.temporal.test_kills import _until as until

APP = Path(__file__).with_name("limited.py")


@pytest.fixture
def provider():
    with providing("--rate", "5/s", "--rate", "200/min", "--concurrency", "2") as made:
        yield made


@pytest.fixture
def place(tmp_path, provider):
    made = Place(tmp_path, temporal.server())
    made.app = APP
    made._env |= {"PROVIDER": provider.url, "OFFRAMP_LEASE": "60"}
    return made


def submit(gateway, pipeline, tag, sla):
    body = {"input": {"tag": tag}, "class": sla}
    answer = httpx.post(f"{gateway.url}/v1/pipelines/{pipeline}/runs", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def level(gateway):
    (resource,) = httpx.get(f"{gateway.url}/v1/resources").json()["resources"]
    waiting = {sla: each["count"] for sla, each in resource["waiting"].items() if each["count"]}
    return resource["in_use"], waiting


def test_calls_at_once_and_in_windows_over_three_workers(place, provider):
    with place.worker(), place.worker(), place.worker(), place.gateway() as gateway:
        runs = [submit(gateway, "calls", f"run{number}", "low") for number in range(9)]
        for run in runs:
            assert outcome(gateway, run)["status"] == "completed"
        until(lambda: level(gateway) == (0, {}))
    stats = provider.stats()
    assert (stats["violations"], stats["broken"], stats["open"]) == (0, {}, 0)
    assert stats["served"] == 27
    assert (stats["open_peak"], stats["peaks"]["5/s"]) == (2, 5)
    assert len({pid for _, pid in place.executed()}) == 3, "all workers called"


def test_a_higher_class_goes_before_a_lower_one_that_waits_for_longer(place):
    with place.worker(), place.worker(), place.worker(), place.gateway() as gateway:
        runs = [submit(gateway, "holds", f"low{number}", "low") for number in range(6)]
        until(lambda: level(gateway) == (2, {"low": 4}))
        runs += [submit(gateway, "holds", f"high{number}", "high") for number in range(4)]
        until(lambda: level(gateway) == (2, {"low": 4, "high": 4}))
        place.let_go("hold")
        for run in runs:
            assert outcome(gateway, run)["status"] == "completed"
        until(lambda: level(gateway) == (0, {}))
    order = [name.rstrip("0123456789") for name, _ in place.executed()]
    assert order == ["low"] * 2 + ["high"] * 4 + ["low"] * 4
