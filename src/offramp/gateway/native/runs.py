"""Runs over HTTP: submit, follow, read, list, cancel, result.

Owns the status and headers of each outcome. The service decides what happens to a run.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from offramp.core.failure import exception_of
from offramp.core.reference import reference_in
from offramp.core.run import RunRecord, document, links
from offramp.errors import CircuitOpen, InputError, ResourceBusy, RunGone
from offramp.gateway import starting
from offramp.gateway.call import Call, query_pointer
from offramp.gateway.native.filters import LISTED, run_filter
from offramp.gateway.native.framing import NativeEncoder
from offramp.gateway.native.inspection import include_in
from offramp.gateway.native.request import read_submission
from offramp.gateway.native.stored import stored_result
from offramp.gateway.negotiation import Preference, position, wants_stream
from offramp.gateway.problems import (
    RETRY_AFTER_S,
    NoResult,
    NoResultInTime,
    Problem,
    coarse,
    retry_after,
)
from offramp.gateway.problems import document as document_of
from offramp.gateway.reply import Answer, Reply, json_reply
from offramp.gateway.starting import finishes_fast, submit_streamed
from offramp.gateway.streams import EventStream

NO_PERMIT = {kind.code: kind for kind in (ResourceBusy, CircuitOpen)}
"""The errors of runs that a resource had no permit for, by their codes."""


async def submit(call: Call) -> Answer:
    """`POST /v1/pipelines/{name}/runs`: a stream, or JSON once the run ends or the client's wait does."""
    came_at = asyncio.get_running_loop().time()
    spec = call.pipeline(call.connection.path_params["name"])
    asked = await read_submission(call, spec.name)
    headers, preference = call.connection.headers, asked.preference
    after = position(headers.get("last-event-id"))
    if not preference.at_once and wants_stream(headers.getlist("accept")):
        encoder = NativeEncoder(until_deep=not asked.follow)
        return await submit_streamed(call, asked.submission, after, encoder)
    accepted = await starting.submit(call, asked.submission, math.inf if preference.wait is None else preference.wait)
    if not preference.at_once:
        finished = await finishes_fast(call, accepted, None if preference.wait is None else came_at + preference.wait)
        shown = await call.service.document(accepted.record.id, call.tenant, call.prefix)
        if shown["status"] == "failed" and shown["error"]["code"] in NO_PERMIT and not accepted.attached:
            return _refused(await call.service.get(accepted.record.id, call.tenant), call.prefix)
        return _described(200 if finished else 202, shown, preference)
    if not accepted.attached:  # a new run: its document needs no read
        return _described(202, document(accepted.record, [], call.prefix), preference)
    return await _document(call, 202, accepted.record.id, preference)


async def route(call: Call) -> Reply:
    """`POST /v1/pipelines/{name}/route`: where the same request for a run would go now, and why; starts nothing."""
    spec = call.pipeline(call.connection.path_params["name"])
    decision = await call.service.decide((await read_submission(call, spec.name)).submission)
    return json_reply(200, {"route": decision.route().shown()}, {"Vary": "Prefer"})


async def events(call: Call) -> Answer:
    """`GET /v1/runs/{run_id}/events`: from the start or a position, to the run's end or the newest event."""
    query = call.query("starting_after", "lastEventId", "follow")
    follow = query.get("follow", "true")
    if follow not in {"true", "false"}:
        says = f"true or false, got {follow[:20]!r}"
        raise InputError(f"follow is {says}", [(query_pointer("follow"), says)])
    header = call.connection.headers.get("last-event-id")
    after = position(header, query.get("starting_after"), query.get("lastEventId"))
    record = await call.followed()
    if record.finished and after and await call.service.is_read(record, after):
        # Tells browsers to stop reconnecting (HTML, 9.2.3). A cache must not give it to a reader without the events.
        return Reply(204, headers={"Cache-Control": "no-store"})
    encoder = NativeEncoder(until_deep=False)
    return EventStream(call, record.id, after, encoder, follow=follow == "true", slot=call.open_stream())


async def _document(call: Call, status: int, run_id: str, preference: Preference) -> Reply:
    """The run document; with 202, also where and when to ask again."""
    return _described(status, await call.service.document(run_id, call.tenant, call.prefix), preference)


def _described(status: int, shown: dict[str, Any], preference: Preference) -> Reply:
    where = shown["links"]["self"]
    headers = {"Vary": "Prefer"}
    headers |= {"Location": where, "Retry-After": str(RETRY_AFTER_S)} if status == 202 else {"Content-Location": where}
    applied = preference.applied(status)
    if applied:
        headers["Preference-Applied"] = applied
    return json_reply(status, shown, headers)


def _refused(record: RunRecord, prefix: str) -> Reply:
    """503 for a run that failed because a resource had no permit for it: as a whole it may succeed later.

    Not for a repeated request, whose Idempotency-Key leads to the same run.
    """
    failure = record.error
    assert failure is not None  # noqa: S101 - for the types: it failed
    error = exception_of(failure)
    after_s = error.retry_after if isinstance(error, ResourceBusy) else None
    headers = {
        "Retry-After": str(coarse(retry_after(RETRY_AFTER_S if after_s is None else after_s))),
        "Content-Location": links(record.id, prefix)["self"],
        "Vary": "Prefer",
    }
    facts = {"error": failure.public(), "run_id": record.id}
    return document_of(Problem(NO_PERMIT[failure.code], str(error), facts, headers))


def _path(call: Call, record: RunRecord) -> str:
    return links(record.id, call.prefix)["self"]


async def show(call: Call) -> Reply:
    """`GET /v1/runs/{run_id}`: the run document."""
    include = include_in(call, call.query("include"))
    return json_reply(200, await call.service.document(call.run_id, call.tenant, call.prefix, include))


async def result(call: Call) -> Answer:
    """`GET /v1/runs/{run_id}/result`: the bare result of a completed run."""
    record = await call.service.get(call.run_id, call.tenant)
    where = _path(call, record)
    if record.purged:
        raise RunGone(f"the result of {record.id} was removed when its retention ended")
    error = None if record.error is None else record.error.public()
    if record.status == "expired":
        detail = f"{record.id} reached its deadline before it had a result; its document is at {where}"
        raise NoResultInTime(detail, error)
    if record.status in {"failed", "cancelled"}:
        detail = f"{record.id} has no result, it is {record.status}; its document is at {where}"
        raise NoResult(detail, error)
    reference = reference_in(record.result)
    if reference is not None:
        return await stored_result(call, record, reference)
    if record.status == "completed":
        return Reply(200, b"null" if record.result is None else record.result)
    return await _document(call, 202, record.id, Preference())


async def cancel(call: Call) -> Reply:
    """`POST /v1/runs/{run_id}/cancel`: the run will end `cancelled` at its next await."""
    return await accepted(call, await call.service.cancel(call.run_id, call.tenant))


async def accepted(call: Call, record: RunRecord, **more: Any) -> Reply:
    """202 with the document of a run that will be cancelled or get a signal, and what else the answer says."""
    shown = await call.service.document(record.id, call.tenant, call.prefix) | more
    return json_reply(202, shown, {"Location": _path(call, record), "Retry-After": str(RETRY_AFTER_S)})


async def listing(call: Call) -> Reply:
    """`GET /v1/runs`: a page of run documents, newest first unless asked otherwise."""
    query = call.query(*LISTED, "include")
    wanted, include = run_filter(call.tenant, query), include_in(call, query)
    page, after = await call.service.list(wanted, call.prefix, include)
    return json_reply(200, {"runs": page, "has_more": after is not None, "after": after})
