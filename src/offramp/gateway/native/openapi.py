"""The OpenAPI 3.1 document of the native API with its pipelines: every path, status and problem.

A test compares it with the table of routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from offramp.core.inspection import INCLUDES
from offramp.core.keys import shown_scopes
from offramp.core.names import NAME_LENGTH_MAX
from offramp.core.spec import PipelineSpec
from offramp.core.stats import WINDOWS
from offramp.gateway.access import EVERY_SCOPE, Rule
from offramp.gateway.call import Call
from offramp.gateway.native.belief_schemas import ROUTES
from offramp.gateway.native.filters import FILTER_LENGTH_MAX, LIMIT_DEFAULT, LIMIT_MAX, ORDERS, PATHS, STATUSES
from offramp.gateway.native.resource_schemas import RESOURCES
from offramp.gateway.native.schemas import (
    COMPONENTS,
    RETRY,
    RUN_ID,
    Schema,
    identifiers,
    one_of,
    rebased,
    run_request,
)
from offramp.gateway.native.stats import WINDOW_DEFAULT
from offramp.gateway.negotiation import IDEMPOTENCY_KEY_PATTERN, SEQ_DIGITS_MAX, SEQ_MAX
from offramp.gateway.problems import CONTENT_TYPE
from offramp.gateway.reply import JSON, Reply, json_reply
from offramp.gateway.surface import SOCKET

if TYPE_CHECKING:
    from offramp.paths.service import Service

SSE = "text/event-stream"

_PROBLEMS = {
    "400": "Malformed: the JSON, a header or an event number.",
    "404": "No such pipeline or run; `detail` names the nearest.",
    "409": "The run's state does not allow this; `error` is the run's error, if it failed.",
    "410": "The run expired, or its data was removed when its retention ended.",
    "413": "The body is over the limit.",
    "415": "The body is not declared as `application/json`.",
    "422": "A field does not fit (`errors` points at it), or the Idempotency-Key came with another body before.",
    "429": "The tenant has as many runs or streams open as it may, or its share, or the key has used its limits.",
    "500": "Not the request's fault; `error_id` finds the cause in the log.",
    "503": "Too much at once, stopping, or the store is not available; see Retry-After.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_QUOTA = {
    name: {
        "description": "For keys with limits, as in draft-ietf-httpapi-ratelimit-headers-10.",
        "schema": {"type": "string"},
    }
    for name in ("RateLimit", "RateLimit-Policy")
}
_PREFERENCE_APPLIED = {"Preference-Applied": {"schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "The run.", "schema": {"type": "string"}}}
_CONTENT_LOCATION = {"Content-Location": {"description": "The run, with JSON.", "schema": {"type": "string"}}}
_VARY = {"Vary": {"schema": {"enum": ["Prefer", "Prefer, Origin"]}}}
_NAME: Schema = {"type": "string", "maxLength": NAME_LENGTH_MAX, "pattern": "^[A-Za-z_][A-Za-z0-9_.\\-]*$"}
_SEQ: Schema = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": SEQ_MAX}, {"const": ""}]}
"""An empty value counts as absent."""
_SEQ_IN_HEADER: Schema = {"type": "string", "pattern": f"^[0-9]{{0,{SEQ_DIGITS_MAX}}}$"}
"""The same as text: generators of clients take no union for a header."""
_TICKETED = ("/v1/runs/{run_id}/events", "/v1/runs/{run_id}/ws")
_INCLUDE = {
    "name": "include",
    "in": "query",
    "description": "What the document shows beside: its input, what went in and out of steps, tracebacks.",
    "schema": {"type": "array", "items": {"enum": list(INCLUDES)}},
    "style": "form",
    "explode": False,
}
_MESSAGES = {
    # OpenAPI 3.1 cannot say that a body is a sequence: a schema of one message would make clients parse it as JSON.
    "schema": {"description": "Server-sent events, each a Message whose data is one Event."},
    "x-item-schema": {"$ref": "#/components/schemas/Message"},
}
_SIGNAL_BODY = {
    "description": "Any JSON value; without a body null.",
    "required": False,
    "content": {JSON: {"schema": {}}},
}


async def document(call: Call) -> Reply:
    """`GET /openapi.json`."""
    rules = call.rules if call.access.closed else None
    return json_reply(200, describe(call.service, call.prefix, rules))


def describe(service: Service, prefix: str = "", rules: Mapping[tuple[str, str], Rule] | None = None) -> dict[str, Any]:
    """The document for a gateway mounted at `prefix`; with `rules`, by method and path, if requests need a key."""
    components: dict[str, Schema] = COMPONENTS | {"Routes": ROUTES, "Resources": RESOURCES}
    paths: dict[str, Any] = {
        "/v1/pipelines/{name}/runs": {
            "parameters": [_in_path("name", "The pipeline.")],
            "post": _submit(service, None, "", components),
        },
        "/v1/pipelines/{name}/route": {
            "parameters": [_in_path("name", "The pipeline.")],
            "post": _route(service),
        },
    }
    for name, spec in zip(identifiers(service.pipelines), service.pipelines.values(), strict=True):
        paths[f"/v1/pipelines/{spec.name}/runs"] = {"post": _submit(service, spec, name, components)}
    paths |= _runs() | _catalog() | _operations(service)
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": service.app_name,
            "version": metadata.version("offramp"),
            "description": "Runs start on a streamed fast path under a budget; one that will not make it goes on "
            "the durable deep path under the same id. Whatever is asked, the answer may also be a Problem with 405 "
            "(method), 408 (the request takes too long to arrive), 421 (host) or 431 (headers too large).",
        },
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }
    return made if rules is None else _secured(made, rules)


def _secured(made: dict[str, Any], rules: Mapping[tuple[str, str], Rule]) -> dict[str, Any]:
    """Add what keys change: the scheme, the operations that need a key, with its scopes, and the answers without."""
    made["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key, as `offramp keys add` makes them."}
    }
    made["components"]["securitySchemes"]["ticket"] = {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A ticket for the run.",
    }
    made["security"] = [{"key": []}]
    challenge = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    for path, item in made["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            rule = _rule(rules, method.upper(), path)
            if rule.guard in {"health", "public"}:
                operation["security"] = []
                continue
            if path in _TICKETED:
                operation["security"] = [{"key": []}, {"ticket": []}]
            operation["responses"]["401"] = _problem("No API key, or one that is not known.", challenge)
            if rule.guard == "operator":
                operation["responses"]["403"] = _problem("Not with a key of this tenant.")
            elif _INCLUDE in operation["parameters"]:
                operation["responses"]["403"] = _problem("`include` needs a key with the scope `inspect`.")
            elif rule.scopes != EVERY_SCOPE:
                # Roles that are needed, as OpenAPI 3.1 allows for schemes other than OAuth2; any of them will do.
                operation["security"] = [{"key": [scope]} for scope in shown_scopes(rule.scopes)]
                operation["responses"]["403"] = _problem("The key has not the scope for it.")
    return made


def _rule(rules: Mapping[tuple[str, str], Rule], method: str, path: str) -> Rule:
    """The rule of an operation; the path of one pipeline's runs is the only one that is no template of a route."""
    found = rules.get((method, path)) or rules.get((SOCKET, path))
    return found or rules["POST", "/v1/pipelines/{name}/runs"]


