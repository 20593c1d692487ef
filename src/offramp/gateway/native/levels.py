"""How well the service meets the targets of its SLA classes: shares, burn rates and alerts. Reads only."""

from __future__ import annotations

from typing import Any

from offramp.core import slo
from offramp.core.slo import Counts
from offramp.gateway.call import Call
from offramp.gateway.reply import Reply, json_reply
from offramp.paths.slo import ServiceLevel

DIGITS = 6


async def report(call: Call) -> Reply:
    """`GET /v1/slo`: for a tenant's own runs; for all runs with an operator's key."""
    levels = await call.service.service_levels(call.tenant)
    shown = [_shown(level) for level in levels]
    return json_reply(200, {"objective": slo.OBJECTIVE, "classes": shown})


def _shown(level: ServiceLevel) -> dict[str, Any]:
    burn_rates = {window: slo.burn_rate(counts) for window, counts in level.windows.items()}
    return {
        "class": level.sla.name,
        "target_s": level.sla.p95,
        "budget_left": round(slo.budget_left(level.windows[slo.BUDGET_WINDOW]), DIGITS),
        "windows": {window: _window(counts) for window, counts in level.windows.items()},
        "alerts": [rule._asdict() | {"firing": rule.fires(burn_rates)} for rule in slo.RULES],
    }


def _window(counts: Counts) -> dict[str, Any]:
    within = slo.within_target(counts)
    return {
        "runs": counts.total,
        "within_target": None if within is None else round(within, DIGITS),
        "burn_rate": round(slo.burn_rate(counts), DIGITS),
    }
