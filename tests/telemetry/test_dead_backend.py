"""A backend that is gone costs nothing: no request, drain or exit waits for it."""

from __future__ import annotations

import signal
import time

import httpx
import pytest

from tests.cli.harness import is_alive
from tests.telemetry.conftest import serving
from tests.telemetry.receiver import refusing, silent

EXIT_S_MAX = 10.0
"""Generous: a drain of nothing, 2 s for what is not exported, and a slow machine; the SDK's own bounds are 30 s."""


@pytest.mark.parametrize("backend", [refusing, silent])
def test_neither_requests_nor_the_end_wait_for_it(backend, tmp_path):
    with backend() as url, serving(tmp_path, url, OFFRAMP_PROCESSES="1") as serve:
        took = []
        for _ in range(20):
            began = time.monotonic()
            answer = httpx.post(f"{serve.url}/v1/pipelines/quick/runs", json={"input": {"word": "w"}}, timeout=30)
            took.append(time.monotonic() - began)
            assert answer.json()["status"] == "completed"
        assert sorted(took)[len(took) // 2] < 1.0  # a request that waited for an export would take 10 s

        (tmp_path / "open").touch()
        deep = {"input": {"word": "w", "gate": "open"}}
        answer = httpx.post(f"{serve.url}/v1/pipelines/answer/runs", json=deep, timeout=30)
        assert answer.json()["status"] == "completed"  # through the process lane, too
        worker = serve.worker
        began = time.monotonic()
        serve.send(signal.SIGTERM)
        code, _, said = serve.end()
        assert code == 0, said
        assert time.monotonic() - began < EXIT_S_MAX
        assert "is killed" not in said
        assert not is_alive(worker)


def test_a_drain_hands_over_what_runs(tmp_path):
    with silent() as url, serving(tmp_path, url) as serve:
        run = httpx.post(
            f"{serve.url}/v1/pipelines/stay/runs",
            json={"input": {"gate": "open"}, "budget": 0},
            timeout=30,
        ).json()
        while not (tmp_path / "open-held").exists():
            time.sleep(0.01)
        serve.send(signal.SIGTERM)
        serve.wait_for("stopping")
        (tmp_path / "open").touch()
        code, _, said = serve.end()
        assert code == 0, said
        assert "executed again" not in said
    with serving(tmp_path, None) as serve:
        httpx.get(f"{serve.url}/v1/runs/{run['id']}/events", timeout=30).raise_for_status()
        assert httpx.get(f"{serve.url}/v1/runs/{run['id']}").json()["status"] == "completed"
