"""The served pipelines with their docs, classes and JSON Schemas. Reads declarations, changes nothing."""

from __future__ import annotations

from typing import Any

from offramp.core.sla import SLA
from offramp.core.spec import PipelineSpec
from offramp.gateway.call import Call
from offramp.gateway.reply import Reply, json_reply


async def pipelines(call: Call) -> Reply:
    """`GET /v1/pipelines`."""
    service = call.service
    shown = [_described(spec, service.classes[spec.sla], call.prefix) for spec in service.pipelines.values()]
    return json_reply(200, {"app": service.app_name, "pipelines": shown})


async def pipeline(call: Call) -> Reply:
    """`GET /v1/pipelines/{name}`."""
    spec = call.pipeline(call.connection.path_params["name"])
    return json_reply(200, _described(spec, call.service.classes[spec.sla], call.prefix))


def _described(spec: PipelineSpec, sla: SLA, prefix: str) -> dict[str, Any]:
    base = f"{prefix}/v1/pipelines/{spec.name}"
    return {
        "name": spec.name,
        "doc": spec.doc,
        "class": spec.sla,
        "sla": {"p95": sla.p95, "budget": sla.budget, "priority": sla.priority},
        "budget": sla.budget if spec.budget is None else spec.budget,
        "deadline": spec.deadline,
        "retention": spec.retention,
        "on_disconnect": spec.on_disconnect,
        "version": spec.version,
        "input_schema": spec.signature.input_schema,
        "result_schema": spec.signature.result_schema,
        "links": {"self": base, "runs": f"{base}/runs"},
    }
