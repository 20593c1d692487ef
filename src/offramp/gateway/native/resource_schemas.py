"""The JSON Schema of resources and their limits. Data, no behaviour."""

from __future__ import annotations

from typing import Any, get_args

from offramp.gateway.native.schemas import Schema
from offramp.ports.limits import BreakerState


def _of(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def _or_null(schema: Schema, **more: Any) -> Schema:
    return {**schema, "type": [schema["type"], "null"], **more}


_STRING: Schema = {"type": "string"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNTED = _or_null(_COUNT)
_BY_NAME: Schema = {"type": "object", "additionalProperties": _COUNT}

_WINDOW = _of(
    {
        "limit": _STRING | {"description": "As declared, such as `500/min`."},
        "of": {"enum": ["calls", "tokens"]},
        "scaled": _NUMBER | {"description": "What it allows now, after refusals."},
        "used": _or_null(_NUMBER, description="What counts in the window now."),
    }
)
_WAITING = _of(
    {
        "count": _COUNT,
        "oldest_s": _NUMBER | {"description": "For how long the oldest call has waited."},
        "longest_wait_s": _or_null(_NUMBER, description="By the class's `queue_limit` and the rate; null without."),
    }
)
_BREAKER = _of(
    {
        "state": {"enum": list(get_args(BreakerState))},
        "counts": _or_null(_BY_NAME, description="Calls within its window, by how they ended."),
        "next_try": _or_null(_MOMENT, description="When an open one lets probes through."),
    }
)

RESOURCES = _of(
    {
        "resources": {
            "type": "array",
            "description": "By name, as all processes use them. Counts are null with a tenant's key.",
            "items": _of(
                {
                    "name": _STRING,
                    "limits": _of({"concurrency": _COUNTED, "windows": {"type": "array", "items": _WINDOW}}),
                    "in_use": _or_null(_COUNT, description="Permits that exist now."),
                    "waiting": {
                        "type": ["object", "null"],
                        "additionalProperties": _WAITING,
                        "description": "Calls that wait for a permit, by class.",
                    },
                    "scale": {
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "maximum": 1,
                        "description": "The part of its limits that it uses, after refusals of the provider.",
                    },
                    "blocked_until": _or_null(_MOMENT, description="No call before this time, as the provider asked."),
                    "breaker": _or_null(_BREAKER),
                    "last_refusal": _or_null(_of({"at": _MOMENT, "says": _STRING}), description="The last 429."),
                    "calls": _or_null(_BY_NAME, description="Calls so far, by how they ended."),
                    "throttled": _COUNTED,
                    "tokens": _COUNTED,
                }
            ),
        }
    }
)
