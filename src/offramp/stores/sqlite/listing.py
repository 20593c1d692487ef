"""The statements of a listing: each scans a bounded number of rows in a range of one index."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from offramp.core.run import RunRecord
from offramp.ports.listing import Page, RunFilter
from offramp.stores.sqlite.rows import LISTED_COLUMNS, class_in, decode_record, searched_in

LIST_LOOKS_MAX = 1_000
"""Index rows that one page with several filters scans for matches."""
# Rows of before there was a column have no class in it.
_IS_OF = {
    "sla": "coalesce(class, class_in(record)) = :sla",
    "part": (
        "instr(lower(id || char(10) || coalesce(session_id, '') || char(10) || "
        "iif(class IS NULL, searched_in(record), coalesce(searched, ''))), :part)"
    ),
}
"""How to compare what is no plain column."""


class _Range(NamedTuple):
    """An index, the columns that it searches by, and those to compare row by row."""

    source: str
    found_by: tuple[str, ...]
    left: tuple[str, ...]


def prepare(connection: sqlite3.Connection) -> None:
    """Let the connection compare rows of earlier versions."""
    connection.create_function("class_in", 1, class_in, deterministic=True)
    connection.create_function("searched_in", 1, searched_in, deterministic=True)


def page(connection: sqlite3.Connection, wanted: RunFilter) -> Page:
    """Matching records, in the order asked for, as far as one page scans."""
    values = _values(wanted)
    source, found_by, left = _range(values, waiting=wanted.waiting)
    order = "DESC" if wanted.newest_first else "ASC"
    equal = "".join([f"{name} = :{name} AND " for name in found_by])
    waits = " AND waits > 0" if wanted.waiting else ""
    among = f"FROM runs {source} WHERE {equal}id >= :low AND id < :high{waits}"
    values["low"], values["high"] = wanted.ids
    values["limit"] = wanted.limit + 1
    last, within = None, ""
    if left:
        # The end of the scan; the index alone gives it.
        query = f"SELECT id {among} ORDER BY id {order} LIMIT 1 OFFSET {LIST_LOOKS_MAX - 1}"
        row = connection.execute(query, values).fetchone()
        if row is not None:
            # Not a third condition: SQLite searches an index by two, and compares the rest row by row.
            last = row[0]
            values |= {"low": last} if wanted.newest_first else {"high": last + "\0"}
        within = "".join([f" AND {_IS_OF.get(name, f'{name} = :{name}')}" for name in left])
    query = f"SELECT {LISTED_COLUMNS} {among}{within} ORDER BY id {order} LIMIT :limit"
    found: list[RunRecord] = [decode_record(row) for row in connection.execute(query, values)]
    if len(found) > wanted.limit:
        return Page(found[: wanted.limit], found[wanted.limit - 1].id)
    return Page(found, last)


def _values(wanted: RunFilter) -> dict[str, Any]:
    names = ("tenant", "session_id", "status", "pipeline", "path", "sla", "part")
    asked = {name: getattr(wanted, name) for name in names}
    return {name: value for name, value in asked.items() if value is not None}


def _range(values: dict[str, Any], *, waiting: bool) -> _Range:
    """The index that most likely has the fewest rows that do not match."""
    rest = [name for name in values if name != "tenant"]
    if waiting and "tenant" in values:
        return _Range("INDEXED BY runs_waiting", ("tenant",), tuple(rest))
    if "tenant" not in values:
        return _Range("", (), tuple(rest))
    if "session_id" in values:
        index, column = "runs_of_session", "session_id"
    elif "status" in values and not ("pipeline" in values and values["status"] == "completed"):
        index, column = "runs_of_status", "status"
    elif "pipeline" in values:
        index, column = "runs_of_pipeline", "pipeline"
    else:
        return _Range("INDEXED BY runs_of_tenant", ("tenant",), tuple(rest))
    return _Range(f"INDEXED BY {index}", ("tenant", column), tuple(name for name in rest if name != column))
