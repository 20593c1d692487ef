"""Runs over HTTP: submit, read, list, cancel, result.

Owns which status and headers an outcome gets; what happens to a run is the service's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, cast, get_args

from offramp.core.events import TERMINAL
from offramp.core.names import did_you_mean
from offramp.core.reference import reference_in
from offramp.core.run import RunRecord, Status, document, is_run_id, links
from offramp.errors import InputError, RunGone, StoreTimeout, UnknownPipeline
from offramp.gateway.call import Call, ClientGone, query_pointer
from offramp.gateway.negotiation import Preference, position, wants_stream
from offramp.gateway.problems import RETRY_AFTER_S, NoResult
from offramp.gateway.reply import Answer, Headers, Reply, json_reply
from offramp.gateway.slots import Slot
from offramp.gateway.stored import stored_result
from offramp.gateway.streams import DEMOTED, EventStream, unless_gone
from offramp.gateway.submission import Asked, read_submission
from offramp.paths.submission import Accepted
from offramp.ports.listing import RunFilter

LOOKS_PER_TIMEOUT = 4
"""How often in a `write_timeout` a request that waits for a run's end looks whether that cannot be written."""
LIMIT_DEFAULT = 20
LIMIT_MAX = 100
FILTER_LENGTH_MAX = 200
STATUSES: tuple[str, ...] = get_args(Status)


async def submit(call: Call) -> Answer:
    """`POST /v1/pipelines/{name}/runs`: a stream, or JSON as far as the client waits for it."""
    service = call.service
    name: str = call.connection.path_params["name"]
    if name not in service.pipelines:
        raise UnknownPipeline(f"no pipeline {name[:60]!r}; {did_you_mean(name, service.pipelines)}")
    asked = await read_submission(call, name)
    after = position(call.connection.headers.get("last-event-id"), None)
    if not asked.preference.at_once and wants_stream(call.connection.headers.getlist("accept")):
        return await _stream(call, asked, after)
    accepted = await _submitted(call, asked)
    if asked.preference.at_once:
        if not accepted.attached:  # nothing has happened to it yet that the client would have to know
            return _described(202, document(accepted.record, [], call.prefix), asked.preference)
        return await _document(call, 202, accepted.record.id, asked.preference)
    return await _wait(call, asked, accepted)


async def _submitted(call: Call, asked: Asked) -> Accepted:
    accepted = await call.service.submit(asked.submission)
    if call.trace is not None:
        call.trace.accepted(accepted.record, attached=accepted.attached)
    return accepted


async def _stream(call: Call, asked: Asked, after: int) -> EventStream:
    slot = call.open_stream()  # before the run: what is refused starts nothing
    try:
        return _streamed(call, asked, await _submitted(call, asked), after, slot)
    except BaseException:
        slot.release()
        raise


def _streamed(call: Call, asked: Asked, accepted: Accepted, after: int, slot: Slot) -> EventStream:
    # The run's id comes with its first event and not in a header: until then other processes do not know the run.
    headers: Headers = []
    applied = asked.preference.applied(EventStream.status)
    if applied:
        headers.append((b"preference-applied", applied.encode("latin-1")))
    return EventStream(
        call,
        accepted.record.id,
        # A reader that sends its request again with the same Idempotency-Key goes on where it was.
        after if accepted.attached else 0,
        until_demoted=not asked.follow,
        started_run=not accepted.attached,
        headers=headers,
        slot=slot,
    )


async def _wait(call: Call, asked: Asked, accepted: Accepted) -> Reply:
    """The run document once the run is finished or on the deep path; the service keeps the budget."""
    record = accepted.record
    finished = record.finished
    if record.path == "fast" and not finished:
        try:
            finished = await unless_gone(_finishes_fast(call, record.id), call.receive)
        except ClientGone:
            if not accepted.attached:
                call.service.disconnected(record.id)
            raise
    return await _document(call, 200 if finished else 202, record.id, asked.preference)


