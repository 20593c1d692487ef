"""Records to a run's hash and back: scripts read fields of their own, the rest is one encoded value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from offramp.core.claims import LeftBy
from offramp.core.events import RESULT_INLINE_BYTES_MAX, TERMINAL
from offramp.core.failure import Failure
from offramp.core.run import Demotion, Outcome, Route, RunRecord, Seen, Webhook
from offramp.core.webhooks import target_of
from offramp.stores.redis.operations import raw

T = TypeVar("T")

ENCODE = msgspec.msgpack.Encoder().encode


SHOWN = (
    *("status", "path", "started", "finished", "cancel", "purged", "record", "input", "webhook", "demotion"),
    *("error", "result", "large", "deaths", "tenant", "session", "pipeline", "deadline", "retention", "priority"),
    *("deaths_alone", "deaths_silent", "company", "left_by", "retried", "waits", "seen", "id"),
)
"""The fields that `record.lua` returns, in its order."""


class _Kept(msgspec.Struct, array_like=True):
    """The part that never changes and no script reads. Stored by position: new fields go to the end, with a default."""

    version: str
    sla: str
    route: Route
    created_at: float
    budget_s: float
    metadata: dict[str, str]
    trace: dict[str, str]
    mount: str = ""
    retry_of: str | None = None
    keys_of: str | None = None
    api_key: str | None = None


_decode_kept = msgspec.msgpack.Decoder(_Kept).decode
_decode_demotion = msgspec.msgpack.Decoder(Demotion).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode
_decode_webhook = msgspec.msgpack.Decoder(Webhook).decode
_decode_seen = msgspec.msgpack.Decoder(Seen).decode


def made(record: RunRecord) -> dict[str, Any]:
    """The fields of a new run."""
    fields = {
        "status": record.status,
        "path": record.path,
        "tenant": record.tenant,
        "pipeline": record.pipeline,
        "session": record.session_id,
        "priority": record.priority,
        "deadline": record.deadline_at,
        "retention": record.retention_s,
        "started": record.started_at,
        "api_key": record.api_key,
        "record": raw(ENCODE(_Kept(*[getattr(record, name) for name in _Kept.__struct_fields__]))),
        "input": raw(record.input),
        "webhook": None if record.webhook is None else raw(ENCODE(record.webhook)),
        "seen": None if record.seen is None else raw(ENCODE(record.seen)),
    }
    return {name: value for name, value in fields.items() if value is not None}


def announced(record: RunRecord) -> dict[str, str] | None:
    """A new run's entry in the outbox."""
    if record.webhook is None:
        return None
    names = ",".join(sorted(TERMINAL | set(record.webhook.events)))
    return {"host": target_of(record.webhook.url).host, "announces": f",{names},"}


def ended(outcome: Outcome, at: float) -> tuple[dict[str, Any], msgspec.Raw | None]:
    """The fields of an outcome, and a result that is too large for a field."""
    fields: dict[str, Any] = {"status": outcome.status, "finished": at}
    if outcome.error is not None:
        fields["error"] = raw(ENCODE(outcome.error))
    if outcome.result is None:
        return fields, None
    if len(outcome.result) > RESULT_INLINE_BYTES_MAX:
        return fields, raw(outcome.result)
    return fields | {"result": raw(outcome.result)}, None


def decode_record(row: Sequence[Any]) -> RunRecord | None:
    """A record from the answer of `record.lua`; None if that is empty."""
    if not row:
        return None
    shown = dict(zip(SHOWN, row, strict=True))
    whole = _decode_kept(shown["record"])
    given, session = shown["input"], shown["session"]
    return RunRecord(
        id=shown["id"].decode(),
        status=shown["status"].decode(),
        path=shown["path"].decode(),
        started_at=_number(shown["started"]),
        finished_at=_number(shown["finished"]),
        cancel_requested=shown["cancel"] is not None,
        purged=shown["purged"] is not None,
        input=b"{}" if given is None else given,
        webhook=_decoded(_decode_webhook, shown["webhook"]),
        seen=_decoded(_decode_seen, shown["seen"]),
        demotion=_decoded(_decode_demotion, shown["demotion"]),
        error=_decoded(_decode_failure, shown["error"]),
        result=shown["result"],
        deaths=int(shown["deaths"] or 0),
        deaths_alone=int(shown["deaths_alone"] or 0),
        deaths_silent=int(shown["deaths_silent"] or 0),
        company=int(shown["company"] or 0),
        left_by=_decoded(_left_by, shown["left_by"]),
        waits=int(shown["waits"] or 0),
        retried_as=[] if shown["retried"] is None else shown["retried"].decode().split(),
        tenant=shown["tenant"].decode(),
        session_id=None if session is None else session.decode(),
        pipeline=shown["pipeline"].decode(),
        deadline_at=_number(shown["deadline"]),
        retention_s=float(shown["retention"]),
        priority=int(shown["priority"]),
        **{name: getattr(whole, name) for name in _Kept.__struct_fields__},
    )


def _decoded(decode: Callable[[bytes], T], encoded: bytes | None) -> T | None:
    return None if encoded is None else decode(encoded)


def _left_by(text: bytes) -> LeftBy:
    return cast("LeftBy", text.decode())


def _number(text: bytes | None) -> float | None:
    return None if text is None else float(text)
