"""Signals over HTTP: a value from outside for a run that waits for it, or will wait.

Owns the bounds on a signal's name and body. The service stores and delivers it.
"""

from __future__ import annotations

from offramp.core.names import require_name
from offramp.errors import DeclarationError, InputError
from offramp.gateway.bodies import read_optional_json_body, require_json_value
from offramp.gateway.call import Call
from offramp.gateway.native.runs import accepted
from offramp.gateway.negotiation import idempotency_key
from offramp.gateway.reply import Reply

_WHITESPACE = b" \t\r\n"


async def send(call: Call) -> Reply:
    """`POST /v1/runs/{run_id}/signals/{name}`: 202 once the signal is on disk; its value is the body.

    The answer is the run's document and `awaited`: whether the run waits for the signal, or keeps it.
    """
    run_id, name = call.run_id, _name(call)
    key = idempotency_key(call.connection.headers.getlist("idempotency-key"))
    body = await read_optional_json_body(call, call.service.settings.max_body_bytes)
    value = body.strip(_WHITESPACE) or b"null"
    require_json_value(value)
    sent = await call.service.signal(run_id, name, value, call.tenant, key)
    return await accepted(call, sent.record, awaited=sent.awaited)


def _name(call: Call) -> str:
    try:
        return require_name("signal", call.connection.path_params["name"])
    except DeclarationError as error:
        message = str(error)[:300]
        raise InputError(message, [("/path/name", message)]) from error
