"""`include=`, and the endpoints of single values, over a real service and with keys."""

from __future__ import annotations

import httpx
import pytest

from offramp.core.inspection import SHOWN_BYTES_MAX, VALUE_BYTES_MAX, Showing
from tests.gateway.conftest import serving
from tests.gateway.keyed import gateway_of
from tests.paths.inspected import LARGE, app
from tests.support import GUARD_S

SECRET = "{}-0123456789abcdef"
KEYS = ",".join(
    f"{label}:{SECRET.format(name)}"
    for name, label in {"plain": "acme/plain", "see": "acme/see+inspect", "other": "beta/other+inspect"}.items()
)


def bearer(name):
    return {"Authorization": f"Bearer {SECRET.format(name)}"}


@pytest.fixture
async def web(tmp_path):
    async with (
        serving(gateway_of(app, tmp_path, KEYS)) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD_S, trust_env=False) as client,
    ):
        yield client


async def ended(web, pipeline="shows", **given):
    answer = await web.post(f"/v1/pipelines/{pipeline}/runs", json={"input": given}, headers=bearer("plain"))
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


async def test_a_key_that_may_inspect_sees_all_and_another_nothing_of_it(web):
    run = await ended(web, question="why")
    paths = [f"/v1/runs/{run}?include=input", f"/v1/runs/{run}?include=steps,traceback", "/v1/runs?include=steps"]
    key = (await web.get(f"/v1/runs/{run}", headers=bearer("plain"))).json()["steps"][0]["key"]
    for path in (*paths, f"/v1/runs/{run}/input", f"/v1/runs/{run}/steps/{key}"):
        refused = await web.get(path, headers=bearer("plain"))
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:offramp:error:forbidden"), path
        assert (await web.get(path, headers=bearer("see"))).status_code == 200, path
        if not path.startswith("/v1/runs?"):
            assert (await web.get(path, headers=bearer("other"))).status_code == 404, path
    assert (await web.get("/v1/runs?include=steps", headers=bearer("other"))).json()["runs"] == []
    [listed] = (await web.get("/v1/runs?include=input,steps", headers=bearer("see"))).json()["runs"]
    shown = (await web.get(f"/v1/runs/{run}?include=steps,input", headers=bearer("see"))).json()
    assert listed == shown
    assert shown["steps"][0]["arguments"] == {"source": "web", "query": "why", "limit": 3}
    assert (await web.get(f"/v1/runs/{run}/input", headers=bearer("see"))).json() == {"question": "why"}


async def test_the_link_of_a_large_value_leads_to_the_whole(web):
    run = await ended(web, question=LARGE)
    shown = (await web.get(f"/v1/runs/{run}?include=steps,input", headers=bearer("see"))).json()
    copied = shown["steps"][-1]
    assert copied["result"]["truncated"] is copied["arguments"]["truncated"] is True
    whole = (await web.get(copied["result"]["link"], headers=bearer("see"))).json()
    assert (whole["result"], whole["arguments"], whole["name"]) == (LARGE, {"text": LARGE}, "copies")
    assert (await web.get(shown["input"]["link"], headers=bearer("see"))).json() == {"question": LARGE}


async def test_what_is_refused(web):
    run = await ended(web, question="why")
    for query, message in (("include=step", "did you mean 'steps'"), ("include=input,nothing", "input, steps")):
        for path in (f"/v1/runs/{run}", "/v1/runs"):
            refused = await web.get(f"{path}?{query}", headers=bearer("see"))
            assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/query/include")
            assert message in refused.json()["detail"]
    unknown = await web.get(f"/v1/runs/{run}/steps/gather", headers=bearer("see"))
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:offramp:error:unknown-step")
    assert "calls of that name have the keys gather:" in unknown.json()["detail"]
    assert (await web.get(f"/v1/runs/{run}?include=", headers=bearer("plain"))).status_code == 200


async def test_a_failed_run_has_its_traceback_for_a_key_that_may_inspect(web):
    answer = await web.post("/v1/pipelines/ends_badly/runs", json={"input": {}}, headers=bearer("plain"))
    assert "Traceback" not in answer.text
    path = f"/v1/runs/{answer.json()['id']}"
    shown = (await web.get(f"{path}?include=traceback", headers=bearer("see"))).json()
    assert shown["error"]["traceback"].startswith("Traceback (most recent call last):\n")
    assert shown["error"]["where"]["function"] == "fails"
    assert "Traceback" not in (await web.get(f"{path}/result", headers=bearer("see"))).text
    assert "Traceback" not in (await web.get(f"{path}/events", headers=bearer("see"))).text


async def test_without_keys_everything_is_shown(tmp_path):
    async with (
        serving(gateway_of(app, tmp_path, keys="")) as url,
        httpx.AsyncClient(base_url=url, timeout=GUARD_S, trust_env=False) as web,
    ):
        body = {"input": {"question": "why"}}
        run = (await web.post("/v1/pipelines/shows/runs", json=body)).json()["id"]
        assert (await web.get(f"/v1/runs/{run}?include=input")).json()["input"] == {"question": "why"}


def encoded(size):
    return b'"' + b"x" * (size - 2) + b'"'


def test_the_edge_of_a_value_that_is_shown_whole():
    assert VALUE_BYTES_MAX == 16 * 1024
    showing = Showing(frozenset({"steps"}))
    assert bytes(showing.value(encoded(VALUE_BYTES_MAX), "/there")) == encoded(VALUE_BYTES_MAX)
    assert showing.value(encoded(VALUE_BYTES_MAX + 1), "/there")["truncated"]


def test_all_values_of_one_answer_are_bounded_together():
    showing = Showing(frozenset({"steps"}))
    fit = SHOWN_BYTES_MAX // VALUE_BYTES_MAX
    shown = [showing.value(encoded(VALUE_BYTES_MAX), "/there") for _ in range(fit + 1)]
    assert [isinstance(each, dict) for each in shown] == [False] * fit + [True]
    assert shown[-1]["bytes"] == VALUE_BYTES_MAX
