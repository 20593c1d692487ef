"""The metrics of a real gateway and its worker reach an OTLP receiver, the last ones at the end."""

from __future__ import annotations

import signal

import httpx

from offramp.telemetry.instruments import INSTRUMENTS
from tests.telemetry.conftest import serving

OF_BOTH = {"offramp.runs_accepted", "offramp.http_requests", "offramp.run_duration", "offramp.commit_duration"}
OF_A_WORKER = {"offramp.queue_wait", "offramp.steps", "offramp.runs_ended"}


def test_what_gateway_and_worker_count_goes_out(tmp_path, receiver):
    with serving(tmp_path, receiver.url, OTEL_TRACES_EXPORTER="none") as serve:
        deep = {"input": {"word": "w"}, "class": "batch"}
        run = httpx.post(f"{serve.url}/v1/pipelines/quick/runs", json=deep, timeout=30).json()
        assert run["path"] == "deep"
        httpx.get(f"{serve.url}/v1/runs/{run['id']}/events", timeout=30).raise_for_status()
        assert receiver.metrics == set()  # each minute, unless OTEL_METRIC_EXPORT_INTERVAL says otherwise
        serve.send(signal.SIGTERM)
        code, _, said = serve.end()
    assert code == 0, said
    assert receiver.metrics >= OF_BOTH | OF_A_WORKER
    ours = {name for name in receiver.metrics if name.startswith("offramp.")}
    assert ours <= {instrument.otel_name for instrument in INSTRUMENTS}
    assert {each["offramp.process.kind"] for each in receiver.resources} >= {"gateway", "worker"}
