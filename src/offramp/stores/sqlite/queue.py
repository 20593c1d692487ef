"""The queue as a claim sees it: its first lines, the runs with deaths, and what one claim leaves to the next."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal

import msgspec

from offramp.core.claims import CLASSES_SPARE, HEADS_MAX, SUSPECT_DEATHS, Head, QueuedLine, Suspicion, choose
from offramp.core.patience import overdue
from offramp.core.sla import SLA

LINES_MAX = 2_000
"""Lines that one claim reads, of all classes and of each."""

_LINE = "json_array(pipeline, priority, class, tenant, tag, oldest, runs)"
PIPELINES_MAX = 200
"""Pipelines that one statement looks at: SQLite joins no more than 500 queries."""
# The indexes begin with the pipeline: the database merges the beginnings of their ranges.
_FIRST = "SELECT json_group_array(json(line)) FROM ({queries} ORDER BY {order} LIMIT ?)"
_LINES = (
    f"SELECT {_LINE} AS line, priority, tag, oldest FROM lines INDEXED BY lines_next WHERE runs > 0 AND pipeline = ?"  # noqa: S608
)
_OF_CLASS = (
    f"SELECT {_LINE} AS line, oldest FROM lines INDEXED BY lines_of_class "  # noqa: S608
    "WHERE runs > 0 AND pipeline = ? AND class = ?"
)
_MORE = (
    "SELECT json_group_array(id) FROM (SELECT id FROM runs INDEXED BY runs_queued WHERE status = 'queued' "
    "AND pipeline = ? AND priority = ? AND class = ? AND tenant = ? AND deaths = 0 AND id > ? ORDER BY id LIMIT ?)"
)
_SUSPICION = "deaths, deaths_alone, deaths_silent, company"
_HELD = f"SELECT {_SUSPICION} FROM runs INDEXED BY runs_died WHERE owner = ? AND deaths > 0"  # noqa: S608
_DIED = (
    f"SELECT id, class, tenant, priority, {_SUSPICION} FROM runs INDEXED BY {{index}} WHERE status = 'queued' "  # noqa: S608
    "AND {which} AND pipeline IN ({marks}) ORDER BY priority DESC, id LIMIT ?"
)
_CHARGE = "UPDATE lines SET tag = ? WHERE priority = ? AND tenant = ? AND pipeline IN ({marks})"
_CHARGED = "INSERT INTO levels VALUES (?, ?) ON CONFLICT (priority) DO UPDATE SET tag = max(tag, excluded.tag)"
_CREDIT = "INSERT INTO credits VALUES (?, ?) ON CONFLICT (class) DO UPDATE SET credit = excluded.credit"
_WAIT = (
    "SELECT 1 FROM lines INDEXED BY lines_next WHERE runs > 0 AND pipeline IN ({marks}) "
    "UNION ALL SELECT 1 FROM runs INDEXED BY runs_died_once WHERE status = 'queued' AND deaths = 1 "
    "AND pipeline IN ({marks}) "
    "UNION ALL SELECT 1 FROM runs INDEXED BY runs_suspected WHERE status = 'queued' AND deaths > 1 "
    "AND pipeline IN ({marks}) UNION ALL SELECT 1 FROM runs WHERE parked_until <= ? LIMIT 1"
)
_COUNTED = (
    "SELECT json_group_array(json_array({column}, runs)) FROM ("
    "SELECT {column}, runs FROM lines INDEXED BY lines_next WHERE runs > 0 UNION ALL "
    "SELECT {column}, 1 FROM runs INDEXED BY runs_died_once WHERE status = 'queued' AND deaths = 1 UNION ALL "
    "SELECT {column}, 1 FROM runs INDEXED BY runs_suspected WHERE status = 'queued' AND deaths > 1)"
)
_IDLE = (
    "runs = 0 AND tag <= coalesce((SELECT min(waiting.tag) FROM lines AS waiting INDEXED BY lines_next "
    "WHERE waiting.runs > 0 AND waiting.pipeline = lines.pipeline AND waiting.priority = lines.priority), tag)"
)
ANY_IDLE = f"SELECT 1 FROM lines WHERE {_IDLE} LIMIT 1"  # noqa: S608
FORGET_IDLE = (
    "DELETE FROM lines WHERE (pipeline, priority, tenant, class) IN "  # noqa: S608
    f"(SELECT pipeline, priority, tenant, class FROM lines WHERE {_IDLE} LIMIT :count)"
)
"""Of a line without runs, a tag that no waiting tenant's is below decides nothing."""
assert SUSPECT_DEATHS == 2  # noqa: S101 - an index says so, too