def _submit(service: Service, spec: PipelineSpec | None, name: str, components: dict[str, Schema]) -> dict[str, Any]:
    input_schema: Schema = {"type": "object"}
    operation: dict[str, Any] = {"operationId": "submit", "summary": "Start a run of any pipeline"}
    if spec is not None:
        input_schema = rebased(spec.signature.input_schema, f"{name}.input", components)
        result = rebased(spec.signature.result_schema, f"{name}.result", components)
        components[f"{name}.result"] = result
        operation = {
            "operationId": f"submit_{name}",
            "summary": f"Start a run of {spec.name}",
            "description": spec.doc,
        }
    settings = service.settings
    webhooks = bool(settings.webhook_secret)
    body = run_request(input_schema, sorted(service.classes), settings.max_budget, webhooks=webhooks)
    streamed = {
        "description": "The event stream, with `Accept: text/event-stream`; it ends at the terminal event, or, unless "
        "`follow` is true, at `run.demoted` or the `run.accepted` of a run that begins on the deep path. With JSON: "
        "the finished run's document.",
        "headers": _PREFERENCE_APPLIED | _CONTENT_LOCATION,
        "content": {JSON: {"schema": _run_of(name)}, SSE: _MESSAGES},
    }
    later = {
        "description": "Accepted, and not finished: at once with `Prefer: respond-async` or on the deep path, "
        "else when the budget or `wait` ended.",
        "headers": _LOCATION | _RETRY_AFTER | _PREFERENCE_APPLIED | _VARY,
        "content": {JSON: {"schema": _ref("Run")}},
    }
    return operation | {
        "tags": ["runs"],
        "parameters": _submit_parameters(),
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
        "responses": {"200": streamed, "202": later}
        | _problems("400", "404", "410", "413", "415", "422", "429", "500", "503"),
    }


