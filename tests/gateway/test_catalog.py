from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from offramp.gateway.native.openapi import describe
from offramp.gateway.native.request import FIELDS
from offramp.gateway.native.schemas import rebased
from offramp.gateway.surface import SOCKET
from tests.gateway.fake import FakeService, spec_of
from tests.gateway.wire import ROUTES

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


class TestPipelines:
    async def test_all(self, client):
        found = (await client.get("/v1/pipelines")).json()
        assert [each["name"] for each in found["pipelines"]] == ["research", "nightly"]

    async def test_one(self, client, service):
        found = (await client.get("/v1/pipelines/research")).json()
        assert found["doc"] == "Answer a question."
        assert found["class"] == "interactive"
        assert found["sla"] == {"p95": 2.0, "budget": 6.0, "priority": 0}
        assert found["budget"] == 6.0
        assert found["input_schema"] == service.pipelines["research"].signature.input_schema
        assert found["result_schema"] == {"type": "string"}
        assert found["links"]["runs"] == "/v1/pipelines/research/runs"

    async def test_an_unknown_one_names_the_nearest(self, client):
        answer = await client.get("/v1/pipelines/nightli")
        assert answer.status_code == 404
        assert "did you mean 'nightly'?" in answer.json()["detail"]


def walk(node):
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from walk(child)


def resolve(spec, ref):
    found = spec
    for part in ref.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


class TestOpenAPI:
    @pytest.fixture
    async def spec(self, client):
        answer = await client.get("/openapi.json")
        assert answer.status_code == 200
        return answer.json()

    async def test_every_route_is_described_and_nothing_else(self, spec, service):
        described = {
            (method.upper(), path) for path, item in spec["paths"].items() for method in item if method != "parameters"
        }
        routes = {("GET" if method == SOCKET else method, path) for method, path, *_ in ROUTES}
        routes |= {("POST", f"/v1/pipelines/{name}/runs") for name in service.pipelines}
        assert described == routes

    async def test_operation_ids_are_unique(self, spec):
        ids = [node["operationId"] for node in walk(spec) if isinstance(node, dict) and "operationId" in node]
        assert len(ids) == len(set(ids)) > 10

    async def test_every_reference_leads_somewhere(self, spec):
        refs = {node["$ref"] for node in walk(spec) if isinstance(node, dict) and "$ref" in node}
        assert refs
        for ref in refs:
            assert resolve(spec, ref)

    async def test_path_parameters_are_those_of_the_path(self, spec):
        for path, item in spec["paths"].items():
            names = {each["name"] for each in item.get("parameters", []) if each["in"] == "path"}
            assert names == set(re.findall(r"{(\w+)}", path))

    async def test_the_body_has_the_fields_that_are_taken(self, spec):
        operation = spec["paths"]["/v1/pipelines/research/runs"]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == set(FIELDS)
        arguments = schema["properties"]["input"]
        assert arguments["required"] == ["question"]
        assert [each["const"] for each in schema["properties"]["class"]["anyOf"]] == ["batch", "interactive", None]
        assert schema["properties"]["budget"]["maximum"] == 60.0

    @pytest.mark.parametrize(("secret", "kinds"), [("", {"null"}), (WEBHOOK_SECRET, {"null", "object"})])
    def test_a_webhook_may_be_asked_for_where_one_can_be_signed(self, secret, kinds):
        made = describe(FakeService(webhook_secret=secret))
        operation = made["paths"]["/v1/pipelines/research/runs"]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["webhook"]
        assert {each["type"] for each in schema.get("oneOf", [schema])} == kinds

    async def test_what_is_answered_is_described(self, spec, client, service):
        run = service.new_run()
        run.fail()
        requests = [
            ("GET", f"/v1/runs/{run.record.id}", "/v1/runs/{run_id}"),
            ("GET", f"/v1/runs/{run.record.id}/result", "/v1/runs/{run_id}/result"),
            ("GET", f"/v1/runs/{run.record.id}/ws", "/v1/runs/{run_id}/ws"),
            ("POST", f"/v1/runs/{run.record.id}/cancel", "/v1/runs/{run_id}/cancel"),
            ("POST", f"/v1/runs/{run.record.id}/signals/ok", "/v1/runs/{run_id}/signals/{name}"),
            ("POST", f"/v1/runs/{run.record.id}/signals/9", "/v1/runs/{run_id}/signals/{name}"),
            ("GET", "/v1/runs/x/events", "/v1/runs/{run_id}/events"),
            ("GET", "/v1/runs?limit=0", "/v1/runs"),
            ("GET", "/v1/runs", "/v1/runs"),
            ("GET", "/v1/pipelines/x", "/v1/pipelines/{name}"),
            ("POST", "/v1/pipelines/x/runs", "/v1/pipelines/{name}/runs"),
            ("POST", "/v1/pipelines/research/runs", "/v1/pipelines/research/runs"),
            ("GET", "/healthz", "/healthz"),
            ("GET", "/readyz", "/readyz"),
            ("GET", "/metrics", "/metrics"),
        ]
        for method, path, template in requests:
            answer = await client.request(method, path)
            described = spec["paths"][template][method.lower()]["responses"][str(answer.status_code)]
            media = answer.headers["content-type"].partition(";")[0]
            assert media in described["content"], path

    async def test_a_run_document_has_what_is_described(self, spec, client, service):
        run = service.new_run()
        document = (await client.get(f"/v1/runs/{run.record.id}")).json()
        schema = spec["components"]["schemas"]["Run"]
        assert set(document) == set(schema["properties"]) - {"input"}  # with `include` alone
        assert set(schema["required"]) <= set(document)
        assert re.search(schema["properties"]["id"]["pattern"], document["id"])

    def test_definitions_of_pipelines_do_not_collide(self):
        service = FakeService()
        service.pipelines = {spec.name: spec for spec in (spec_of(first), spec_of(second))}
        spec = json.loads(json.dumps(describe(service)))
        schemas = spec["components"]["schemas"]
        assert schemas["first.input.Thing"]["properties"].keys() == {"a"}
        assert schemas["second.input.Thing"]["properties"].keys() == {"b", "next"}
        for node in walk(spec):
            if isinstance(node, dict) and "$ref" in node:
                assert resolve(spec, node["$ref"])


