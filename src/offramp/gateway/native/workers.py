"""The processes of the service and what they hold. Reads only."""

from __future__ import annotations

from typing import Any

from offramp.core.timestamps import rfc3339
from offramp.gateway.call import Call
from offramp.gateway.reply import Reply, json_reply
from offramp.paths.crew import Crewing
from offramp.ports.store import Owner


async def listing(call: Call) -> Reply:
    """`GET /v1/workers`: with the runs of one tenant, or of all for an operator's key."""
    call.query()
    shown = [_shown(owner, call.tenant) for owner in await call.service.workers()]
    return json_reply(200, {"workers": shown, "scaling": None if call.tenant else _scaling(call.service.crew)})


def _scaling(crew: Crewing) -> dict[str, Any]:
    """What all runs need: of no tenant's business, as it shows how busy the others are."""
    last, (count, span) = crew.last, crew.keeping
    return {
        "needed": None if last is None else last.needed,
        "waiting": None if last is None else last.seen.waiting,
        "kept": count,
        "least": span.low,
        "most": span.high,
    }


def _shown(owner: Owner, tenant: str) -> dict[str, Any]:
    about = owner.about
    held = {} if about is None else about.held
    return {
        "id": owner.id,
        "kind": owner.kind,
        "host": None if about is None else about.host,
        "pid": None if about is None else about.pid,
        # A gateway executes no queued runs; it is ready for requests.
        "ready": not owner.leaving and (owner.ready or owner.kind == "gateway"),
        "started_at": rfc3339(owner.started_at),
        "runs_held": held.get(tenant, 0) if tenant else sum(held.values()),
        "warm_lanes": 0 if about is None else about.warm_lanes,
        "version": None if about is None else about.version,
    }
