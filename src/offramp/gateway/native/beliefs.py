"""What the router has learned, and how well it decides. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.gateway.call import Call
from offramp.gateway.reply import Reply, json_reply

COUNTS = ("decided", "waited_s", "short_deep")


async def listing(call: Call) -> Reply:
    """`GET /v1/routes`: beliefs and shares over all tenants; counts of runs only without a tenant."""
    call.query()
    rows = await call.service.routes()
    return json_reply(200, {"routes": [_without_counts(row) for row in rows] if call.tenant else rows})


def _without_counts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that does not show how busy other tenants are. What a belief rests on is in each route, too."""
    wrong = {name: value if name == "share" else None for name, value in row["wrong"].items()}
    calibration = [{**tenth, "runs": None} for tenth in row["calibration"]]
    return {**row, **dict.fromkeys(COUNTS), "wrong": wrong, "calibration": calibration}
