"""Results that are kept elsewhere: passed on without being held, and the message when they are not there."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import httpx
import psutil
import pytest

from offramp import App
from offramp.core.reference import reference_in
from offramp.gateway.asgi import Gateway
from offramp.ports.blobs import PART_BYTES_MAX
from offramp.settings import Settings
from offramp.stores.blobs.blobs import PlacedBlobs
from offramp.testing import FakeClock
from offramp.wiring import build
from tests import s3
from tests.cli.harness import running
from tests.conformance.blobs import CutMemory
from tests.gateway.conftest import serving
from tests.support import eventually

MIB = 1 << 20
SIZE = 64 * MIB
LIMITS = {"tenant_streams": 2, "max_result_bytes": 32 * MIB}
GROWTH_BYTES_MAX = 48 * MIB
"""For five at once, four of which nobody reads: less than a single one of them."""


class Site:
    """A gateway over a service in memory, whose objects a test can reach."""

    def __init__(self, web, service, clock, place):
        self.web = web
        self.service = service
        self.clock = clock
        self.place = place

    async def run(self, size=MIB):
        path = "/v1/pipelines/builds/runs"
        shown = (await self.web.post(path, json={"input": {"size": size}})).json()
        assert shown["status"] == "completed", shown
        return shown


@pytest.fixture
async def site():
    app, clock, place = App("stored"), FakeClock(), CutMemory()

    @app.pipeline(budget=60, retention=100.0)
    async def builds(size: int) -> str:
        return "b" * size

    def made():
        settings = Settings.load({}, Path("absent.toml"), store="memory:", objects="memory:", **LIMITS)
        service = build(app, settings, role="local", clock=clock)
        service.process.values.blobs = PlacedBlobs(place)
        return service

    gateway = Gateway(made)
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as web:
        yield Site(web, gateway.service, clock, place)


async def test_the_result_is_what_was_returned(site):
    shown = await site.run(3 * MIB)
    assert shown["result"] is None
    answer = await site.web.get(shown["links"]["result"])
    assert answer.json() == "b" * 3 * MIB
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content) == 3 * MIB + 2
    head = await site.web.head(shown["links"]["result"])
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]


async def test_a_place_that_is_away_is_503_and_later_200(site):
    shown = await site.run()
    site.place.away = True
    answer = await site.web.get(shown["links"]["result"])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    problem = answer.json()
    assert problem["type"] == "urn:offramp:error:objects"
    assert "memory" not in problem["detail"], "where it is kept is the operator's to know"
    site.place.away = False
    assert (await site.web.get(shown["links"]["result"])).json() == "b" * MIB


async def test_a_lost_result_is_said_to_be_and_one_past_its_retention_is_gone(site):
    shown = await site.run()
    site.place.objects.clear()
    lost = await site.web.get(shown["links"]["result"])
    assert (lost.status_code, lost.json()["type"]) == (500, "urn:offramp:error:object-lost")
    site.clock.advance(101)  # the objects of a run go first
    gone = await site.web.get(shown["links"]["result"])
    assert (gone.status_code, gone.json()["type"]) == (410, "urn:offramp:error:expired")


async def test_a_result_that_was_changed_never_arrives_whole(site):
    shown = await site.run(2 * PART_BYTES_MAX)
    [key] = [key for key in site.place.objects if key.startswith(shown["id"])]
    site.place.objects[key] = site.place.objects[key][:-2] + b'!"'
    with pytest.raises(httpx.RemoteProtocolError):
        await site.web.get(shown["links"]["result"])


async def test_results_on_their_way_count_as_streams_of_their_tenant(site):
    link = (await site.run(24 * MIB))["links"]["result"]
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            answer = await stack.enter_async_context(site.web.stream("GET", link))
            assert answer.status_code == 200
        assert (await site.web.get(link)).status_code == 429

    async def is_answered():
        return (await site.web.get(link)).status_code == 200

    await eventually(is_answered)  # once the gateway has noticed that its readers left
    site.place.away = True
    for _ in range(3):
        assert (await site.web.get(link)).status_code == 503, "a refusal takes room"


async def test_a_list_leaves_it_out(site):
    shown = await site.run()
    record = await site.service.get(shown["id"])
    assert reference_in(record.result) is not None
    [listed] = (await site.web.get("/v1/runs")).json()["runs"]
    assert listed["result"] is None


@pytest.mark.skipif(s3.missing() is not None, reason=str(s3.missing()))
def test_a_gateway_passes_on_what_it_could_not_hold(tmp_path):
    app = Path(__file__).with_name("large.py")
    env = s3.ENVIRONMENT | {"OFFRAMP_MAX_RESULT_BYTES": str(2 * SIZE), "OFFRAMP_LOG_FORMAT": "text"}
    objects = ["--objects", s3.server().url(f"gateway/{tmp_path.name}")]
    with running("serve", str(app), "--port", "0", *objects, cwd=tmp_path, env=env) as process:
        url = process.wait_for(r"at (http://127.0.0.1:\d+),")[1]
        process.wait_for(r"ready in")
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as web:
            body = json.dumps({"input": {"size": SIZE}}).encode()
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
            started = web.post("/v1/pipelines/large/runs", content=body, headers=headers | {"Prefer": "respond-async"})
            link = started.json()["links"]["result"]
            follow = web.get(started.json()["links"]["events"], headers=headers)
            assert "run.completed" in follow.text, process.seen
            memory = psutil.Process(process.process.pid).memory_info
            before, most, got = memory().rss, 0, 0
            with contextlib.ExitStack() as stack:
                slow = [stack.enter_context(web.stream("GET", link)) for _ in range(4)]  # nobody reads these
                with web.stream("GET", link) as answer:
                    assert (answer.status_code, int(answer.headers["content-length"])) == (200, SIZE // 16 * 17 + 2)
                    for part in answer.iter_raw(MIB):
                        got += len(part)
                        most = max(most, memory().rss)
                assert got == SIZE // 16 * 17 + 2
                assert all(each.status_code == 200 for each in slow)
    assert most - before < GROWTH_BYTES_MAX, f"the gateway grew by {(most - before) / MIB:.1f} MiB"