def _route(service: Service) -> dict[str, Any]:
    settings = service.settings
    webhooks = bool(settings.webhook_secret)
    body = run_request({"type": "object"}, sorted(service.classes), settings.max_budget, webhooks=webhooks)
    return _operation(
        "route",
        "Say where a request for a run would go now, and why; start nothing",
        "runs",
        {"200": _json("The route.", "Routed", _VARY)}
        | _problems("400", "404", "413", "415", "422", "429", "500", "503"),
        _submit_parameters()[:1],
    ) | {"requestBody": {"required": True, "content": {JSON: {"schema": body}}}}


def _run_of(name: str) -> Schema:
    if not name:
        return _ref("Run")
    result = {"anyOf": [_ref(f"{name}.result"), {"type": "null"}]}
    return {"allOf": [_ref("Run"), {"properties": {"result": result}}]}


def _submit_parameters() -> list[dict[str, Any]]:
    return [
        _header(
            "Prefer",
            "`respond-async` for 202 at once; `wait=N` for at most N seconds of waiting (RFC 7240).",
            {"type": "string", "examples": ["respond-async", "wait=5"]},
        ),
        _key("The same key and body attach to the same run; quoted or bare."),
        _header("Last-Event-ID", "With an Idempotency-Key that is known: where its stream goes on.", _SEQ_IN_HEADER),
        _header("traceparent", "W3C Trace Context; `tracestate` and `baggage` too.", {"type": "string"}),
    ]


def _runs() -> dict[str, Any]:
    run_id = [_in_path("run_id", "The run.", RUN_ID)]
    after = _query("starting_after", "The number of the last event seen.", _SEQ)
    resumed = _query("lastEventId", "The same, for clients that send no header; wins over `starting_after`.", _SEQ)
    follow = _query("follow", "false: end after the newest event.", {"type": "boolean", "default": True})
    stream = {
        "description": "Events from the start or after a position, to the end of the run.",
        "content": {SSE: _MESSAGES},
    }
    unfinished = _json("Not finished yet.", "Run", _LOCATION | _RETRY_AFTER | _VARY)
    return (
        {
            "/v1/runs": {"get": _get("list_runs", "A page of runs", "runs", _list_parameters(), "RunPage", "422")},
            "/v1/runs/{run_id}": {
                "parameters": run_id,
                "get": _get("get_run", "The run document", "runs", [_INCLUDE], "Run", "404", "422"),
            },
            "/v1/runs/{run_id}/events": {
                "parameters": run_id,
                "get": _operation(
                    "follow_run",
                    "Follow a run's events",
                    "runs",
                    {"200": stream, "204": {"description": "The run has ended, and has no event after the position."}}
                    | _problems("400", "404", "410", "422", "429", "500", "503"),
                    [_header("Last-Event-ID", "The last event seen; wins.", _SEQ_IN_HEADER), resumed, after, follow],
                ),
            },
            "/v1/runs/{run_id}/result": {
                "parameters": run_id,
                "get": _operation(
                    "get_result",
                    "The bare result",
                    "runs",
                    {"200": {"description": "The result.", "content": {JSON: {"schema": {}}}}, "202": unfinished}
                    | _problems("404", "409", "410", "500", "503"),
                ),
            },
        }
        | _values(run_id)
        | _requests(run_id)
        | {
            "/v1/runs/{run_id}/ws": {
                "parameters": run_id,
                "get": _operation(
                    "open_socket",
                    'A WebSocket: the events as JSON text; takes {"type": "cancel"}',
                    "runs",
                    {
                        "101": {"description": "Closes with 1000 after the terminal event; 1012: connect again."},
                        "426": _problem("Not a WebSocket handshake."),
                    }
                    | _problems("400", "404", "410", "422", "429", "500", "503"),
                    [after],
                ),
            },
        }
    )


