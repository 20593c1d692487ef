"""The JSON Schemas of the native API's bodies, beside those of the pipelines. Data, no behaviour."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any, get_args

from offramp.core.events import TYPES
from offramp.core.run import By, DemotionReason, Path, Status, Webhook
from offramp.core.slo import WINDOWS
from offramp.core.stats import PATHS, QUANTILES, STATUSES
from offramp.core.stats import WINDOWS as STATS_WINDOWS
from offramp.core.webhooks import EVENT_NAMES, URL_LENGTH_MAX
from offramp.gateway.native.request import (
    METADATA_KEY_LENGTH_MAX,
    METADATA_PAIRS_MAX,
    METADATA_VALUE_LENGTH_MAX,
    SESSION_ID_LENGTH_MAX,
)
from offramp.gateway.native.retrying import FROM_LENGTH_MAX

Schema = dict[str, Any]


def _nullable(*kinds: str, **more: Any) -> Schema:
    return {"type": [*kinds, "null"], **more}


def _object(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, **more}


_STRING: Schema = {"type": "string"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_MOMENT_OR_NULL = _nullable("string", format="date-time")
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}

RUN_ID: Schema = {"type": "string", "pattern": "^run_[0-9A-HJKMNP-TV-Z]{26}$"}

WHERE: Schema = {
    "oneOf": [{"type": "null"}, _object({"file": _STRING, "line": {"type": "integer"}, "function": _STRING})],
    "description": "The innermost line of the user's code.",
}
RUN_ERROR = _object(
    {
        "code": _STRING,
        "message": _STRING,
        "step": _nullable("string"),
        "attempt": _nullable("integer"),
        "where": WHERE,
        "traceback": _nullable("string", description="With `include=traceback`: frames, without values."),
        "causes": {"type": "array", "items": {"$ref": "#/components/schemas/RunError"}},
    },
    ["code", "message", "step", "attempt", "where"],
)

TRUNCATED = _object(
    {
        "truncated": {"const": True},
        "bytes": {"type": "integer", "description": "The size of the whole as JSON."},
        "preview": {"type": "string", "description": "The beginning of its JSON."},
        "link": _nullable("string", description="The address of the whole; null where it was not recorded."),
    },
    description="Stands for a large value.",
)

STEP = _object(
    {
        "name": _STRING,
        "key": _STRING,
        "label": _nullable("string"),
        "status": _STRING,
        "attempts": {"type": "integer"},
        "started_at": _MOMENT,
        "duration_ms": _nullable("number"),
        "target": _STRING | {"description": "In a failover, the step that its last attempt called."},
        "arguments": {"description": "By parameter name, or a Truncated; null until it has ended."},
        "result": {"description": "Any JSON value, or a Truncated; null until it completed."},
        "error": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/RunError"}]},
        "failures": {
            "type": "array",
            "description": "Of each failed attempt.",
            "items": _object(
                {
                    "code": _STRING,
                    "message": _STRING,
                    "attempt": {"type": "integer"},
                    "at": _MOMENT,
                    "where": WHERE,
                    "target": _STRING,
                },
                ["code", "message", "attempt", "at", "where"],
            ),
        },
    },
    ["name", "key", "label", "status", "attempts", "started_at", "duration_ms"],
    description="From `arguments` on with `include=steps` only.",
)

ROUTE = _object(
    {
        "path": {"enum": list(get_args(Path))},
        "by": {"enum": list(get_args(By)), "description": "What decided."},
        "reasons": {"type": "array", "items": _STRING},
        "predicted_ms": {
            "oneOf": [{"type": "null"}, _object({"p50": _NUMBER, "p95": _nullable("number")})],
            "description": "The expected duration.",
        },
        "confidence": _COUNT | {"description": "The number of runs that the prediction rests on."},
    },
    description="The path on which the run began, and why.",
)

ROUTED = _object({"route": {"$ref": "#/components/schemas/Route"}})

RUN = _object(
    {
        "id": RUN_ID,
        "pipeline": _STRING,
        "status": {"enum": list(get_args(Status))},
        "path": {"enum": ["fast", "deep"]},
        "class": _STRING,
        "session_id": _nullable("string"),
        "metadata": {"type": "object", "additionalProperties": _STRING},
        "route": {"$ref": "#/components/schemas/Route"},
        "demotion": {
            "oneOf": [
                {"type": "null"},
                _object(
                    {
                        "reason": {"enum": list(get_args(DemotionReason))},
                        "at": _MOMENT,
                        "elapsed_ms": _NUMBER,
                        "budget_ms": _NUMBER,
                        "reasons": {"type": "array", "items": _STRING},
                    }
                ),
            ]
        },
        "created_at": _MOMENT,
        "started_at": _MOMENT_OR_NULL,
        "finished_at": _MOMENT_OR_NULL,
        "result": {"description": "Any JSON value; null until the run completed, and in listings."},
        "error": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/RunError"}]},
        "steps": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Step"},
        },
        "input": {"description": "With `include=input`; above 16 KiB a Truncated."},
        "waiting_for": {"type": "array", "items": {"$ref": "#/components/schemas/Wait"}},
        "trace_id": _nullable("string"),
        "retry_of": _nullable("string", description="The run that this one retries."),
        "retried_as": {"type": "array", "items": _STRING, "description": "The runs that retry this one."},
        "links": _object(dict.fromkeys(("self", "events", "result", "ws", "cancel"), _STRING)),
    },
    [
        "id",
        "pipeline",
        "status",
        "path",
        "class",
        "session_id",
        "metadata",
        "route",
        "demotion",
        "created_at",
        "started_at",
        "finished_at",
        "links",
    ],
)

WAIT = _object(
    {
        "kind": {"enum": ["signal", "time"]},
        "name": _nullable("string", description="Of the signal."),
        "since": _MOMENT,
        "until": _MOMENT_OR_NULL | {"description": "The latest end of the wait."},
        "ask": {"description": "Any JSON value: what the pipeline asks for with the signal; null if nothing."},
        "schema": {"description": "The JSON Schema of the values that fit; null for any."},
    }
)

_AWAITED: Schema = {
    "type": "boolean",
    "description": "Whether the run waits for this signal now; it keeps one that comes early.",
}
SIGNALLED = _object(RUN["properties"] | {"awaited": _AWAITED}, [*RUN["required"], "awaited"])

RETRY = _object(
    {
        "from": _nullable(
            "string",
            minLength=1,
            maxLength=FROM_LENGTH_MAX,
            description="A step's name or key: neither its first result nor any later one is taken over.",
        ),
        "fresh": {"type": "boolean", "default": False, "description": "Nothing is taken over."},
    },
    [],
    additionalProperties=False,
)

RUN_PAGE = _object(
    {
        "runs": {"type": "array", "items": {"$ref": "#/components/schemas/Run"}},
        "has_more": {"type": "boolean"},
        "after": _nullable("string", description="What to give as `after` for the next page."),
    }
)

PIPELINE = _object(
    {
        "name": _STRING,
        "doc": _STRING,
        "class": _STRING,
        "sla": _object({"p95": _nullable("number"), "budget": _NUMBER, "priority": {"type": "integer"}}),
        "budget": {"type": "number", "description": "Seconds on the fast path, unless a request says otherwise."},
        "deadline": _nullable("number", description="Seconds."),
        "retention": {"type": "number", "description": "Seconds."},
        "on_disconnect": {"enum": ["continue", "demote", "cancel"]},
        "version": _STRING,
        "input_schema": {"type": "object"},
        "result_schema": {"type": "object"},
        "links": _object({"self": _STRING, "runs": _STRING}),
    }
)

PIPELINES = _object(
    {"app": _STRING, "pipelines": {"type": "array", "items": {"$ref": "#/components/schemas/Pipeline"}}}
)

PROBLEM = _object(
    {
        "type": {"type": "string", "description": "urn:offramp:error:<code>"},
        "title": _STRING,
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened and what to change."},
        "errors": {"type": "array", "items": _object({"pointer": _STRING, "message": _STRING})},
        "error": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/RunError"}]},
        "error_id": {"type": "string", "description": "Under which the log has the cause."},
        "violated-policies": {"type": "array", "items": _STRING, "description": "As `RateLimit` names them."},
    },
    ["type", "title", "status", "detail"],
)

EVENT = _object(
    {
        "type": {"enum": list(TYPES)},
        "run_id": _STRING,
        "seq": {"type": "integer", "minimum": 1, "description": "Without gaps; the `id` of the SSE event."},
        "at": _MOMENT,
    },
    description="One event; each type adds fields of its own.",
)

MESSAGE = _object(
    {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "The event's number."},
        "event": {"enum": list(TYPES)},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Event"},
        },
    },
    description="One message of the stream.",
)

NO_WEBHOOK: Schema = {
    "type": "null",
    "description": "Not available here: the operator has set no OFFRAMP_WEBHOOK_SECRET to sign with.",
}
WEBHOOK = _object(
    {
        "url": {
            "type": "string",
            "format": "uri",
            "maxLength": URL_LENGTH_MAX,
            "description": "Where events are posted, signed as Standard Webhooks; a public address.",
        },
        "events": {
            "type": "array",
            "items": {"enum": list(EVENT_NAMES)},
            "minItems": 1,
            "maxItems": len(EVENT_NAMES),
            "default": list(Webhook("").events),
        },
    },
    ["url"],
    additionalProperties=False,
)

_LEVEL_WINDOW = _object(
    {
        "runs": {"type": "integer", "minimum": 0, "description": "Of all tenants for the default one's keys."},
        "within_target": _nullable("number", minimum=0, maximum=1, description="The share; null without runs."),
        "burn_rate": {"type": "number", "minimum": 0, "description": "1 spends the error budget exactly."},
    }
)

LEVELS = _object(
    {
        "objective": {"type": "number", "description": "The share of runs that is promised within the target."},
        "classes": {
            "type": "array",
            "description": "Those with a target.",
            "items": _object(
                {
                    "class": _STRING,
                    "target_s": _NUMBER,
                    "budget_left": {"type": "number", "maximum": 1, "description": "Of 30 days; below 0: overspent."},
                    "windows": _object(dict.fromkeys(WINDOWS, _LEVEL_WINDOW)),
                    "alerts": {
                        "type": "array",
                        "items": _object(
                            {
                                "severity": {"enum": ["page", "ticket"]},
                                "long": {"enum": list(WINDOWS)},
                                "short": {"enum": list(WINDOWS)},
                                "threshold": _NUMBER,
                                "firing": {"type": "boolean", "description": "Both windows burn faster than that."},
                            }
                        ),
                    },
                }
            ),
        },
    }
)

TICKET = _object({"ticket": _STRING, "expires_at": _MOMENT})

CHANGE = _object(
    {
        "run_id": RUN_ID,
        "status": {"enum": list(STATUSES)},
        "path": {"enum": list(PATHS)},
        "pipeline": _STRING,
        "class": _STRING,
        "at": _MOMENT,
    }
)
CHANGE_MESSAGE = _object(
    {
        "id": {"type": "string", "description": "Goes into `Last-Event-ID` to go on after this one."},
        "event": {"enum": ["run.changed", "reset"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [{"$ref": "#/components/schemas/Change"}, {"type": "object"}]},
        },
        "retry": {"type": "integer"},
    },
    ["id", "event", "data"],
    description="One server-sent event; after `reset`, changes are missing.",
)

_BY_PATH = _object(dict.fromkeys(PATHS, _COUNT))
_QUANTILES = _object(dict.fromkeys(QUANTILES, _NUMBER))

STATS = _object(
    {
        "window": {"enum": list(STATS_WINDOWS)},
        "since": _MOMENT | {"description": "The beginning of the window, a whole minute or quarter of an hour."},
        "at": _MOMENT,
        "complete": {"type": "boolean", "description": "Whether every unfinished run is counted."},
        "stats": {
            "type": "array",
            "description": "By pipeline and class, of those with runs.",
            "items": _object(
                {
                    "pipeline": _STRING,
                    "class": _STRING,
                    "counts": _object(dict.fromkeys(STATUSES, _BY_PATH))
                    | {"description": "Runs that ended in the window; `queued` and `running`: now."},
                    "duration_ms": _QUANTILES
                    | {"type": ["object", "null"], "description": "From acceptance to end, of completed runs."},
                    "demoted": _COUNT | {"description": "Of the ended runs."},
                    "demotion_rate": _nullable("number", description="Of the ended runs that began on the fast path."),
                    "cold_starts": _COUNT
                    | {"description": "Times in the window that a run waited for a process to start."},
                    "queue": _object(
                        {
                            "length": _COUNT,
                            "oldest_s": _nullable("number", minimum=0),
                            "limit": _nullable("integer", description="Of the class, over all pipelines and tenants."),
                            "longest_wait_s": _nullable(
                                "number", description="By the limit and the present rate; null for a tenant's key."
                            ),
                        }
                    ),
                }
            ),
        },
    }
)

WORKERS = _object(
    {
        "workers": {
            "type": "array",
            "description": "The processes that hold a lease, the oldest first.",
            "items": _object(
                {
                    "id": _STRING,
                    "kind": {"enum": ["gateway", "worker", "local"]},
                    "host": _nullable("string"),
                    "pid": _nullable("integer"),
                    "ready": {"type": "boolean", "description": "Whether it takes requests, or queued runs."},
                    "started_at": _MOMENT,
                    "runs_held": _COUNT | {"description": "Of the key's tenant; of all for an operator's key."},
                    "warm_lanes": _COUNT | {"description": "Processes of its process lane that are ready."},
                    "version": _nullable("string", description="Of Offramp; null until the process has said it."),
                }
            ),
        },
        "scaling": _object(
            {
                "needed": _nullable("integer", description="Workers that all runs need; null at first."),
                "waiting": _nullable("integer", description="Runs that wait for a worker; on Temporal, steps too."),
                "kept": _COUNT | {"description": "Workers that this gateway keeps."},
                "least": _COUNT,
                "most": _COUNT | {"description": "The bounds of `--workers`; equal for a fixed number."},
            }
        )
        | {"type": ["object", "null"], "description": "Null for a tenant's key."},
    }
)

HEALTH = _object({"status": _STRING})

COMPONENTS: dict[str, Schema] = {
    "Run": RUN,
    "Step": STEP,
    "Truncated": TRUNCATED,
    "Wait": WAIT,
    "Signalled": SIGNALLED,
    "RunError": RUN_ERROR,
    "Route": ROUTE,
    "Routed": ROUTED,
    "RunPage": RUN_PAGE,
    "Pipeline": PIPELINE,
    "Pipelines": PIPELINES,
    "Problem": PROBLEM,
    "Event": EVENT,
    "Message": MESSAGE,
    "Health": HEALTH,
    "Levels": LEVELS,
    "Ticket": TICKET,
    "Change": CHANGE,
    "ChangeMessage": CHANGE_MESSAGE,
    "Stats": STATS,
    "Workers": WORKERS,
}


def run_request(input_schema: Schema, classes: list[str], budget_max: float, *, webhooks: bool) -> Schema:
    """The body of a request for a run; `webhooks` where they are sent."""
    return _object(
        {
            "input": input_schema,
            "session_id": _nullable("string", minLength=1, maxLength=SESSION_ID_LENGTH_MAX),
            "class": one_of([*classes, None]),
            "metadata": {
                "type": "object",
                "maxProperties": METADATA_PAIRS_MAX,
                "propertyNames": {"minLength": 1, "maxLength": METADATA_KEY_LENGTH_MAX},
                "additionalProperties": {"type": "string", "maxLength": METADATA_VALUE_LENGTH_MAX},
            },
            "budget": _nullable("number", minimum=0, maximum=budget_max, description="Seconds on the fast path."),
            "webhook": {"oneOf": [{"type": "null"}, WEBHOOK]} if webhooks else NO_WEBHOOK,
            "follow": {
                "type": "boolean",
                "default": False,
                "description": "Keep the stream open after `run.demoted`, to the end of the run.",
            },
        },
        ["input"],
        additionalProperties=False,
    )


def one_of(values: Iterable[str | None]) -> Schema:
    """One of these; no `enum`, as generators of clients fail at members that differ in case or punctuation alone."""
    return {"anyOf": [{"const": value} for value in values]}


def identifiers(names: Iterable[str]) -> list[str]:
    """A name for each pipeline that code in any language can bear, each another, whatever its case."""
    made: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "pipeline"
        numbered = (f"{plain}_{number}" for number in itertools.count(2))
        unique = next(each for each in itertools.chain([plain], numbered) if each.casefold() not in made)
        made[unique.casefold()] = unique
    return list(made.values())


def rebased(schema: Schema, name: str, components: dict[str, Schema]) -> Schema:
    """`schema` with its definitions moved to `components` under names of their own.

    `#/$defs/X` would mean something else once the schema is a part of a larger document. Titles go: generators of
    clients name a class after them, and two pipelines may have a class of the same name.
    """
    renamed = {each: f"{name}.{_component_name(each)}" for each in schema.get("$defs", {})}
    for each, definition in schema.get("$defs", {}).items():
        components[renamed[each]] = _untitled(_with_refs(definition, renamed))
    rest = _with_refs({key: value for key, value in schema.items() if key != "$defs"}, renamed)
    return _untitled(rest)


def _untitled(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key != "title"}


def _component_name(name: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name)


def _with_refs(node: Any, renamed: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_with_refs(item, renamed) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _moved(value, renamed) if _is_ref(key, value) else _with_refs(value, renamed)
        for key, value in node.items()
    }


def _is_ref(key: str, value: Any) -> bool:
    return key == "$ref" and isinstance(value, str) and value.startswith("#/$defs/")


def _moved(ref: str, renamed: dict[str, str]) -> str:
    name = ref.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")
    return f"#/components/schemas/{renamed[name]}" if name in renamed else ref
