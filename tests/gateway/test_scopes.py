"""What each scope of a key admits: over a real service, for keys of one tenant and of another."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from websockets.asyncio.client import connect

from offramp.gateway.surface import SOCKET
from tests.gateway.conftest import serving
from tests.gateway.keyed import Held, gateway_of
from tests.gateway.wire import ROUTES
from tests.support import GUARD_S

SCOPES = {
    "plain": "",
    "run": "+run",
    "read": "+read",
    "inspect": "+inspect",
    "operate": "+operate",
    "both": "+inspect+operate",
}
SECRET = "{}-0123456789abcdef"
KEYS = ",".join(f"acme/{name}{scopes}:{SECRET.format(name)}" for name, scopes in SCOPES.items())
KEYS += f",beta/other+operate:{SECRET.format('other')}"
STARTS = {"plain", "run"}
OPERATES = STARTS | {"operate", "both"}
RUNS = "/v1/pipelines/hold/runs"
BODY = {"input": {"word": "w"}}
LATER = {"Prefer": "respond-async"}


def bearer(name):
    return {"Authorization": f"Bearer {SECRET.format(name)}"}


@pytest.fixture
def held():
    held = Held()
    yield held
    held.let_go.set()


@pytest.fixture
async def url(held, tmp_path):
    async with serving(gateway_of(held.app, tmp_path, KEYS)) as url:
        yield url


@pytest.fixture
async def web(url):
    async with httpx.AsyncClient(base_url=url, timeout=GUARD_S, trust_env=False) as client:
        yield client


async def started(web):
    answer = await web.post(RUNS, json=BODY, headers=bearer("plain") | LATER)
    assert answer.status_code == 202
    return answer.json()["id"]


def require_refused(answer):
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:offramp:error:forbidden"
    assert "--scope" in answer.json()["detail"]


async def test_a_refusal_says_how_to_make_a_key_that_may(web):
    run = await started(web)
    detail = (await web.get(f"/v1/runs/{run}/input", headers=bearer("plain"))).json()["detail"]
    assert "'offramp keys add NAME --scope run,inspect'" in detail
    assert "name+run+inspect:secret in OFFRAMP_API_KEYS" in detail


@pytest.mark.parametrize("name", SCOPES)
async def test_what_a_key_may_do_to_runs_that_another_key_of_its_tenant_started(web, name):
    run = await started(web)
    for path in (f"/v1/runs/{run}", "/v1/runs", f"/v1/runs/{run}/events?follow=false", f"/v1/runs/{run}/result"):
        assert (await web.get(path, headers=bearer(name))).status_code in {200, 202}, path
    for action in ("signals/go", "cancel"):
        answer = await web.post(f"/v1/runs/{run}/{action}", headers=bearer(name))
        if name in OPERATES:
            assert answer.status_code == 202, action
        else:
            require_refused(answer)
    answer = await web.post(RUNS, json=BODY, headers=bearer(name) | LATER)
    if name in STARTS:
        assert answer.status_code == 202
    else:
        require_refused(answer)


async def test_no_scope_reaches_runs_of_another_tenant(web):
    run = await started(web)
    for action in ("signals/go", "cancel"):
        answer = await web.post(f"/v1/runs/{run}/{action}", headers=bearer("other"))
        assert answer.status_code == 404


@pytest.mark.parametrize(("name", "code"), [("read", 4403), ("inspect", 4403), ("operate", 1000)])
async def test_a_run_is_cancelled_over_its_socket_with_a_scope_for_it(web, url, name, code):
    run = await started(web)
    address = url.replace("http://", "ws://") + f"/v1/runs/{run}/ws"
    async with connect(address, additional_headers=bearer(name)) as socket:
        await socket.send(json.dumps({"type": "cancel"}))
        async with asyncio.timeout(GUARD_S):
            await socket.wait_closed()
    assert socket.close_code == code


async def test_openapi_names_the_scopes_that_an_operation_needs(web):
    spec = (await web.get("/openapi.json")).json()
    needed = {
        (method, path): [scope for way in operation["security"] for scope in way.get("key", [])]
        for path, item in spec["paths"].items()
        for method, operation in item.items()
        if isinstance(operation, dict) and operation.get("security")
    }
    assert needed["post", "/v1/pipelines/hold/runs"] == ["run"]
    assert needed["post", "/v1/pipelines/{name}/runs"] == ["run"]
    assert needed["post", "/v1/runs/{run_id}/cancel"] == ["run", "operate"]
    assert {path for (method, path), scopes in needed.items() if method == "get" and scopes == ["inspect"]} == {
        "/v1/runs/{run_id}/input",
        "/v1/runs/{run_id}/steps/{key}",
    }
    assert "403" in spec["paths"]["/v1/runs"]["get"]["responses"]
    assert all("403" in spec["paths"][path][method]["responses"] for (method, path), scopes in needed.items() if scopes)


def test_a_route_that_changes_something_needs_a_scope_unless_it_says_otherwise():
    for route in ROUTES:
        if route.guard == "key":
            reads = route.method in {"GET", SOCKET} or route.template.endswith("/ticket")
            assert reads or "read" not in route.rule.scopes, route.template


async def test_without_keys_everything_is_allowed(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, keys="")
    async with serving(gateway) as url, httpx.AsyncClient(base_url=url, trust_env=False) as web:
        run = (await web.post(RUNS, json=BODY, headers=LATER)).json()["id"]
        assert (await web.post(f"/v1/runs/{run}/cancel")).status_code == 202
