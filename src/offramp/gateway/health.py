"""Liveness, readiness and metrics, for load balancers and Prometheus. Must stay cheap and never need a run."""

from __future__ import annotations

from offramp.gateway.call import Call
from offramp.gateway.problems import NotReady
from offramp.gateway.reply import Reply, json_reply
from offramp.gateway.surface import Route, Surface

_NOT_CACHED = {"Cache-Control": "no-store"}


def alive_reply() -> Reply:
    """The answer of a live process."""
    return json_reply(200, {"status": "ok"}, _NOT_CACHED)


def ready_reply() -> Reply:
    """The answer of a process that accepts work."""
    return json_reply(200, {"status": "ready"}, _NOT_CACHED)


async def alive(_call: Call) -> Reply:
    """`GET /healthz`: this process answers."""
    return alive_reply()


async def ready(call: Call) -> Reply:
    """`GET /readyz`: 200 if this process accepts work, else a problem that says why not."""
    is_ready, reason = await call.service.ready()
    if not is_ready:
        raise NotReady(reason)
    return ready_reply()


async def metrics(call: Call) -> Reply:
    """`GET /metrics`: Prometheus text, or OpenMetrics if Accept prefers it."""
    body, content_type = call.meter.exposition(call.connection.headers.get("accept", ""))
    return Reply(200, body, _NOT_CACHED, content_type)


OPERATIONS = Surface(
    (
        Route("GET", "/healthz", alive, needs_service=False, guard="health"),
        Route("GET", "/readyz", ready, guard="health", waits=False),
        Route("GET", "/metrics", metrics, needs_service=False, guard="operator"),
    )
)
