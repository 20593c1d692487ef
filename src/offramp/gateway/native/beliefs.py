"""What the router has learned, and how well it decides. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.core.belief import rounded_down
from offramp.gateway.call import Call
from offramp.gateway.reply import Reply, json_reply

COUNTS = ("decided", "waited_s", "short_deep")


async def listing(call: Call) -> Reply:
    """`GET /v1/routes`: beliefs and shares over all tenants; counts of runs only without a tenant."""
    call.query()
    rows = await call.service.routes()
    return json_reply(200, {"routes": [without_counts(row) for row in rows] if call.tenant else rows})


def without_counts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that does not show how busy other tenants are; an exact share of few runs would tell their number."""
    believed = row["believed"]
    if believed is not None:
        chance = round(round(believed["chance"] * 20) / 20, 2)
        believed = {**believed, "chance": chance, "runs": rounded_down(believed["runs"])}
    wrong = {name: _rounded(value) if name == "share" else None for name, value in row["wrong"].items()}
    calibration = [
        {**tenth, "runs": None, "predicted": _rounded(tenth["predicted"]), "made": _rounded(tenth["made"])}
        for tenth in row["calibration"]
    ]
    return {**row, **dict.fromkeys(COUNTS), "believed": believed, "wrong": wrong, "calibration": calibration}


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 2)