def _values(run_id: list[dict[str, Any]]) -> dict[str, Any]:
    """What went in and out, whole."""
    shown = {"200": {"description": "The input.", "content": {JSON: {"schema": {"type": "object"}}}}}
    answers = shown | _problems("404", "410", "500", "503")
    return {
        "/v1/runs/{run_id}/input": {
            "parameters": run_id,
            "get": _operation("get_input", "The bare input", "runs", answers),
        },
        "/v1/runs/{run_id}/steps/{key}": {
            "parameters": [*run_id, _in_path("key", "The step's key.")],
            "get": _get("get_step", "A step with what went in and out", "runs", [], "Step", "404", "410"),
        },
    }


def _requests(run_id: list[dict[str, Any]]) -> dict[str, Any]:
    """Cancelling, retrying and signalling a run, and tickets for it."""
    return {
        "/v1/runs/{run_id}/cancel": {
            "parameters": run_id,
            "post": _operation(
                "cancel_run",
                "Cancel a run",
                "runs",
                {"202": _json("The run will end `cancelled`.", "Run", _LOCATION | _RETRY_AFTER)}
                | _problems("404", "409", "500", "503"),
            ),
        },
        "/v1/runs/{run_id}/retry": _retries(run_id),
        "/v1/runs/{run_id}/signals/{name}": _signals(run_id),
        "/v1/runs/{run_id}/ticket": {
            "parameters": run_id,
            "post": _operation(
                "make_ticket",
                "Make a ticket: it opens this run's events and WebSocket, as `?ticket=`, without a key",
                "runs",
                {"200": _json("The ticket; it is a secret.", "Ticket")} | _problems("404", "410", "500", "503"),
            ),
        },
    }


def _retries(run_id: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parameters": run_id,
        "post": _operation(
            "retry_run",
            "Retry a run that has ended, as a new run",
            "runs",
            {"202": _json("The new run.", "Run", _LOCATION | _RETRY_AFTER)}
            | _problems("400", "404", "409", "410", "413", "415", "422", "429", "500", "503"),
            [_key("The same key and body attach to the same new run; quoted or bare.")],
        )
        | {"requestBody": {"required": False, "content": {JSON: {"schema": RETRY}}}},
    }


def _signals(run_id: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parameters": [*run_id, _in_path("name", "As in `offramp.signal(name)`.", _NAME)],
        "post": _operation(
            "send_signal",
            "Send a signal to a run",
            "runs",
            {"202": _json("The run has the signal, or keeps it until it asks.", "Signalled", _LOCATION | _RETRY_AFTER)}
            | _problems("400", "404", "409", "413", "415", "422", "500", "503"),
            [_key("The same key, name and body are the same signal; quoted or bare.")],
        )
        | {"requestBody": _SIGNAL_BODY},
    }


