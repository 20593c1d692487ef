"""What went into runs and their steps, and what came out, for keys that may inspect.

Owns `include=` and the endpoints of single values; `core/inspection.py` decides what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from offramp.core.inspection import INCLUDES, Include, included
from offramp.core.names import near_miss
from offramp.gateway.call import Call
from offramp.gateway.native.filters import refused
from offramp.gateway.reply import Reply, json_reply
from offramp.gateway.surface import INSPECTING
from offramp.paths.documents import require_kept


def include_in(call: Call, query: Mapping[str, str]) -> frozenset[Include]:
    """What `include=` asks for.

    Raises:
        InputError: a value of it is unknown.
        Forbidden: the key may not inspect.
    """
    names = [name for name in query.get("include", "").split(",") if name]
    for name in names:
        if name not in INCLUDES:
            raise refused("include", f"some of {', '.join(INCLUDES)}, with commas{near_miss(name, INCLUDES)}")
    if names:
        call.require(INSPECTING)
    return included(names)


async def step(call: Call) -> Reply:
    """`GET /v1/runs/{run_id}/steps/{key}`: a step with its arguments, its result and its failures, whole."""
    key: str = call.connection.path_params["key"]
    return json_reply(200, await call.service.step(call.run_id, key, call.tenant, call.prefix))


async def run_input(call: Call) -> Reply:
    """`GET /v1/runs/{run_id}/input`: the bare input."""
    record = await call.service.get(call.run_id, call.tenant)
    require_kept(record)
    return Reply(200, record.input)