_decode_lines = msgspec.json.Decoder(list[QueuedLine]).decode
_decode_counts = msgspec.json.Decoder(list[tuple[str, int]]).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode


def may_claim(connection: sqlite3.Connection, pipelines: Sequence[str], now: float) -> bool:
    """Whether a run of these pipelines may be there to claim."""
    query = _WAIT.format(marks=_marks(pipelines))
    return connection.execute(query, (*pipelines, *pipelines, *pipelines, now)).fetchone() is not None


def counted(connection: sqlite3.Connection, column: Literal["tenant", "class"]) -> dict[str, int]:
    """How many runs of each tenant, or of each class, are queued."""
    counts: Counter[str] = Counter()
    for name, runs in _decode_counts(connection.execute(_COUNTED.format(column=column)).fetchone()[0]):
        counts[name] += runs
    return dict(counts)


def chosen(
    connection: sqlite3.Connection,
    owner: str,
    limit: int,
    pipelines: Sequence[str],
    classes: Mapping[str, SLA],
    now: float,
) -> list[str]:
    """The runs that an owner takes now (Q3, Q16, Q19); their tenants are charged."""
    marks = _marks(pipelines)
    # A tenant may have a line in every pipeline and class.
    most = min((limit + 1) * len(pipelines) * (len(classes) + CLASSES_SPARE), LINES_MAX)
    lines = _first(connection, _LINES, "priority DESC, tag, oldest", [(pipeline,) for pipeline in pipelines], most)
    died: list[Head] = []
    for index, which in (("runs_died_once", "deaths = 1"), ("runs_suspected", "deaths > 1")):
        query = _DIED.format(index=index, which=which, marks=marks)
        rows = connection.execute(query, (*pipelines, HEADS_MAX))
        died += [Head(*row[:4], suspicion=Suspicion(*row[4:])) for row in rows]  # type: ignore[misc]
    found = {line.sla for line in lines} | {head.sla for head in died}
    late: set[str] = set()
    earned: dict[str, float] = {}
    if len(found) > 1 or len(lines) >= most:
        lines, since = _with_oldest(connection, lines, found | set(classes), pipelines, limit)
        for head in died:
            since[head.sla] = min(since.get(head.sla, head.id), head.id)
        late = overdue(since, classes, now)
        earned = dict(connection.execute("SELECT class, credit FROM credits").fetchall()) if late else {}

    def more(line: QueuedLine, after: str) -> list[str]:
        of = line.pipeline, line.priority, line.sla, line.tenant
        return _decode_ids(connection.execute(_MORE, (*of, after, limit)).fetchone()[0])

    before = dict(earned)
    held = [Suspicion(*row) for row in connection.execute(_HELD, (owner,))] if died else []
    ids, tags = choose(lines, died, held, limit, more=more, classes=classes, overdue=late, earned=earned)
    if tags:
        charge = _CHARGE.format(marks=marks)
        connection.executemany(charge, [(tag, *level, *pipelines) for level, tag in tags.items()])
        greatest = {priority: tag for (priority, _), tag in sorted(tags.items(), key=lambda item: item[1])}
        connection.executemany(_CHARGED, list(greatest.items()))
    if earned != before:
        connection.executemany(_CREDIT, list(earned.items()))
    return ids


def _first(
    connection: sqlite3.Connection, query: str, order: str, of: Sequence[tuple[str, ...]], most: int
) -> list[QueuedLine]:
    """The first lines that a query finds for each of several pipelines together; so many of each `PIPELINES_MAX`."""
    lines: list[QueuedLine] = []
    for start in range(0, len(of), PIPELINES_MAX):
        part = of[start : start + PIPELINES_MAX]
        merged = _FIRST.format(queries=" UNION ALL ".join([query] * len(part)), order=order)
        lines += _decode_lines(connection.execute(merged, (*chain.from_iterable(part), most)).fetchone()[0])
    return lines


def _with_oldest(
    connection: sqlite3.Connection,
    lines: list[QueuedLine],
    classes: set[str],
    pipelines: Sequence[str],
    limit: int,
) -> tuple[list[QueuedLine], dict[str, str]]:
    """The lines, with the oldest ones of each class; the oldest run of each class."""
    known = {line[:4]: line for line in lines}
    since: dict[str, str] = {}
    for sla in sorted(classes):
        of_class = _first(connection, _OF_CLASS, "oldest", [(pipeline, sla) for pipeline in pipelines], limit + 1)
        known |= {line[:4]: line for line in of_class}
        if of_class:
            since[sla] = min(line.oldest for line in of_class)
    return list(known.values()), since


def _marks(pipelines: Sequence[str]) -> str:
    return ",".join("?" * len(pipelines))
