"""The limits of resources, what uses them and what waits for them. Reads only."""

from __future__ import annotations

from typing import Any

from offramp.core.timestamps import rfc3339
from offramp.gateway.call import Call
from offramp.gateway.reply import Reply, json_reply
from offramp.ports.limits import Level

COUNTS = ("in_use", "waiting", "last_refusal", "calls", "throttled", "tokens")


async def listing(call: Call) -> Reply:
    """`GET /v1/resources`: as all processes use them; without counts for a tenant's key."""
    call.query()
    now, levels = await call.service.resources()
    rows = [_shown(level, now) for level in levels]
    return json_reply(200, {"resources": [without_counts(row) for row in rows] if call.tenant else rows})


def _shown(level: Level, now: float) -> dict[str, Any]:
    breaker, refused = level.breaker, level.last_refusal
    return {
        "name": level.name,
        "limits": {
            "concurrency": level.concurrency,
            "windows": [
                {"limit": each.limit, "of": each.of, "scaled": round(each.scaled, 3), "used": round(each.used, 3)}
                for each in level.windows
            ],
        },
        "in_use": level.in_use,
        "waiting": {
            sla: {"count": each.count, "oldest_s": round(each.oldest_s, 3), "longest_wait_s": each.longest_wait_s}
            for sla, each in level.waiting.items()
        },
        "scale": round(level.scale, 4),
        "blocked_until": None if level.blocked_s is None else rfc3339(now + level.blocked_s),
        "breaker": None
        if breaker is None
        else {
            "state": breaker.state,
            "counts": breaker.counts,
            "next_try": None if breaker.next_try_s is None else rfc3339(now + breaker.next_try_s),
        },
        "last_refusal": None if refused is None else {"at": rfc3339(now - refused.ago_s), "says": refused.says},
        "calls": level.calls,
        "throttled": level.throttled,
        "tokens": level.tokens,
    }


def without_counts(row: dict[str, Any]) -> dict[str, Any]:
    """A row that does not show how busy other tenants are."""
    windows = [{**each, "used": None} for each in row["limits"]["windows"]]
    breaker = None if row["breaker"] is None else {**row["breaker"], "counts": None}
    return {
        **row,
        **dict.fromkeys(COUNTS),
        "limits": {**row["limits"], "windows": windows},
        "breaker": breaker,
    }
