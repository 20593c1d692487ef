"""`POST /v1/runs/{run_id}/ticket`: what opens the run's streams where a client cannot send its key."""

from __future__ import annotations

from offramp.core.timestamps import rfc3339
from offramp.gateway.call import Call
from offramp.gateway.reply import Reply, json_reply
from offramp.gateway.tickets import issue


async def make(call: Call) -> Reply:
    """A ticket and when it expires."""
    record = await call.followed()
    ticket, expires_at = await issue(call.service, record.id, call.key)
    return json_reply(200, {"ticket": ticket, "expires_at": rfc3339(expires_at)}, {"Cache-Control": "no-store"})
