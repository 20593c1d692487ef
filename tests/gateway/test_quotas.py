"""Keys with limits: 429 `rate-limited`, the header fields of the draft, an honest `Retry-After`; over restarts too."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from offramp.errors import StoreError
from offramp.paths import quotas
from offramp.stores.sqlite import store
from tests.gateway.conftest import serving
from tests.gateway.keyed import SECRETS, SSE, Held, bearer, callers, gateway_of
from tests.gateway.wire import types_of
from tests.structured import parsed
from tests.support import eventually

ASYNC = {"Prefer": "respond-async"}
BODY = {"input": {"word": "w"}}


def keys(ann=""):
    return f"ops:{SECRETS['ops']},acme/ann{ann}:{SECRETS['ann']},acme/bob:{SECRETS['bob']}"


def runs(pipeline):
    return f"/v1/pipelines/{pipeline}/runs"


async def asked(caller, pipeline="later", **headers):
    return await caller.post(runs(pipeline), json=BODY, headers=ASYNC | headers)


def shown(answer):
    return parsed(answer.headers["ratelimit-policy"]), parsed(answer.headers["ratelimit"])


def is_limited(answer, policy):
    body = answer.json()
    return (
        answer.status_code,
        answer.headers["content-type"],
        body["type"],
        body["violated-policies"],
    ) == (429, "application/problem+json", "urn:offramp:error:rate-limited", [policy])


@pytest.fixture(autouse=True)
def _no_answer_is_hasty(monkeypatch):
    monkeypatch.setattr(quotas, "SHOWN_WITHIN_S", 60.0)


@pytest.fixture
def held():
    held = Held()
    yield held
    held.let_go.set()


async def test_a_request_that_waits_for_a_place_counts_from_its_acceptance_and_no_more_once_it_leaves(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+rate=1/h"), role="gateway", fast_runs=1, queue_runs=1)
    async with callers(gateway, "ann", "ops") as (ann, ops):
        holds = asyncio.create_task(ops.post(runs("hold"), json=BODY))

        async def begun():
            return (await ops.get("/v1/runs?status=running")).json()["runs"]

        await eventually(begun)
        assert (await asked(ops)).status_code == 202
        leaves = asyncio.create_task(ann.post(runs("echo"), json=BODY))

        async def waits():
            return 'offramp_admission_waiting{class="interactive"} 1.0' in (await ops.get("/metrics")).text

        await eventually(waits)
        assert is_limited(await ann.post(runs("echo"), json=BODY), "default")
        leaves.cancel()

        async def is_free():
            return shown(await ann.get("/v1/pipelines"))[1]["default"]["r"] == 1

        await eventually(is_free)
        waits_too = asyncio.create_task(ann.post(runs("echo"), json=BODY))
        await eventually(waits)
        held.let_go.set()
        assert [(await each).status_code for each in (holds, waits_too)] == [200, 200]
        assert is_limited(await ann.post(runs("echo"), json=BODY), "default")


async def test_a_rate_is_counted_down_and_then_refused_with_the_time_of_the_next_place(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+rate=3/h"))
    async with callers(gateway, "ann", "bob") as (ann, bob):
        before = await ann.get("/v1/pipelines")
        assert shown(before) == ({"default": {"q": 3, "w": 3600}}, {"default": {"r": 3, "t": 3600}})
        for left in (2, 1):
            answer = await asked(ann)
            assert answer.status_code == 202
            assert shown(answer)[1]["default"]["r"] == left
        streamed = await ann.post(runs("echo"), json=BODY, headers=SSE)
        assert types_of(streamed.content)[-1] == "run.completed"
        assert shown(streamed)[1]["default"]["r"] == 0
        for headers in (ASYNC, SSE, {}):
            refused = await ann.post(runs("echo"), json=BODY, headers=headers)
            assert is_limited(refused, "default")
            wait_s = int(refused.headers["retry-after"])
            assert 3500 < wait_s <= 3600
            assert shown(refused)[1] == {"default": {"r": 0, "t": wait_s}}
        assert "3/h" in refused.json()["detail"]
        for answer in (await asked(bob), await bob.get("/v1/pipelines")):
            assert "ratelimit" not in answer.headers, "a key of the same tenant has its own limits, or none"


async def test_what_starts_no_run_costs_nothing(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+rate=2/h+runs=2"))
    async with callers(gateway, "ann") as (ann,):
        first = await asked(ann, **{"Idempotency-Key": "k"})
        assert (await ann.post(runs("later"), json={"input": {}}, headers=ASYNC)).status_code == 422
        assert (await ann.post(runs("nothing"), json=BODY, headers=ASYNC)).status_code == 404
        again = await asked(ann, **{"Idempotency-Key": "k"})
        assert again.json()["id"] == first.json()["id"]
        assert shown(again)[1] == {"default": {"r": 1, "t": pytest.approx(3600, abs=60)}, "runs": {"r": 1}}
        await asked(ann)
        assert is_limited(await asked(ann), "default")
        assert (await asked(ann, **{"Idempotency-Key": "k"})).json()["id"] == first.json()["id"]


async def test_a_retry_starts_a_run_of_the_key_that_asks_for_it(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+runs=1"))
    async with callers(gateway, "ann", "bob") as (ann, bob):
        run = (await asked(bob)).json()["id"]
        await ann.post(f"/v1/runs/{run}/cancel")
        assert types_of((await ann.get(f"/v1/runs/{run}/events")).content)[-1] == "run.cancelled"
        assert (await ann.post(f"/v1/runs/{run}/retry")).status_code == 202
        assert is_limited(await ann.post(f"/v1/runs/{run}/retry"), "runs")
        assert (await bob.post(f"/v1/runs/{run}/retry")).status_code == 202


async def test_open_runs_are_counted_on_both_paths_and_a_place_is_free_when_one_ends(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+runs=2"))
    async with callers(gateway, "ann") as (ann,):
        async with ann.stream("POST", runs("hold"), json=BODY, headers=SSE) as fast:
            assert parsed(fast.headers["ratelimit"]) == {"runs": {"r": 1}}
            deep = (await asked(ann)).json()["id"]
            refused = await asked(ann)
            assert is_limited(refused, "runs")
            assert int(refused.headers["retry-after"]) >= 1
            assert shown(refused) == ({"runs": {"q": 2, "qu": "concurrent-requests"}}, {"runs": {"r": 0}})
            held.let_go.set()
            await fast.aread()
        assert types_of((await ann.get(f"/v1/runs/{deep}/events")).content)[-1] == "run.completed"
        assert [(await asked(ann)).status_code for _ in range(2)] == [202, 202]


async def test_requests_at_once_do_not_pass_a_limit_together(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+rate=4/h+runs=3"))
    async with callers(gateway, "ann") as (ann,):
        answers = await asyncio.gather(*(asked(ann) for _ in range(30)))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 27


async def test_a_key_that_has_used_its_limit_displaces_no_run(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+rate=1/h"), fast_runs=2, tenant_share=1.0)
    async with callers(gateway, "ann", "bob") as (ann, bob):
        assert (await ann.post(runs("echo"), json=BODY)).status_code == 200
        running = [asyncio.create_task(bob.post(runs("hold"), json=BODY)) for _ in range(2)]
        await eventually(lambda: gateway.service.live.count("fast") == 2)
        for _ in range(5):
            assert is_limited(await ann.post(runs("echo"), json=BODY), "default")
        held.let_go.set()
        assert [(await each).json()["demotion"] for each in running] == [None, None]


async def test_gateways_share_the_limits_and_a_restart_keeps_them(held, tmp_path):
    gateways = [gateway_of(held.app, tmp_path, keys("+rate=5/h+runs=3")) for _ in range(3)]
    async with callers(gateways[0], "ann") as (here,), callers(gateways[1], "ann") as (there,):
        ids = [(await asked(each)).json()["id"] for each in (here, there, here)]
        for each in (here, there):
            assert is_limited(await asked(each), "runs")
        await there.post(f"/v1/runs/{ids[0]}/cancel")
        assert types_of((await there.get(f"/v1/runs/{ids[0]}/events")).content)[-1] == "run.cancelled"
        assert (await asked(there)).status_code == 202
    async with callers(gateways[2], "ann") as (after,):
        refused = await asked(after)
        assert is_limited(refused, "runs"), "the runs that wait for a worker are still open"
        assert shown(refused)[1]["default"]["r"] == 1


async def test_a_client_that_leaves_keeps_no_place(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys("+runs=2"))
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, headers=bearer("ann"), trust_env=False) as ann:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                await ann.post(runs("hold"), json=BODY, timeout=0.5)
        assert is_limited(await asked(ann), "runs"), "a run goes on without its client"
        held.let_go.set()
        for run in (await ann.get("/v1/runs")).json()["runs"]:
            await ann.get(f"/v1/runs/{run['id']}/events", timeout=20)
        assert (await asked(ann)).status_code == 202


@pytest.mark.parametrize("fault", ["hangs", "fails", "crashes"])
async def test_an_answer_neither_waits_nor_fails_when_the_store_cannot_say_what_is_used(
    held, tmp_path, monkeypatch, fault
):
    held.let_go.set()
    gateway = gateway_of(held.app, tmp_path, keys("+rate=3/h"))

    async def no_answer(*_):
        if fault == "hangs":
            await asyncio.Event().wait()
        raise StoreError("away") if fault == "fails" else RuntimeError("a fault")

    async with callers(gateway, "ann") as (ann,):
        run = (await ann.post(runs("echo"), json=BODY)).json()["id"]
        monkeypatch.setattr(store.SQLiteStore, "runs_of_key", no_answer)
        monkeypatch.setattr(quotas, "SHOWN_S", 0.0)
        monkeypatch.setattr(quotas, "SHOWN_WITHIN_S", 0.01)
        monkeypatch.setattr(quotas, "LOOK_S_MAX", 600.0)
        for path in (f"/v1/runs/{run}", f"/v1/runs/{run}/events", "/v1/runs/none"):
            answer = await ann.get(path)
            assert answer.status_code == (404 if path.endswith("none") else 200)
            left = parsed(answer.headers["ratelimit"])["default"]["r"] if "ratelimit" in answer.headers else None
            assert left == (2 if fault == "hangs" else None)
        assert gateway.access.streams.count("acme") == 0
