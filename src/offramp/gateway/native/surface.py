"""The native API's routes: `/v1`, its OpenAPI document and the page to read and try it."""

from __future__ import annotations

from offramp.gateway.access import EVERY_SCOPE
from offramp.gateway.native import (
    beliefs,
    catalog,
    changes,
    docs,
    inspection,
    levels,
    openapi,
    resources,
    retrying,
    runs,
    signals,
    stats,
    tickets,
    workers,
    ws,
)
from offramp.gateway.surface import INSPECTING, OPERATING, SOCKET, CrossOrigin, Route, Surface

NATIVE = Surface(
    (
        Route("POST", "/v1/pipelines/{name}/runs", runs.submit),
        Route("POST", "/v1/pipelines/{name}/route", runs.route),
        Route("GET", "/v1/runs/{run_id}", runs.show),
        Route("GET", "/v1/runs/{run_id}/input", inspection.run_input, scopes=INSPECTING),
        Route("GET", "/v1/runs/{run_id}/steps/{key}", inspection.step, scopes=INSPECTING),
        Route("GET", "/v1/runs/{run_id}/events", runs.events, takes_ticket=True),
        Route("GET", "/v1/runs/{run_id}/result", runs.result),
        Route(SOCKET, "/v1/runs/{run_id}/ws", ws.socket, takes_ticket=True),
        Route("POST", "/v1/runs/{run_id}/cancel", runs.cancel, scopes=OPERATING),
        Route("POST", "/v1/runs/{run_id}/retry", retrying.retry, scopes=OPERATING),
        Route("POST", "/v1/runs/{run_id}/signals/{name}", signals.send, scopes=OPERATING),
        # Every key may read events, and so let others read them.
        Route("POST", "/v1/runs/{run_id}/ticket", tickets.make, scopes=EVERY_SCOPE),
        Route("GET", "/v1/runs", runs.listing),
        Route("GET", "/v1/pipelines", catalog.pipelines),
        Route("GET", "/v1/pipelines/{name}", catalog.pipeline),
        Route("GET", "/v1/changes", changes.stream),
        Route("GET", "/v1/slo", levels.report),
        Route("GET", "/v1/stats", stats.report),
        Route("GET", "/v1/workers", workers.listing),
        Route("GET", "/v1/routes", beliefs.listing),
        Route("GET", "/v1/resources", resources.listing),
        Route("GET", "/openapi.json", openapi.document, guard="public"),
        Route("GET", "/docs", docs.page, needs_service=False, guard="public"),
    ),
    below=("/v1/",),
    cross_origin=CrossOrigin(
        headers=(
            "Authorization",
            "Cache-Control",
            "Content-Type",
            "Idempotency-Key",
            "Last-Event-ID",
            "Prefer",
            "X-Requested-With",
            "baggage",
            "traceparent",
            "tracestate",
        ),
        exposed=(
            "Location",
            "Retry-After",
            "Preference-Applied",
            "RateLimit",
            "RateLimit-Policy",
            "Idempotency-Replayed",
        ),
    ),
)
