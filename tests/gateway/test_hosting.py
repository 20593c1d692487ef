"""The gateway in a parent application: who starts it, and runs that the parent's handlers start in it."""

from __future__ import annotations

import asyncio
import contextlib
import warnings

import httpx
import pytest
from fastapi import FastAPI

import offramp
from offramp import App
from offramp.errors import InputError, LoopMismatch, NotStarted, Overloaded, StillRunning, UnknownPipeline
from offramp.gateway.asgi import Gateway
from tests.gateway.fake import FakeService
from tests.support import eventually


def triage_app():
    app = App("desk")

    @app.step
    async def grade(text: str) -> int:
        return len(text)

    @app.pipeline
    async def triage(text: str) -> dict[str, int]:
        return {"grade": await grade(text)}

    @app.pipeline(budget=0.05)
    async def slow(text: str) -> int:
        await asyncio.sleep(0.3)
        return await grade(text)

    return app


def client_of(site):
    return httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://site")


async def test_a_handler_of_fastapi_runs_a_pipeline_under_the_parents_own_lifespan(tmp_path):
    gateway = triage_app().asgi(data=tmp_path)
    order = []

    @contextlib.asynccontextmanager
    async def lifespan(_site):
        order.append("own")
        async with gateway.lifespan():
            yield
        order.append("closed")

    site = FastAPI(lifespan=lifespan)
    site.mount("/agents", gateway)

    @site.post("/tickets")
    async def create(text: str) -> dict[str, int]:
        return await gateway.run("triage", text=text)

    async with site.router.lifespan_context(site), client_of(site) as client:
        assert (await client.post("/tickets", params={"text": "abc"})).json() == {"grade": 3}
        assert (await client.get("/agents/readyz")).status_code == 200
    assert order == ["own", "closed"]
    assert gateway.service is None


async def test_a_run_is_awaited_beyond_its_demotion(tmp_path):
    gateway = triage_app().asgi(data=tmp_path)
    async with gateway.lifespan():
        handle = await gateway.start("slow", text="abcd")
        assert await handle.result() == 4
        document = await handle.document()
        assert (document["path"], document["demotion"] is None) == ("deep", False)


async def test_a_caller_that_the_stop_of_the_gateway_leaves_waiting_gets_the_run(tmp_path):
    app = App("desk")

    @app.pipeline(budget=30)
    async def wait() -> None:
        await offramp.signal("go")

    gateway = app.asgi(data=tmp_path)
    async with gateway.lifespan():
        handle = await gateway.start("wait")
        waiting = asyncio.ensure_future(handle.result())
        await eventually(lambda: gateway.service.live.get(handle.id))
        await gateway.drain()
        with pytest.raises(StillRunning, match="continues in another process") as raised:
            await waiting
        assert raised.value.run_id == handle.id
        with pytest.raises(Overloaded):
            await gateway.run("wait")


async def test_what_a_run_refuses_is_raised(tmp_path):
    gateway = triage_app().asgi(data=tmp_path)
    with pytest.raises(NotStarted, match=r"lifespan=gateway\.lifespan"):
        await gateway.run("triage", text="a")
    async with gateway.lifespan():
        with pytest.raises(UnknownPipeline, match="triage"):
            await gateway.run("triag", text="a")
        with pytest.raises(InputError):
            await gateway.run("triage", txt="a")
        with pytest.raises(LoopMismatch):
            await asyncio.to_thread(asyncio.run, gateway.run("triage", text="a"))


async def test_a_start_without_a_lifespan_is_in_the_log_once(caplog):
    gateway = Gateway(FakeService)
    async with client_of(gateway) as client:
        for _ in range(2):
            assert (await client.get("/readyz")).status_code == 200
    assert caplog.text.count("no lifespan") == 1


async def test_a_service_that_does_not_start_is_closed():
    service = FakeService()
    gateway = Gateway(lambda: service)

    async def fail():
        raise ValueError("no store")

    service.start = fail
    with pytest.raises(ValueError, match="no store"):
        await gateway.open()
    assert service.stopped == 1


async def test_a_pipeline_outside_a_run_warns_once():
    pipeline = triage_app().pipelines["triage"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert await pipeline("ab") == {"grade": 2}
    assert [(each.category, each.filename) for each in caught] == [(RuntimeWarning, __file__)]
    assert "gateway.run('triage', ...)" in str(caught[0].message)
