"""Retries over HTTP: a new run with what is recorded of one that has ended.

Owns the form of the request. The service decides whether the run can be retried.
"""

from __future__ import annotations

import re

import msgspec

from offramp.core.names import did_you_mean
from offramp.errors import InputError
from offramp.gateway.bodies import body_error, read_optional_json_body, require_json_value
from offramp.gateway.call import Call
from offramp.gateway.native.runs import accepted
from offramp.gateway.reply import Reply
from offramp.gateway.starting import submission
from offramp.paths.submission import Retrial

FROM_LENGTH_MAX = 300
"""The limit of the name or key of a step: a name of the longest, with a digest and a number."""


class RetryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to retry a run; none is an empty one."""

    start: str | None = msgspec.field(name="from", default=None)
    fresh: bool = False


FIELDS = RetryRequest.__struct_encode_fields__
_decode = msgspec.json.Decoder(RetryRequest).decode


async def retry(call: Call) -> Reply:
    """`POST /v1/runs/{run_id}/retry`: 202 with the document of the new run, or of the one with the same key."""
    brought, run_id = submission(call, ""), call.run_id
    body = _parse(await read_optional_json_body(call, call.service.settings.max_body_bytes))
    started = await call.service.retry(
        Retrial(
            run_id=run_id,
            start=body.start,
            fresh=body.fresh,
            idempotency_key=brought.idempotency_key,
            trace=brought.trace,
            tenant=brought.tenant,
            quota=brought.quota,
            mount=brought.mount,
        )
    )
    if call.trace is not None:
        call.trace.accepted(started.record, attached=started.attached)
    return await accepted(call, started.record)


def _parse(body: bytes) -> RetryRequest:
    if not body.strip(b" \t\r\n"):
        return RetryRequest()
    require_json_value(body)
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        unknown = re.match(r"Object contains unknown field `(.*?)`$", str(error))
        if unknown is None:
            raise body_error(error) from error
        name = unknown[1][:60]
        message = f"no field {name!r}; {did_you_mean(name, FIELDS)}"
        raise InputError(message, [("/" + name.replace("~", "~0").replace("/", "~1"), message)]) from error
    if request.start is not None and not 1 <= len(request.start) <= FROM_LENGTH_MAX:
        message = f"from is the name or the key of a step, 1 to {FROM_LENGTH_MAX} characters"
        raise InputError(message, [("/from", message)])
    return request
