"""The statements of a listing: each scans a bounded number of rows in a range of one index."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from offramp.core.run import RunRecord
from offramp.ports.listing import Page, RunFilter
from offramp.stores.sqlite.rows import LISTED_COLUMNS, decode_record

LIST_LOOKS_MAX = 1_000
"""Index rows that one page with several filters scans for matches."""
_PAST_ALL = "s"
"""Greater than any run's id."""


class _Range(NamedTuple):
    """An index, the columns that it searches by, and those to compare row by row."""

    source: str
    found_by: tuple[str, ...]
    left: tuple[str, ...]


def page(connection: sqlite3.Connection, wanted: RunFilter) -> Page:
    """Matching records, newest first, as far as one page scans."""
    values = _values(wanted)
    source, found_by, left = _range(values)
    among = f"FROM runs {source} WHERE {' AND '.join([f'{name} = :{name}' for name in found_by] + ['id < :after'])}"
    values |= {"after": wanted.after or _PAST_ALL, "limit": wanted.limit + 1}
    last, within = None, ""
    if left:
        # The end of the scan; the index alone gives it.
        query = f"SELECT id {among} ORDER BY id DESC LIMIT 1 OFFSET {LIST_LOOKS_MAX - 1}"
        row = connection.execute(query, values).fetchone()
        last = None if row is None else row[0]
        values |= {"last": last or ""}
        within = "".join([" AND id >= :last", *(f" AND {name} = :{name}" for name in left)])
    query = f"SELECT {LISTED_COLUMNS} {among}{within} ORDER BY id DESC LIMIT :limit"
    found: list[RunRecord] = [decode_record(row) for row in connection.execute(query, values)]
    if len(found) > wanted.limit:
        return Page(found[: wanted.limit], found[wanted.limit - 1].id)
    return Page(found, last)


def _values(wanted: RunFilter) -> dict[str, Any]:
    asked = {name: getattr(wanted, name) for name in ("tenant", "session_id", "status", "pipeline")}
    return {name: value for name, value in asked.items() if value is not None}


def _range(values: dict[str, Any]) -> _Range:
    """The index that most likely has the fewest rows that do not match."""
    rest = [name for name in values if name != "tenant"]
    if "tenant" not in values:
        return _Range("", (), tuple(rest))
    if "session_id" in values:
        index, column = "runs_of_session", "session_id"
    elif "status" in values and not ("pipeline" in values and values["status"] == "completed"):
        index, column = "runs_of_status", "status"
    elif "pipeline" in values:
        index, column = "runs_of_pipeline", "pipeline"
    else:
        return _Range("INDEXED BY runs_of_tenant", ("tenant",), ())
    return _Range(f"INDEXED BY {index}", ("tenant", column), tuple(name for name in rest if name != column))
