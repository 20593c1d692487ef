"""`GET /v1/resources`: limits, what uses and awaits them, and what a tenant may see of it."""

from __future__ import annotations

import jsonschema
import pytest

from offramp.errors import StoreError
from offramp.gateway.native.resources import COUNTS, without_counts
from offramp.ports.limits import BreakerLevel, Level, Refusal, WaitingClass, WindowLevel

LEVEL = Level(
    name="openai",
    in_use=18,
    concurrency=20,
    windows=(WindowLevel("500/min", "calls", 375.0, 212), WindowLevel("200k/min", "tokens", 150_000.0, 93_412.5)),
    waiting={"batch": WaitingClass(140, 12.34567, 193.0), "interactive": WaitingClass(1, 0.1)},
    scale=0.75,
    blocked_s=8.0,
    breaker=BreakerLevel("open", {"failed": 9, "ok": 3}, 8.0),
    last_refusal=Refusal(2.0, "429 rate_limit_exceeded"),
    throttled=4,
    calls={"ok": 200, "failed": 9, "throttled": 4},
    tokens=812_000,
)


async def test_a_resource_is_shown_as_openapi_describes_it(client, service):
    service.limited = [LEVEL, Level(name="search", in_use=0, concurrency=None)]
    shown = (await client.get("/v1/resources")).json()
    openai, search = shown["resources"]
    assert openai["limits"] == {
        "concurrency": 20,
        "windows": [
            {"limit": "500/min", "of": "calls", "scaled": 375.0, "used": 212},
            {"limit": "200k/min", "of": "tokens", "scaled": 150_000.0, "used": 93_412.5},
        ],
    }
    assert openai["waiting"] == {
        "batch": {"count": 140, "oldest_s": 12.346, "longest_wait_s": 193.0},
        "interactive": {"count": 1, "oldest_s": 0.1, "longest_wait_s": None},
    }
    assert (openai["in_use"], openai["scale"], openai["tokens"]) == (18, 0.75, 812_000)
    assert openai["blocked_until"] == "2023-11-14T22:13:28.000Z"
    assert openai["breaker"] == {
        "state": "open",
        "counts": {"failed": 9, "ok": 3},
        "next_try": "2023-11-14T22:13:28.000Z",
    }
    assert openai["last_refusal"] == {"at": "2023-11-14T22:13:18.000Z", "says": "429 rate_limit_exceeded"}
    assert [search[name] for name in ("blocked_until", "breaker", "last_refusal")] == [None] * 3
    spec = (await client.get("/openapi.json")).json()
    schema = spec["paths"]["/v1/resources"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": spec["components"]}
    jsonschema.validate(shown, whole)
    jsonschema.validate({"resources": [without_counts(row) for row in shown["resources"]]}, whole)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"resources": [{**openai, "scale": 0}]}, whole)


async def test_where_nothing_that_keeps_the_limits_answers_it_is_503(client, service, monkeypatch):
    async def silent():
        raise StoreError("no coordinator of limits answers")

    monkeypatch.setattr(service, "resources", silent)
    answer = await client.get("/v1/resources")
    assert (answer.status_code, answer.json()["title"]) == (503, StoreError.title)
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_tenant_sees_no_count(client, service):
    service.limited = [LEVEL]
    (whole,) = (await client.get("/v1/resources")).json()["resources"]
    shown = without_counts(whole)
    assert {name: shown[name] for name in COUNTS} == dict.fromkeys(COUNTS)
    assert [each["used"] for each in shown["limits"]["windows"]] == [None, None]
    assert shown["breaker"] == {**whole["breaker"], "counts": None}
    assert (shown["scale"], shown["blocked_until"]) == (0.75, whole["blocked_until"])


@pytest.mark.parametrize("query", ["name=openai", "window=1h"])
async def test_a_parameter_that_it_does_not_know_is_refused(client, query):
    assert (await client.get(f"/v1/resources?{query}")).status_code == 422
