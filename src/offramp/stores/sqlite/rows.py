"""Rows to records and back: columns hold the parts of a run that queries use, one encoded value holds the rest."""

from __future__ import annotations

from typing import Any

import msgspec

from offramp.core.events import RESULT_INLINE_BYTES_MAX
from offramp.core.failure import Failure
from offramp.core.ownership import Ownership
from offramp.core.run import Demotion, Route, RunRecord, Seen, Webhook

ENCODE = msgspec.msgpack.Encoder().encode

_COLUMNS = "id, status, path, started_at, finished_at, cancel_requested, purged, record, demotion, error, token, "
_DEATHS = ", deaths, deaths_alone, deaths_silent, company, left_by, waits"
RECORD_COLUMNS = _COLUMNS + "result" + _DEATHS
OWNED_COLUMNS = RECORD_COLUMNS + ", owner, parked_until, unheard, deadline_at"
"""A record, and the other facts that the table of ownership decides on, in one read."""
TAIL_COLUMNS = (
    "(SELECT coalesce(max(position), -1) + 1 FROM journal WHERE run_id = runs.id), "
    "(SELECT coalesce(max(last), 0) + 1 FROM events WHERE run_id = runs.id)"
)
"""The ends of a run's journal and event log."""
LISTED_COLUMNS = _COLUMNS + f"CASE WHEN length(result) <= {RESULT_INLINE_BYTES_MAX} THEN result END" + _DEATHS
"""The same without large results: a page must not grow with them."""


class _Kept(msgspec.Struct, array_like=True):
    """The part that only a retry changes. Stored by position: new fields go to the end, with a default."""

    pipeline: str
    version: str
    sla: str
    route: Route
    created_at: float
    input: bytes
    budget_s: float
    priority: int
    session_id: str | None
    metadata: dict[str, str]
    tenant: str
    trace: dict[str, str]
    deadline_at: float | None
    retention_s: float
    webhook: Webhook | None
    mount: str = ""
    retry_of: str | None = None
    retried_as: list[str] = []
    keys_of: str | None = None
    seen: Seen | None = None
    api_key: str | None = None


_decode_kept = msgspec.msgpack.Decoder(_Kept).decode
_decode_demotion = msgspec.msgpack.Decoder(Demotion).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode


def encode_record(record: RunRecord) -> bytes:
    """The unchanging part."""
    return ENCODE(_Kept(*[getattr(record, name) for name in _Kept.__struct_fields__]))


def deadline_in(encoded: bytes) -> float | None:
    """The deadline, in epoch seconds, of the unchanging part."""
    return _decode_kept(encoded).deadline_at


def class_in(encoded: bytes) -> str:
    """The class of the unchanging part."""
    return _decode_kept(encoded).sla


def searched_in(encoded: bytes) -> str:
    """What a search looks through in the unchanging part."""
    return searched(_decode_kept(encoded).metadata) or ""


def searched(metadata: dict[str, str]) -> str | None:
    """The values of a run's metadata, one a line; None without any."""
    return "\n".join(metadata.values()) if metadata else None


def with_retry(encoded: bytes, by: str) -> bytes:
    """The same part of a run that another one retries."""
    kept = _decode_kept(encoded)
    return ENCODE(msgspec.structs.replace(kept, retried_as=[*kept.retried_as, by]))


def without_data(encoded: bytes) -> bytes:
    """The unchanging part after the run's data is removed."""
    kept = _decode_kept(encoded)
    route = kept.route.without_data()
    return ENCODE(msgspec.structs.replace(kept, input=b"{}", webhook=None, seen=None, route=route))


def demotion_without_data(encoded: bytes | None) -> bytes | None:
    """A run's demotion after its data is removed."""
    return None if encoded is None else ENCODE(_decode_demotion(encoded).without_data())


def ownership_in(row: tuple[Any, ...]) -> Ownership:
    """The facts that decide about a run's moves, from `OWNED_COLUMNS`."""
    return Ownership(row[1], row[18], row[10], row[2], row[3], row[19], bool(row[5]), row[16], row[20], row[21])


def decode_record(row: tuple[Any, ...]) -> RunRecord:
    """A record from columns that begin with `RECORD_COLUMNS` or `LISTED_COLUMNS`."""
    kept = _decode_kept(row[7])
    return RunRecord(
        id=row[0],
        status=row[1],
        path=row[2],
        started_at=row[3],
        finished_at=row[4],
        cancel_requested=bool(row[5]),
        purged=bool(row[6]),
        demotion=None if row[8] is None else _decode_demotion(row[8]),
        error=None if row[9] is None else _decode_failure(row[9]),
        result=row[11],
        deaths=row[12],
        deaths_alone=row[13],
        deaths_silent=row[14],
        company=row[15],
        left_by=row[16],
        waits=row[17],
        **msgspec.structs.asdict(kept),
    )
