"""The queue in memory: the lines of tenants that wait, and what one claim leaves to the next."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence

from offramp.core.claims import Head, QueuedLine, Suspicion, choose
from offramp.core.patience import overdue
from offramp.core.run import RunRecord
from offramp.core.sla import SLA

Place = tuple[str, int, str, str]
"""Pipeline, priority, class and tenant."""


def _place(record: RunRecord) -> Place:
    return record.pipeline, record.priority, record.sla, record.tenant


class MemoryQueue:
    """The queued runs."""

    def __init__(self) -> None:
        self._ids: dict[Place, list[str]] = {}
        self._tags: dict[Place, float] = {}
        self._greatest: dict[int, float] = {}
        self._earned: dict[str, float] = {}
        self._died: dict[str, Head] = {}
        self._pipelines: dict[str, str] = {}
        """Of the runs with deaths."""

    def comes(self, record: RunRecord) -> None:
        """A run is queued."""
        if record.deaths:
            of = record.id, record.sla, record.tenant, record.priority
            self._died[record.id] = Head(*of, suspicion=record.suspicion)
            self._pipelines[record.id] = record.pipeline
            return
        place = _place(record)
        ids = self._ids.setdefault(place, [])
        if not ids:
            self._tags[place] = self._tag(place)
        insort(ids, record.id)

    def leaves(self, record: RunRecord) -> None:
        """It no longer is."""
        if self._died.pop(record.id, None) is not None:
            del self._pipelines[record.id]
        elif record.id in (ids := self._ids.get(_place(record), [])):
            ids.remove(record.id)

    def _tag(self, place: Place) -> float:
        """Of a line that gets its first run, see `QueuedLine`."""
        pipeline, priority, _, tenant = place
        own = [tag for at, tag in self._tags.items() if (*at[:2], at[3]) == (pipeline, priority, tenant)]
        others = [self._tags[at] for at, ids in self._ids.items() if ids and at[:2] == (pipeline, priority)]
        return max(min(others, default=self._greatest.get(priority, 0.0)), *own, 0.0)

    def chosen(
        self,
        held: Iterable[Suspicion],
        limit: int,
        pipelines: Sequence[str],
        classes: Mapping[str, SLA],
        now: float,
    ) -> list[str]:
        """The runs that an owner takes now; their tenants are charged."""
        lines = [
            QueuedLine(*place, self._tags[place], ids[0], len(ids))
            for place, ids in self._ids.items()
            if ids and place[0] in pipelines
        ]
        died = [head for head in self._died.values() if self._pipelines[head.id] in pipelines]
        since: dict[str, str] = {}
        for sla, oldest in [(line.sla, line.oldest) for line in lines] + [(head.sla, head.id) for head in died]:
            since[sla] = min(since.get(sla, oldest), oldest)

        def more(line: QueuedLine, after: str) -> list[str]:
            ids = self._ids[line[:4]]
            return ids[bisect_right(ids, after) :][:limit]

        late = overdue(since, classes, now)
        ids, tags = choose(lines, died, held, limit, more=more, classes=classes, overdue=late, earned=self._earned)
        for (priority, tenant), tag in tags.items():
            self._greatest[priority] = max(tag, self._greatest.get(priority, tag))
            for place in self._tags:
                if place[1] == priority and place[3] == tenant and place[0] in pipelines:
                    self._tags[place] = tag
        return ids
