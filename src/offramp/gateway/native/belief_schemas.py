"""The JSON Schema of what the router has learned. Data, no behaviour."""

from __future__ import annotations

from typing import Any

from offramp.gateway.native.schemas import Schema


def _of(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_KNOWN: Schema = _SHARE | {"type": ["number", "null"]}
# Null with a tenant's key.
_COUNTED: Schema = _COUNT | {"type": ["integer", "null"]}
_SUMMED: Schema = _NUMBER | {"type": ["number", "null"]}
_OUTCOMES = _of({"made": _COUNT, "missed": _COUNT})

_BELIEVED = {"p50_ms": _NUMBER, "p95_ms": _NUMBER, "chance": _SHARE, "runs": _COUNT}
_DECIDED = {
    "runs": _COUNT,
    "right": _COUNT,
    "share_right": _SHARE,
    "fast": _OUTCOMES | {"description": "Runs that stayed on the fast path until their end, or until the budget."},
    "early": _OUTCOMES | {"description": "Runs that were demoted under way by belief."},
    "deep": _OUTCOMES | {"description": "Runs that were sent to the deep path at acceptance by belief."},
}
_WRONG = {"share": _KNOWN, "good": _COUNTED, "demoted": _COUNTED, "wrong": _SUMMED, "controls": _COUNTED}
_TENTH = {"from": _SHARE, "to": _SHARE, "runs": _COUNTED, "predicted": _KNOWN, "made": _KNOWN}

ROUTES = _of(
    {
        "routes": {
            "type": "array",
            "description": "By pipeline and class, over all tenants. Counts are null with a tenant's key.",
            "items": _of(
                {
                    "pipeline": _STRING,
                    "class": _STRING,
                    "budget_s": _NUMBER,
                    "early_demotion": _SHARE | {"description": "The share that the class allows."},
                    "believed": _of(
                        _BELIEVED,
                        description="Of a run of which nothing else is known; null before the first.",
                    )
                    | {"type": ["object", "null"]},
                    "decided": _of(_DECIDED) | {"type": ["object", "null"], "description": "Null without runs."},
                    "waited_s": _SUMMED | {"description": "Seconds that clients waited for nothing."},
                    "short_deep": _COUNTED
                    | {"description": "Runs within the budget that belief took off the fast path."},
                    "wrong": _of(_WRONG, description="The same as a share of the runs within the budget, measured."),
                    "calibration": {
                        "type": "array",
                        "description": "The chance at acceptance against what happened, by tenths.",
                        "items": _of(_TENTH),
                    },
                }
            ),
        }
    }
)
