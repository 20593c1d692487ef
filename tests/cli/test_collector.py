"""The processes of the service look for garbage less often, and never through what was loaded at their start."""

from __future__ import annotations

import gc
import json

import httpx

from offramp.cli.collector import NEW_OBJECTS
from tests.cli.harness import WAIT_S, running

APP = """
import gc
from offramp import App

app = App("kept")

@app.pipeline
async def collector() -> list[int]:
    return [gc.get_threshold()[0], gc.get_freeze_count()]
"""


def test_gateway_and_worker_relax_the_collector_and_importing_does_not(tmp_path):
    (tmp_path / "kept.py").write_text(APP)
    assert gc.get_threshold()[0] < NEW_OBJECTS
    with running("serve", "kept.py:app", "--port", "0", "--data", "data", cwd=tmp_path) as command:
        url = command.wait_for(r"at (http://\S+),")[1]
        command.wait_for("worker 1  ready")
        with httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as web:
            fast = web.post("/v1/pipelines/collector/runs", json={"input": {}}).json()
            deep = web.post(
                "/v1/pipelines/collector/runs", json={"input": {}}, headers={"Prefer": "respond-async"}
            ).json()
            ended = web.get(deep["links"]["events"]).text.rpartition("data: ")[2]
    assert (fast["path"], deep["path"]) == ("fast", "deep")
    for threshold, frozen in (fast["result"], json.loads(ended)["result"]):
        assert threshold == NEW_OBJECTS
        assert frozen > NEW_OBJECTS