def _list_parameters() -> list[dict[str, Any]]:
    text = {"type": "string", "maxLength": FILTER_LENGTH_MAX, "pattern": "^[^\\x00-\\x1f]*$"}
    time = {"type": "string", "format": "date-time"}
    return [
        _INCLUDE,
        _query("session_id", "Only runs of this session.", text),
        _query("status", "Only runs in this state.", {"enum": list(STATUSES)}),
        _query("pipeline", "Only runs of this pipeline.", text),
        _query("class", "Only runs of this class.", text),
        _query("path", "Only runs that are, or ended, on this path.", {"enum": list(PATHS)}),
        _query("waiting", "Only runs that wait for a signal or a time.", {"type": "boolean", "default": False}),
        _query("since", "Only runs accepted at this time or later.", time),
        _query("until", "Only runs accepted before this time.", time),
        _query("q", "Only runs with this text in their id, session or a value of their metadata.", text),
        _query("order", "`desc`, the newest first, or `asc`.", {"enum": list(ORDERS), "default": "desc"}),
        _query("limit", "Runs in a page.", _number(1) | {"maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}),
        _query("after", "The `after` of the page before.", RUN_ID),
    ]


def _stats_parameters(service: Service) -> list[dict[str, Any]]:
    return [
        _query("window", "How far back.", {"enum": list(WINDOWS), "default": WINDOW_DEFAULT}),
        _query("pipeline", "Only runs of this pipeline.", one_of(service.pipelines)),
        _query("class", "Only runs of this class.", one_of(service.classes)),
    ]


def _change_parameters() -> list[dict[str, Any]]:
    text = {"type": "string", "maxLength": FILTER_LENGTH_MAX}
    return [
        _header("Last-Event-ID", "The last change seen, to go on after it; wins.", text),
        _query("lastEventId", "The same, for clients that send no headers.", text),
        _query("pipeline", "Only changes of runs of this pipeline.", text),
        _query("class", "Only changes of runs of this class.", text),
        _query("session_id", "Only changes of runs of this session.", text),
    ]


def _catalog() -> dict[str, Any]:
    return {
        "/v1/pipelines": {"get": _get("list_pipelines", "What is served", "pipelines", [], "Pipelines")},
        "/v1/pipelines/{name}": {
            "parameters": [_in_path("name", "The pipeline.")],
            "get": _get("get_pipeline", "One pipeline with its schemas", "pipelines", [], "Pipeline", "404"),
        },
    }


def _operations(service: Service) -> dict[str, Any]:
    def plain(operation_id: str, summary: str, content_type: str) -> dict[str, Any]:
        answer = {"description": summary, "content": {content_type: {"schema": {"type": "string"}}}}
        return _operation(operation_id, summary, "operations", {"200": answer})

    alive = _operation("alive", "Alive", "operations", {"200": _json("Alive.", "Health")})
    return {
        "/healthz": {"get": alive},
        "/readyz": {"get": _get("ready", "Ready to take work", "operations", [], "Health")},
        "/v1/slo": {"get": _get("service_levels", "How SLA classes keep their targets", "operations", [], "Levels")},
        "/v1/changes": {
            "get": _operation(
                "follow_changes",
                "Follow the changes of all runs",
                "runs",
                {"200": {"description": "Changes, without end.", "content": {SSE: {"schema": _ref("ChangeMessage")}}}}
                | _problems("422", "429", "500", "503"),
                _change_parameters(),
            )
        },
        "/v1/stats": {
            "get": _get(
                "statistics", "Runs by pipeline and class", "operations", _stats_parameters(service), "Stats", "422"
            )
        },
        "/v1/workers": {
            "get": _get("list_workers", "The processes of the service", "operations", [], "Workers", "422")
        },
        "/v1/routes": {"get": _get("list_routes", "What the router believes", "operations", [], "Routes", "422")},
        "/v1/resources": {
            "get": _get("list_resources", "Limits, and what uses and awaits them", "operations", [], "Resources", "422")
        },
        "/metrics": {"get": plain("metrics", "Prometheus metrics", "text/plain")},
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This document",
                "operations",
                {"200": {"description": "OpenAPI 3.1.", "content": {JSON: {"schema": {"type": "object"}}}}}
                | _problems("500", "503"),
            )
        },
        "/docs": {"get": plain("docs", "A page to read and try it", "text/html")},
    }


def _get(
    operation_id: str, summary: str, tag: str, parameters: list[dict[str, Any]], schema: str, *problems: str
) -> dict[str, Any]:
    answers = {"200": _json(summary + ".", schema)} | _problems(*problems, "500", "503")
    return _operation(operation_id, summary, tag, answers, parameters)


def _operation(
    operation_id: str,
    summary: str,
    tag: str,
    responses: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        "parameters": parameters or [],
        "responses": responses,
    }


def _json(description: str, schema: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, "headers": headers or {}, "content": {JSON: {"schema": _ref(schema)}}}


def _problems(*statuses: str) -> dict[str, Any]:
    return {
        status: _problem(_PROBLEMS[status], {"429": _RETRY_AFTER | _QUOTA, "503": _RETRY_AFTER}.get(status))
        for status in sorted(statuses)
    }


def _problem(description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {CONTENT_TYPE: {"schema": _ref("Problem")}}
    return {"description": description, "headers": headers or {}, "content": content}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _number(minimum: int) -> Schema:
    return {"type": "integer", "minimum": minimum}


def _in_path(name: str, description: str, schema: Schema | None = None) -> dict[str, Any]:
    schema = schema or {"type": "string"}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _query(name: str, description: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _key(description: str) -> dict[str, Any]:
    return _header("Idempotency-Key", description, {"type": "string", "pattern": IDEMPOTENCY_KEY_PATTERN})


def _header(name: str, description: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema}
