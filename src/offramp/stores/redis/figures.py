"""Statistics on Redis: what an operator looks at beside single runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from offramp.core.run import OUTCOMES, RunHead
from offramp.core.stats import KEPT_MINUTES, Cell
from offramp.stores.redis.operations import wire
from offramp.stores.redis.scripts import HEADS

HEADS_MAX = 500
"""Runs that one call of the script looks at; it blocks the server meanwhile."""
SLACK_S = 3_600
"""Seconds for which cells outlive the windows that they are read for."""


def added_cells(cells: Sequence[Cell]) -> bytes:
    """The operation that adds to the counts of cells: a hash for each number and tenant, which expires."""
    flat = [
        (
            f"{cell.width}:{cell.number}:{cell.tenant}",
            KEPT_MINUTES[cell.width] * 60 + cell.width * 60 + SLACK_S,
            f"{cell.pipeline}\0{cell.sla}\0",
            dict(cell.counts),
        )
        for cell in cells
    ]
    return wire("cells", flat)


def summed_cells(
    client: Any, tag: str, width: int, first: int, last: int, tenant: str
) -> dict[tuple[str, str], dict[str, int]]:
    """The sums of a tenant's cells, by pipeline and class."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(first, last + 1):
            pipe.hgetall(f"{tag}cells:{width}:{number}:{tenant}")
        parts = pipe.execute()
    found: dict[tuple[str, str], dict[str, int]] = {}
    for part in parts:
        for field, count in part.items():
            pipeline, sla, name = field.decode().split("\0")
            counts = found.setdefault((pipeline, sla), {})
            counts[name] = counts.get(name, 0) + int(count)
    return found


def unfinished(client: Any, tag: str, limit: int) -> list[RunHead]:
    """Runs that have not ended, from the keys of their states."""
    ids: dict[bytes, None] = {}
    for run_id in _unfinished_ids(client, tag):
        if len(ids) >= limit:
            break
        ids[run_id] = None
    return [head for head in heads(client, tag, list(ids)) if head.status not in OUTCOMES]


def _unfinished_ids(client: Any, tag: str) -> Iterator[bytes]:
    yield from client.sscan_iter(f"{tag}queued", count=HEADS_MAX)
    for owner in client.hkeys(f"{tag}owners"):
        yield from client.smembers(f"{tag}o:{owner.decode()}")
    yield from client.sscan_iter(f"{tag}assigned", count=HEADS_MAX)
    for run_id, _ in client.zscan_iter(f"{tag}parked", count=HEADS_MAX):
        yield run_id


def ids_after(client: Any, tag: str, run_id: str, limit: int) -> list[str]:
    """The ids of runs above a text, in order."""
    return [found.decode() for found in client.zrange(f"{tag}ix", f"({run_id}", "+", bylex=True, offset=0, num=limit)]


def heads(client: Any, tag: str, ids: Sequence[str | bytes]) -> list[RunHead]:
    """The heads of these runs, without unknown ones."""
    found = []
    for start in range(0, len(ids), HEADS_MAX):
        found += [_head(*row) for row in HEADS(client, [tag], tag, *ids[start : start + HEADS_MAX])]
    return found


def _head(*row: Any) -> RunHead:
    tenant, pipeline, session, status, path, finished, sla, seq, run_id, demoted = row
    return RunHead(
        run_id.decode(),
        tenant.decode(),
        pipeline.decode(),
        sla.decode(),
        None if session is None else session.decode(),
        status.decode(),
        path.decode(),
        None if finished is None else float(finished),
        seq,
        bool(demoted),
    )
