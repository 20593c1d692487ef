"""Which queued runs an owner may take of the memory store: urgent ones first, suspected ones alone (Q3, Q16)."""

from __future__ import annotations

from collections.abc import Iterable

from offramp.core.run import RunRecord
from offramp.ports.store import SUSPECT_DEATHS


def due(queued: Iterable[RunRecord], held: Iterable[RunRecord], limit: int) -> list[str]:
    """The ids of the runs to take, in order.

    Args:
        queued: runs of pipelines that the owner executes.
        held: what it has already.
        limit: how many it may take.
    """
    order = sorted(queued, key=lambda record: (-record.priority, record.id))
    worst = max((record.deaths for record in held), default=0)
    most = 0 if worst >= SUSPECT_DEATHS else SUSPECT_DEATHS - 1
    taken = [record for record in order if record.deaths <= most][:limit]
    if worst == 0 and not any(record.deaths for record in taken):
        suspected = [record for record in order if record.deaths >= SUSPECT_DEATHS]
        taken = sorted([*taken, *suspected[:1]], key=order.index)[:limit]
    return [record.id for record in taken]
