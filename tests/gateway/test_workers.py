from __future__ import annotations

import asyncio
import os
import socket
from types import SimpleNamespace

import pytest

from offramp import testing
from offramp.core.scaling import Sight, Span
from offramp.paths.crew import Keeping, Look
from offramp.ports.store import About, Owner
from tests.execution import cpu
from tests.gateway.keyed import Held, callers, gateway_of
from tests.gateway.test_levels import fits
from tests.support import NOW, eventually


@pytest.fixture
def processes(service):
    """A gateway, a worker that has said nothing yet, and one that stops."""
    said = About("host", 17, "1.2.3", {"acme": 1, "": 2}, 4)
    service.crew = SimpleNamespace(last=Look(Sight(5, 2, 2, 2), 3, {}), keeping=Keeping(2, Span(1, 4)))
    service.owners = [
        Owner("g", "gateway", 1, ready=False, expires_at=NOW, started_at=NOW, about=said),
        Owner("w", "worker", 2, ready=True, expires_at=NOW, started_at=NOW),
        Owner("v", "worker", 2, ready=True, expires_at=NOW, started_at=NOW, leaving=True, about=said),
    ]


async def test_every_process_is_shown_as_openapi_describes_it(client, processes):
    shown = (await client.get("/v1/workers")).json()
    assert [(each["id"], each["ready"]) for each in shown["workers"]] == [("g", True), ("w", True), ("v", False)]
    first, second, _ = shown["workers"]
    assert first.items() >= {"host": "host", "pid": 17, "version": "1.2.3", "runs_held": 3, "warm_lanes": 4}.items()
    assert second.items() >= {"host": None, "pid": None, "version": None, "runs_held": 0, "warm_lanes": 0}.items()
    assert shown["scaling"] == {"needed": 3, "waiting": 5, "kept": 2, "least": 1, "most": 4}
    spec = (await client.get("/openapi.json")).json()
    schema = spec["paths"]["/v1/workers"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert fits(schema, spec["components"]["schemas"], shown)


async def test_a_parameter_that_it_does_not_know_is_refused(client, processes):
    assert (await client.get("/v1/workers?kind=worker")).status_code == 422


async def test_a_tenant_sees_how_many_of_its_own_runs_a_process_holds(tmp_path):
    held = Held()
    async with callers(gateway_of(held.app, tmp_path), "ann", "bob", "ops") as clients:
        ann = clients[0]
        run = asyncio.create_task(ann.post("/v1/pipelines/hold/runs", json={"input": {"word": "a"}}))

        async def counted(expected):
            async def are():
                nonlocal process
                found = [(await client.get("/v1/workers")).json()["workers"] for client in clients]
                process = found[0][0]
                return [process["runs_held"] for (process,) in found] == expected

            process = None
            await eventually(are)
            return process

        process = await counted([1, 0, 1])
        assert (process["kind"], process["host"], process["pid"]) == ("local", socket.gethostname(), os.getpid())
        assert process["ready"]
        scaling = [(await client.get("/v1/workers")).json()["scaling"] for client in clients]
        assert scaling[:2] == [None, None], "it would show how busy the other tenant is"
        assert scaling[2] is not None
        held.let_go.set()
        await run
        await counted([0, 0, 0])


async def test_the_ready_processes_of_the_process_lane_are_counted():
    async with testing.runtime(cpu.app, processes=1) as runtime:

        async def are_counted():
            (process,) = await runtime.service.workers()
            return process.about is not None and process.about.warm_lanes == 1

        await eventually(are_counted)
