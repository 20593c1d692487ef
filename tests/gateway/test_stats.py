from __future__ import annotations

import asyncio

import pytest

from offramp import testing
from offramp.core.stats import WINDOWS
from tests.gateway.keyed import Held, callers, gateway_of
from tests.gateway.test_levels import fits
from tests.support import eventually


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("window=1d", "one of 5m, 15m, 1h, 6h, 24h"),
        ("window=", "one of 5m"),
        ("pipeline=nothing", "one of "),
        ("class=interactiv", "did you mean 'interactive'?"),
        ("q=x", "unknown"),
    ],
)
async def test_an_unknown_value_is_refused_by_name(client, query, says):
    answer = await client.get(f"/v1/stats?{query}")
    assert answer.status_code == 422
    assert says in answer.json()["errors"][0]["message"]


async def test_a_tenant_sees_its_own_figures_and_the_operator_those_of_all(tmp_path):
    held = Held()
    async with callers(gateway_of(held.app, tmp_path), "ann", "bob", "ops") as clients:
        ann, bob, _ = clients

        async def start(client, pipeline):
            return await client.post(f"/v1/pipelines/{pipeline}/runs", json={"input": {"word": "a"}})

        waiting = asyncio.create_task(start(ann, "hold"))
        for client in (ann, ann, bob):
            await start(client, "echo")

        async def figures(query=""):
            return [(await client.get(f"/v1/stats?{query}")).json()["stats"] for client in clients]

        async def is_running():
            return any(row["counts"]["running"]["fast"] for row in (await figures())[0])

        await eventually(is_running)
        seen = await figures("window=5m")
        of_ann, of_bob, of_all = [{(row["pipeline"], row["class"]): row for row in rows} for rows in seen]
        echo, hold = ("echo", "interactive"), ("hold", "interactive")
        completed = [rows[echo]["counts"]["completed"]["fast"] for rows in (of_ann, of_bob, of_all)]
        assert completed == [2, 1, 3]
        assert (of_ann[hold]["counts"]["running"]["fast"], of_all[hold]["counts"]["running"]["fast"]) == (1, 1)
        assert hold not in of_bob
        assert of_ann[echo]["demotion_rate"] == 0.0
        assert 0 < of_ann[echo]["duration_ms"]["p50"] < 30_000
        assert [[row["pipeline"] for row in rows] for rows in await figures("pipeline=echo")] == [["echo"]] * 3
        assert await figures("class=batch") == [[], [], []]
        shown = (await ann.get("/v1/stats")).json()
        spec = (await ann.get("/openapi.json")).json()
        schema = spec["paths"]["/v1/stats"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        components = spec["components"]["schemas"]
        for row in shown["stats"]:
            row["duration_ms"] = row["duration_ms"] or dict.fromkeys(("p50", "p90", "p95", "p99"), 1.0)
        components["Stats"]["properties"]["stats"]["items"]["properties"]["duration_ms"]["type"] = "object"
        assert fits(schema, components, shown)
        held.let_go.set()
        await waiting


async def test_outcomes_move_out_of_the_windows_as_they_age():
    held = Held()
    held.let_go.set()
    clock = testing.FakeClock()
    async with testing.runtime(held.app, clock=clock) as runtime:
        service = runtime.service
        await (await runtime.start("hold", word="a")).result()
        seen = []
        for later_s in (0.0, 6 * 60.0, 60 * 60.0, 24 * 3600.0):
            clock.advance(later_s)
            found = {}
            for window in WINDOWS:
                rows = (await service.statistics(window)).rows
                found[window] = sum(row.runs("completed", "fast") for row in rows)
            seen.append([window for window, count in found.items() if count])
        assert seen == [list(WINDOWS), ["15m", "1h", "6h", "24h"], ["6h", "24h"], []]