def _thing_a():
    import msgspec

    return msgspec.defstruct("Thing", [("a", int)])


def _thing_b():
    import msgspec

    return msgspec.defstruct("Thing", [("b", int), ("next", "list[dict[str, int]]", [])])


async def first(thing) -> str:
    return ""


async def second(things) -> str:
    return ""


first.__annotations__["thing"] = _thing_a()
second.__annotations__["things"] = list[_thing_b()]


def test_odd_names_of_definitions_fit_in_a_component_name():
    components = {}
    schema = {"$ref": "#/$defs/Box[int~1x]", "$defs": {"Box[int/x]": {"type": "integer"}}}
    assert rebased(schema, "p.input", components) == {"$ref": "#/components/schemas/p.input.Box_int_x_"}
    assert components == {"p.input.Box_int_x_": {"type": "integer"}}


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses, self.ids, self.labels, self.handlers = [], set(), set(), []
        self.fields = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        self.addresses += [given[name] for name in ("src", "href", "action") if name in given]
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "label" and "for" in given:
            self.labels.add(given["for"])
        if tag in {"input", "textarea", "select"} and given.get("type") != "checkbox":
            self.fields.add(given["id"])


class TestDocs:
    async def test_the_page_needs_no_other_host(self, client):
        answer = await client.get("/docs")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", answer.text)
        page = Page()
        page.feed(answer.text)
        assert set(page.addresses) == {"data:,", "#try", "openapi.json"}

    async def test_the_policy_allows_its_own_blocks_and_nothing_else(self, client):
        answer = await client.get("/docs")
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        for tag in ("script", "style"):
            blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
            hashes = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
            assert policy[f"{tag}-src"] == " ".join(f"'sha256-{each}'" for each in hashes)
            assert len(blocks) == 1
        page = Page()
        page.feed(answer.text)
        # The policy would stop them.
        assert page.handlers == []

    async def test_every_field_has_a_label_and_every_id_the_script_uses_exists(self, client):
        text = (await client.get("/docs")).text
        page = Page()
        page.feed(text)
        assert page.fields == page.labels
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= page.ids
