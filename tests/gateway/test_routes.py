"""`GET /v1/routes`: what the router has learned, as OpenAPI describes it, and what a tenant may see of it."""

from __future__ import annotations

import pytest

from offramp import App
from offramp.gateway.native.beliefs import without_counts
from tests.gateway.keyed import callers, gateway_of
from tests.gateway.test_levels import fits
from tests.support import eventually

COUNTS = ("decided", "waited_s", "short_deep")


def answering():
    app = App("desk")

    @app.pipeline
    async def answer(question: str) -> str:
        return question.upper()

    return app


async def ran(client):
    answer = await client.post("/v1/pipelines/answer/runs", json={"input": {"question": "why?"}})
    assert answer.json()["status"] == "completed"


async def rows(client):
    answer = await client.get("/v1/routes")
    assert answer.status_code == 200
    return answer.json()["routes"]


async def test_what_was_learned_is_shown_as_openapi_describes_it(tmp_path):
    async with callers(gateway_of(answering(), tmp_path), "ann", "ops") as (ann, ops):
        (unknown,) = await rows(ops)
        assert (unknown["pipeline"], unknown["class"], unknown["budget_s"]) == ("answer", "default", 6.0)
        assert (unknown["believed"], unknown["decided"], unknown["waited_s"]) == (None, None, 0)
        await ran(ann)

        async def is_learned():
            return (await rows(ops))[0]["decided"] is not None

        await eventually(is_learned)
        (known,), (shown,) = await rows(ops), await rows(ann)
        assert known["decided"] == {
            "runs": 1,
            "right": 1,
            "share_right": 1.0,
            "fast": {"made": 1, "missed": 0},
            "early": {"made": 0, "missed": 0},
            "deep": {"made": 0, "missed": 0},
        }
        assert known["believed"]["runs"] == 1
        assert len(known["calibration"]) == 10
        assert shown["believed"] == known["believed"], "beliefs are shared"
        assert {name: shown[name] for name in COUNTS} == dict.fromkeys(COUNTS), "it would show how busy others are"
        assert {tenth["runs"] for tenth in shown["calibration"]} == {None}
        assert [tenth["made"] for tenth in shown["calibration"]] == [tenth["made"] for tenth in known["calibration"]]
        spec = (await ops.get("/openapi.json")).json()
        schema = spec["paths"]["/v1/routes"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        for row in (unknown, known, shown):
            assert fits(schema, spec["components"]["schemas"], {"routes": [row]})


def test_a_tenant_cannot_tell_how_many_runs_others_had():
    tenth = {"from": 0.0, "to": 0.1, "runs": 41, "predicted": 0.0227, "made": 1 / 41}
    wrong = {"share": 1 / 41, "good": 41, "demoted": 1, "wrong": 1.0, "controls": 1}
    row = {"believed": {"p50_ms": 1.0, "p95_ms": 2.0, "chance": 0.0227, "runs": 41}, "wrong": wrong}
    shown = without_counts({**row, "calibration": [tenth]})
    assert (shown["believed"]["chance"], shown["believed"]["runs"]) == (0.0, 10)
    assert shown["wrong"] == {**dict.fromkeys(wrong), "share": 0.02}
    assert shown["calibration"] == [{**tenth, "runs": None, "predicted": 0.02, "made": 0.02}]


@pytest.mark.parametrize("query", ["pipeline=answer", "window=1h"])
async def test_a_parameter_that_it_does_not_know_is_refused(tmp_path, query):
    async with callers(gateway_of(answering(), tmp_path), "ops") as (ops,):
        assert (await ops.get(f"/v1/routes?{query}")).status_code == 422
