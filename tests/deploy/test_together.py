"""What the compose file starts, started without containers: Valkey and Temporal are real, their addresses others."""

from __future__ import annotations

import re
import signal
import time
from contextlib import ExitStack

import httpx
import pytest

from tests import temporal, valkey
from tests.cli.harness import WAIT_S, running
from tests.deploy.files import ROOT
from tests.deploy.test_compose import GATEWAYS, SERVICES, environment
from tests.deploy.test_pods import address

WHY_NOT = temporal.missing() or valkey.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
KEY = {"Authorization": "Bearer a-long-enough-secret"}


@pytest.fixture
def urls(tmp_path):
    """The two gateways' addresses and processes, once a worker is warm."""
    store, engine = valkey.server().url(), temporal.server().url(tmp_path.name)

    def start(name):
        here = {"OFFRAMP_STORE": store, "OFFRAMP_ENGINE": engine, "OFFRAMP_DATA": str(tmp_path), "HOME": str(tmp_path)}
        here |= {"OFFRAMP_OBJECTS": str(tmp_path / "objects")}
        here |= {"OFFRAMP_PORT": "0"} if name in GATEWAYS else {"OFFRAMP_WORKER_METRICS": "0.0.0.0:0"}
        kept = {name: value for name, value in environment(name).items() if not name.startswith("OTEL_")}
        return running(*SERVICES[name]["command"], cwd=ROOT / "examples", env=kept | here)

    with ExitStack() as stack:
        commands = {name: stack.enter_context(start(name)) for name in [*GATEWAYS, "worker"]}
        found = {name: (address(commands[name], "to read and try at"), commands[name]) for name in GATEWAYS}
        ends_at = time.monotonic() + WAIT_S
        while httpx.get(f"{found[GATEWAYS[0]][0]}/readyz", trust_env=False).status_code != 200:
            assert time.monotonic() < ends_at, "no worker became warm"
            time.sleep(0.05)
        yield list(found.values())


def followed(url, run_id):
    """The run's own events, read to their end."""
    answer = httpx.get(f"{url}/v1/runs/{run_id}/events", headers=KEY, trust_env=False, timeout=WAIT_S)
    return re.findall(r"^event: (run\.\w+)$", answer.text, re.MULTILINE)


def test_a_run_is_followed_through_the_other_gateway_also_when_its_own_is_gone(urls):
    (first, process), (second, _) = urls

    def begin(prefer, path):
        body = {"input": {"path": path}}
        headers = KEY | {"Prefer": prefer}
        answer = httpx.post(f"{first}/v1/pipelines/audit/runs", json=body, headers=headers, trust_env=False, timeout=10)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    # The whole standard library: what is found is more than Temporal carries.
    assert followed(second, begin("respond-async", None)) == ["run.accepted", "run.completed"]
    run_id = begin("wait=0", "reference_desk")
    process.send(signal.SIGTERM)
    assert process.end()[0] == 0
    assert followed(second, run_id)[-1] == "run.completed"
