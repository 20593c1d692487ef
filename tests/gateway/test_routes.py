"""`GET /v1/routes`: what the router has learned, as OpenAPI describes it, and what a tenant may see of it."""

from __future__ import annotations

import pytest

from offramp import App
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


@pytest.mark.parametrize("query", ["pipeline=answer", "window=1h"])
async def test_a_parameter_that_it_does_not_know_is_refused(tmp_path, query):
    async with callers(gateway_of(answering(), tmp_path), "ops") as (ops,):
        assert (await ops.get(f"/v1/routes?{query}")).status_code == 422
