"""What happened lately, and what waits and runs now, by pipeline and class. Reads only."""

from __future__ import annotations

from offramp.core import stats
from offramp.core.stats import WINDOWS
from offramp.core.timestamps import rfc3339
from offramp.gateway.call import Call
from offramp.gateway.native.filters import choice_of
from offramp.gateway.reply import Reply, json_reply

WINDOW_DEFAULT = "1h"


async def report(call: Call) -> Reply:
    """`GET /v1/stats`: of a tenant's own runs; of all runs with an operator's key."""
    query, service = call.query("window", "pipeline", "class"), call.service
    window = choice_of(query, "window", WINDOWS) or WINDOW_DEFAULT
    wanted = choice_of(query, "pipeline", service.pipelines), choice_of(query, "class", service.classes)
    found = await service.statistics(window, call.tenant)
    rows = [
        stats.shown(row, found.now, *found.queues.get(row.sla, (None, None)))
        for row in found.rows
        if wanted[0] in {None, row.pipeline} and wanted[1] in {None, row.sla}
    ]
    shown = {"window": window, "since": rfc3339(found.since), "at": rfc3339(found.now), "complete": found.is_complete}
    return json_reply(200, {**shown, "stats": rows})
