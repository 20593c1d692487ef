"""A run has a context of its own: no request lends it variables, and what its body sets reaches its steps alone."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

import offramp
from offramp import App, testing
from tests.execution import cpu
from tests.support import Signal, eventually, member, result_of

REQUESTS = 100
who = contextvars.ContextVar("who", default="nobody")
mine = contextvars.ContextVar("mine", default="unset")


def looking(**pipeline):
    app = App("looking")

    @app.step
    async def on_the_loop() -> str:
        return who.get()

    @app.step
    def in_a_thread() -> str:
        return who.get()

    @app.pipeline(**pipeline)
    async def look() -> list[str]:
        async with asyncio.TaskGroup() as group:
            branch = group.create_task(on_the_loop())
        return [who.get(), await on_the_loop(), await in_a_thread(), branch.result()]

    return app


class SetsWho:
    """The middleware of an application around the gateway: a context variable for each request."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            who.set(dict(scope["headers"])[b"x-user"].decode())
        await self.app(scope, receive, send)


@pytest.mark.parametrize("budget", [60.0, 0.0])
async def test_no_run_of_a_mounted_gateway_sees_the_variables_of_a_request(tmp_path, budget):
    app = looking(budget=budget)
    gateway = app.asgi(data=str(tmp_path))
    around = Starlette(routes=[Mount("/agents", gateway)], middleware=[Middleware(SetsWho)], lifespan=gateway.lifespan)

    async def ask(client, number):
        answer = await client.post(
            "/agents/v1/pipelines/look/runs",
            json={"input": {}},
            headers={"x-user": f"user {number}", "Prefer": "wait=20"},
        )
        run = answer.json()["links"]["self"]
        await eventually(lambda: ended(client, run))
        return (await client.get(run, headers={"x-user": "another user"})).json()["result"]

    async def ended(client, run):
        return (await client.get(run, headers={"x-user": "who looks"})).json()["status"] == "completed"

    async with around.router.lifespan_context(around):
        transport = httpx.ASGITransport(around)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
            seen = await asyncio.gather(*(ask(client, number) for number in range(REQUESTS)))
    assert seen == [["nobody"] * 4] * REQUESTS


@pytest.mark.parametrize("budget", [60.0, 0.0])
async def test_no_run_of_a_local_runtime_sees_the_variables_of_who_starts_it(budget):
    async with testing.runtime(looking(budget=budget)) as runtime:

        async def ask(number):
            who.set(f"user {number}")
            return await result_of(await runtime.start("look"))

        seen = await asyncio.gather(*(asyncio.create_task(ask(number)) for number in range(REQUESTS)))
    assert seen == [["nobody"] * 4] * REQUESTS


async def test_a_replay_sees_none_either():
    who.set("who replays")
    assert await testing.replays(looking(), "look") == ["nobody"] * 4


async def test_neither_a_worker_nor_a_signal_nor_who_demotes_lends_its_variables(tmp_path):
    app, begun, hold = App("moves"), Signal(), Signal()

    @app.step
    async def work() -> str:
        begun.set()
        await hold.wait()
        return who.get()

    @app.pipeline(budget=60)
    async def moves() -> list[str]:
        return [await work(), await offramp.signal("go"), who.get(), await work()]

    who.set("who begins the worker")
    async with member(app, tmp_path, "worker", owner="w") as worker:
        who.set("who begins the gateway")
        async with member(app, tmp_path, "gateway", owner="g") as gateway:
            from offramp.paths.local import LocalRuntime

            who.set("who begins the run")
            handle = await LocalRuntime(gateway).start("moves")
            await begun.wait()
            who.set("who stops the gateway")
            draining = asyncio.ensure_future(gateway.drain())
            hold.set()
            await draining
        who.set("who sends the signal")
        await LocalRuntime(worker).service.signal(handle.id, "go", b'"went"')
        async with asyncio.timeout(20):
            async for _ in worker.follow(handle.id):
                pass
        record = await worker.get(handle.id)
    assert record.result == b'["nobody","went","nobody","nobody"]'


async def test_what_a_body_sets_reaches_its_steps_and_what_a_step_sets_nobody_else():
    app, counted = App("sets"), []

    @app.step
    async def on_the_loop(name: str) -> str:
        before = mine.get()
        mine.set(f"{name} on the loop")
        await asyncio.sleep(0)
        counted.append(mine.get())
        return before

    @app.step(lane="loop")
    async def with_a_timeout(name: str) -> str:
        mine.set(f"{name} with a timeout")
        return mine.get()

    @app.step
    def in_a_thread(name: str) -> str:
        before = mine.get()
        mine.set(f"{name} in a thread")
        return before

    @app.pipeline
    async def sets(name: str) -> list[str]:
        seen = [mine.get()]
        mine.set(name)
        seen += [await on_the_loop(name), mine.get(), await in_a_thread(name), mine.get()]
        await with_a_timeout(name)
        return [*seen, mine.get()]

    names = ["ann", "bob"]
    async with testing.runtime(app, threads=1) as runtime:
        handles = [await runtime.start("sets", name=name) for name in names]
        results = [await result_of(handle) for handle in handles]
        again, *_ = await runtime.service.replay(handles[0].id)
    assert results == [["unset", *[name] * 5] for name in names]
    assert again.result == b'["unset","ann","ann","ann","ann","ann"]'
    assert sorted(counted) == ["ann on the loop", "bob on the loop"]


async def test_a_step_in_the_process_lane_starts_with_none_and_leaves_none():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        first = await result_of(await runtime.start("of_context", name="ann"))
        second = await result_of(await runtime.start("of_context", name="bob"))
    assert first == second == ["unset", "unset"]


async def test_a_client_per_loop_is_made_in_no_runs_context():
    app, made = App("clients"), []

    def factory():
        made.append((mine.get(), threading.current_thread().name))
        return object()

    client = offramp.per_loop(factory)

    @app.pipeline
    async def uses() -> None:
        mine.set("of the first run")
        client()

    async with testing.runtime(app) as runtime:
        await result_of(await runtime.start("uses"))
    assert [value for value, _ in made] == ["unset"]
