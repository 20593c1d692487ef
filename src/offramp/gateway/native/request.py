"""Parses a request for a run: strict JSON, known fields, bounds. Each refusal names the field and the limit.

Leaves to the service: the pipeline's schema, the class, the budget.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from offramp.core.names import did_you_mean
from offramp.core.run import Webhook
from offramp.core.webhooks import flaws
from offramp.errors import InputError, RequestError
from offramp.gateway.bodies import body_error, read_json_body, require_json_value
from offramp.gateway.call import Call
from offramp.gateway.negotiation import Preference, prefer
from offramp.gateway.starting import submission
from offramp.paths.submission import Submission

SESSION_ID_LENGTH_MAX = 200
METADATA_PAIRS_MAX = 16
METADATA_KEY_LENGTH_MAX = 64
METADATA_VALUE_LENGTH_MAX = 512


class RunRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request for a run."""

    input: msgspec.Raw
    session_id: str | None = None
    sla: str | None = msgspec.field(name="class", default=None)
    metadata: dict[str, str] = {}
    budget: float | None = None
    webhook: Webhook | None = None
    follow: bool = False


FIELDS = RunRequest.__struct_encode_fields__
WEBHOOK_FIELDS = Webhook.__struct_encode_fields__

_decode_request = msgspec.json.Decoder(RunRequest).decode


class Asked(NamedTuple):
    """A parsed request: the submission for the service, and the client's preferences for the answer."""

    submission: Submission
    preference: Preference
    follow: bool


async def read_submission(call: Call, pipeline: str) -> Asked:
    """Parse the request.

    Raises:
        RequestError: malformed (400), too large (413), not JSON (415), or a field that does not fit (422).
    """
    preference = prefer(call.connection.headers.getlist("prefer"))
    asked = submission(call, pipeline)
    body = parse(await read_json_body(call, call.service.settings.max_body_bytes))
    asked = replace(
        asked,
        input=bytes(body.input),
        session_id=body.session_id,
        sla=body.sla,
        metadata=body.metadata,
        budget=body.budget,
        respond_async=preference.at_once,
        webhook=body.webhook,
    )
    return Asked(asked, preference, body.follow)


def parse(body: bytes) -> RunRequest:
    """Parse the body.

    Raises:
        RequestError: it is not JSON.
        InputError: a field is unknown, missing or out of bounds.
    """
    if not body.strip(b" \t\r\n"):
        raise RequestError('the body is empty; send a JSON object, for example {"input": {}}')
    # The typed decoder skips raw fields: this checks their UTF-8 and numbers.
    require_json_value(body)
    try:
        request = _decode_request(body)
    except msgspec.ValidationError as error:
        raise _pointed(error) from error
    _check_bounds(request)
    return request


def _pointed(error: msgspec.ValidationError) -> InputError:
    """Point at the field; msgspec names only the object that contains it."""
    unknown = re.match(r"Object contains unknown field `(.*?)`(?: - at `\$\.(webhook)`)?$", str(error))
    if unknown:
        name = unknown[1][:60]
        message = f"no field {name!r}; {did_you_mean(name, WEBHOOK_FIELDS if unknown[2] else FIELDS)}"
        return InputError(message, [(_below(unknown[2], name), message)])
    missing = re.match(r"Object missing required field `(.*?)`(?: - at `\$\.(webhook)`)?$", str(error))
    if missing:
        what = "the address to post events to" if missing[2] else "an object with the pipeline's arguments"
        message = f"{missing[1]} is required: {what}"
        return InputError(message, [(_below(missing[2], missing[1]), message)])
    return body_error(error)


def _below(parent: str | None, name: str) -> str:
    return (f"/{parent}/" if parent else "/") + name.replace("~", "~0").replace("/", "~1")


def _check_bounds(request: RunRequest) -> None:
    problems: list[tuple[str, str]] = []
    if not bytes(request.input).lstrip(b" \t\r\n").startswith(b"{"):
        problems.append(("/input", "an object with the pipeline's arguments by name"))
    if request.session_id is not None and not 1 <= len(request.session_id) <= SESSION_ID_LENGTH_MAX:
        problems.append(("/session_id", f"1 to {SESSION_ID_LENGTH_MAX} characters"))
    if len(request.metadata) > METADATA_PAIRS_MAX:
        problems.append(("/metadata", f"at most {METADATA_PAIRS_MAX} pairs, got {len(request.metadata)}"))
    for key, value in request.metadata.items():
        pointer = "/metadata/" + key[:METADATA_KEY_LENGTH_MAX].replace("~", "~0").replace("/", "~1")
        if not 1 <= len(key) <= METADATA_KEY_LENGTH_MAX:
            problems.append((pointer, f"a key has 1 to {METADATA_KEY_LENGTH_MAX} characters"))
        if len(value) > METADATA_VALUE_LENGTH_MAX:
            problems.append((pointer, f"a value has at most {METADATA_VALUE_LENGTH_MAX} characters"))
    if request.webhook is not None:
        problems += flaws(request.webhook)
    if problems:
        pointer, message = problems[0]
        raise InputError(f"{pointer}: {message}", problems[: METADATA_PAIRS_MAX + 1])
