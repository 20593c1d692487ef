"""What Schemathesis needs beside the OpenAPI document: to ask for streams, what those carry, what is no failure."""

from __future__ import annotations

import json
import zlib

import jsonschema_rs
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData

from tests.gateway.wire import parse_sse


@schemathesis.hook
def before_call(context, case, kwargs):
    """Half of the requests for runs ask for a stream; which, depends on the body, so that a seed repeats it."""
    if case.operation.path.endswith("/runs") and zlib.crc32(repr(case.body).encode()) % 2:
        case.headers["Accept"] = "text/event-stream"


@schemathesis.check
def streams_carry_documented_events(context, response, case):
    """OpenAPI describes the messages of a stream, and JSON Schema does not look into the text that they hold."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    event = case.operation.schema.raw_schema["components"]["schemas"]["Event"]
    found, _, _ = parse_sse(response.content)
    bodies = [json.loads(data) for _, _, data in found]
    for body in bodies:
        jsonschema_rs.validate(event, body)
    assert [(number, kind) for number, kind, _ in found] == [(str(body["seq"]), body["type"]) for body in bodies]
    numbers = [body["seq"] for body in bodies]
    assert numbers == list(range(min(numbers, default=1), min(numbers, default=1) + len(numbers))), numbers


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """False for what only looks like a failure."""
    if isinstance(failure, AcceptedNegativeData):
        # An unknown header is ignored, as HTTP requires.
        return "x-schemathesis-unknown-property" not in (case.headers or {})
    # The fuzzer sends one key with many bodies.
    return not (
        isinstance(failure, RejectedPositiveData) and b"urn:offramp:error:idempotency-mismatch" in response.content
    )