async def _finishes_fast(call: Call, run_id: str) -> bool:
    """True at the terminal event, False at the demotion, or when this process stops.

    Raises:
        StoreTimeout: one of these came to be, but is not written in time, so nothing can be said of it.
    """
    timeout_s = call.service.settings.write_timeout
    look_every_s = timeout_s / LOOKS_PER_TIMEOUT
    async with aclosing(call.service.follow(run_id, 0, look_every_s)) as batches:
        async for frames in batches:
            if not frames and call.service.unwritten_s(run_id) + look_every_s > timeout_s:
                raise StoreTimeout(
                    f"{run_id} was accepted, and the store does not take what became of it within {timeout_s:g} s "
                    f"(OFFRAMP_WRITE_TIMEOUT): ask for {links(run_id, call.prefix)['self']} later"
                )
            for frame in frames:
                kind = frame.type
                if kind == DEMOTED or kind in TERMINAL:
                    return kind != DEMOTED
    return False


async def _document(call: Call, status: int, run_id: str, preference: Preference) -> Reply:
    """The run document; with 202 where and when to look again."""
    return _described(status, await call.service.document(run_id, call.tenant, call.prefix), preference)


def _described(status: int, shown: dict[str, Any], preference: Preference) -> Reply:
    where = shown["links"]["self"]
    headers = {"Vary": "Prefer"}
    headers |= {"Location": where, "Retry-After": str(RETRY_AFTER_S)} if status == 202 else {"Content-Location": where}
    applied = preference.applied(status)
    if applied:
        headers["Preference-Applied"] = applied
    return json_reply(status, shown, headers)


def _path(call: Call, record: RunRecord) -> str:
    return links(record.id, call.prefix)["self"]


async def show(call: Call) -> Reply:
    """`GET /v1/runs/{run_id}`: the run document."""
    return json_reply(200, await call.service.document(call.run_id, call.tenant, call.prefix))


async def result(call: Call) -> Answer:
    """`GET /v1/runs/{run_id}/result`: the bare result, once there is one."""
    record = await call.service.get(call.run_id, call.tenant)
    where = _path(call, record)
    if record.purged:
        raise RunGone(f"the result of {record.id} was removed when its retention ended")
    if record.status == "expired":
        raise RunGone(f"{record.id} reached its deadline before it had a result; its document is at {where}")
    if record.status in {"failed", "cancelled"}:
        error = None if record.error is None else record.error.public()
        detail = f"{record.id} has no result, it is {record.status}; its document is at {where}"
        raise NoResult(detail, error)
    reference = reference_in(record.result)
    if reference is not None:
        return await stored_result(call, record, reference)
    if record.status == "completed":
        return Reply(200, b"null" if record.result is None else record.result)
    return await _document(call, 202, record.id, Preference())


async def cancel(call: Call) -> Reply:
    """`POST /v1/runs/{run_id}/cancel`: ask for it; the run ends `cancelled` at its next await."""
    return await accepted(call, await call.service.cancel(call.run_id, call.tenant))


async def accepted(call: Call, record: RunRecord) -> Reply:
    """202 with the document of a run that something was asked of."""
    shown = await call.service.document(record.id, call.tenant, call.prefix)
    return json_reply(202, shown, {"Location": _path(call, record), "Retry-After": str(RETRY_AFTER_S)})


async def listing(call: Call) -> Reply:
    """`GET /v1/runs`: a page of run documents, newest first."""
    query = call.query("session_id", "status", "pipeline", "limit", "after")
    page, after = await call.service.list(_filter(call.tenant, query), call.prefix)
    return json_reply(200, {"runs": page, "has_more": after is not None, "after": after})


def _filter(tenant: str, query: Mapping[str, str]) -> RunFilter:
    for name in ("session_id", "pipeline"):
        if len(query.get(name, "")) > FILTER_LENGTH_MAX:
            raise _refused(name, f"at most {FILTER_LENGTH_MAX} characters")
    status = query.get("status")
    if status is not None and status not in STATUSES:
        raise _refused("status", f"one of {', '.join(STATUSES)}; {did_you_mean(status, STATUSES)}")
    after = query.get("after")
    if after is not None and not is_run_id(after):
        raise _refused("after", "the `after` of the page before")
    return RunFilter(
        tenant=tenant,
        session_id=query.get("session_id"),
        status=cast("Status | None", status),
        pipeline=query.get("pipeline"),
        after=after,
        limit=_limit(query.get("limit")),
    )


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= LIMIT_MAX):
        raise _refused("limit", f"a whole number from 1 to {LIMIT_MAX}, got {text[:20]!r}")
    return int(text)


def _refused(name: str, message: str) -> InputError:
    return InputError(f"{name} is {message}", [(query_pointer(name), message)])
