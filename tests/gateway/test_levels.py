"""`GET /v1/slo`."""

from __future__ import annotations

import httpx
import pytest

from offramp import SLA, App
from offramp.core.slo import WINDOWS, Counts
from offramp.gateway.asgi import Gateway
from offramp.settings import Settings
from offramp.wiring import build
from tests.gateway.keyed import callers, gateway_of

CALM, BURNING = Counts(100, 0), Counts(2, 8)


def fits(schema, components, value):
    """Whether a value is what a schema says, as far as these schemas go."""
    if "$ref" in schema:
        return fits(components[schema["$ref"].rpartition("/")[2]], components, value)
    kinds = {"number": (int, float), "integer": int, "string": str, "boolean": bool, "null": type(None), "object": dict}
    wanted = schema.get("type")
    if wanted == "object" or (wanted == ["object", "null"] and value is not None):
        return set(value) == set(schema["properties"]) and all(
            fits(schema["properties"][name], components, each) for name, each in value.items()
        )
    if wanted == "array":
        return all(fits(schema["items"], components, each) for each in value)
    if "enum" in schema:
        return value in schema["enum"]
    names = [wanted] if isinstance(wanted, str) else wanted
    return any(isinstance(value, kinds[name]) for name in names)


async def test_a_class_with_a_target_is_shown_with_every_window(client, service):
    service.levels |= {"30d": Counts(97, 3), "1h": Counts(9, 1)}
    shown = (await client.get("/v1/slo")).json()
    assert shown["objective"] == 0.95
    (quick,) = shown["classes"]
    assert (quick["class"], quick["target_s"]) == ("interactive", 2.0)
    assert list(quick["windows"]) == list(WINDOWS)
    assert quick["windows"]["1h"] == {"runs": 10, "within_target": 0.9, "burn_rate": pytest.approx(2.0)}
    assert quick["windows"]["5m"] == {"runs": 0, "within_target": None, "burn_rate": 0.0}
    assert quick["budget_left"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("burning", "firing"),
    [
        ({"1h", "5m"}, [True, False, False]),
        ({"6h", "30m"}, [False, True, False]),
        ({"3d", "6h"}, [False, False, True]),
        ({"1h", "30m", "3d"}, [False, False, False]),
        (set(WINDOWS), [True, True, True]),
    ],
)
async def test_an_alert_fires_when_both_of_its_windows_burn(client, service, burning, firing):
    service.levels = {window: BURNING if window in burning else CALM for window in WINDOWS}
    (quick,) = (await client.get("/v1/slo")).json()["classes"]
    assert [alert["firing"] for alert in quick["alerts"]] == firing
    assert quick["alerts"][0] == {
        "severity": "page",
        "long": "1h",
        "short": "5m",
        "threshold": 14.4,
        "firing": firing[0],
    }


async def test_the_answer_is_what_openapi_describes(client):
    spec = (await client.get("/openapi.json")).json()
    operation = spec["paths"]["/v1/slo"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    components = spec["components"]["schemas"]
    shown = (await client.get("/v1/slo")).json()
    assert fits(schema, components, shown)
    assert not fits(schema, components, shown | {"more": 1})


def make_app():
    app = App("levels", classes=[SLA("quick", p95=30.0, budget=30.0), SLA("batch", budget=0)])

    @app.pipeline(sla="quick")
    async def echo(word: str) -> str:
        if word == "fail":
            raise ValueError(word)
        return word

    return app


async def test_a_tenant_sees_its_own_figures_and_the_operator_those_of_all(tmp_path):
    gateway = gateway_of(make_app(), tmp_path)
    words = {"ann": ["a", "fail"], "bob": ["b"], "ops": ["c"]}
    async with callers(gateway, *words) as clients:
        for client, asked in zip(clients, words.values(), strict=True):
            for word in asked:
                await client.post("/v1/pipelines/echo/runs", json={"input": {"word": word}})
        shown = [(await client.get("/v1/slo")).json()["classes"] for client in clients]
        unknown = await clients[0].get("/v1/slo", headers={"Authorization": "Bearer nobody-0123456789"})
        spec = (await clients[0].get("/openapi.json")).json()
    assert unknown.status_code == 401
    assert "401" in spec["paths"]["/v1/slo"]["get"]["responses"]
    for window in WINDOWS:
        seen = [(quick["windows"][window]["runs"], quick["windows"][window]["within_target"]) for (quick,) in shown]
        assert seen == [(2, 0.5), (1, 1.0), (4, 0.75)], window
    ann, bob, _ = (quick for (quick,) in shown)
    assert (ann["budget_left"], bob["budget_left"]) == (pytest.approx(-9.0), 1.0)
    assert ([each["firing"] for each in ann["alerts"]], [each["firing"] for each in bob["alerts"]]) == (
        [False, True, True],
        [False, False, False],
    )


async def test_a_real_service_counts_its_runs(tmp_path):
    app = make_app()
    settings = Settings.load(environment={}, file=tmp_path / "none", data=str(tmp_path / "data"))
    gateway = Gateway(lambda: build(app, settings, role="local"))
    transport = httpx.ASGITransport(gateway)
    async with gateway.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for word in ("a", "b", "c", "fail"):
            await client.post("/v1/pipelines/echo/runs", json={"input": {"word": word}})
        (quick,) = (await client.get("/v1/slo")).json()["classes"]
        text = (await client.get("/metrics")).text
    assert quick["class"] == "quick"
    assert quick["windows"]["5m"] == {"runs": 4, "within_target": 0.75, "burn_rate": pytest.approx(5.0)}
    assert 'offramp_slo_runs_total{class="quick",result="good"} 3.0' in text
    assert 'offramp_sla_target_seconds{class="quick"} 30.0' in text
