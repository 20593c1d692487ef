"""The queue in memory: the lines of tenants that wait, and what one claim leaves to the next."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from offramp.core.claims import Head, QueuedLine, Suspicion, choose
from offramp.core.order import SPARE, Heap
from offramp.core.patience import overdue
from offramp.core.run import RunRecord
from offramp.core.sla import SLA


class _Level:
    """The lines of one pipeline and priority."""

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], list[str]] = {}
        """The runs of each line, by class and tenant."""
        self.tags: dict[str, float] = {}
        """Of the tenants that wait, and of others that were given more than these."""
        self._waiting: Counter[str] = Counter()
        """Tenants that wait, with the number of their lines."""
        self._room = 0
        self._tagged: Heap[tuple[float, str]] = Heap(
            lambda item: item[1] in self._waiting and self.tags[item[1]] == item[0]
        )

    def add(self, record: RunRecord, greatest: float) -> None:
        """A run waits; `greatest` is the tag of its line if no other waits, see `QueuedLine`."""
        line = record.sla, record.tenant
        ids = self.ids.get(line)
        if ids is None:
            least = self._tagged.first()
            start = greatest if least is None else least[0]
            ids = self.ids[line] = []
            self._waiting[record.tenant] += 1
            self._tag(record.tenant, max(start, self.tags.get(record.tenant, 0.0)))
        insort(ids, record.id)

    def remove(self, record: RunRecord) -> None:
        """It waits no longer; nothing happens if it did not."""
        line = record.sla, record.tenant
        ids = self.ids.get(line, [])
        at = bisect_left(ids, record.id)
        if ids[at : at + 1] != [record.id]:
            return
        del ids[at]
        if not ids:
            del self.ids[line]
            self._waiting[record.tenant] -= 1
            if not self._waiting[record.tenant]:
                del self._waiting[record.tenant]
            self._forget()

    def charge(self, tenant: str, tag: float) -> None:
        """A tenant was given runs."""
        if tenant in self.tags:
            self._tag(tenant, tag)

    def _tag(self, tenant: str, tag: float) -> None:
        self.tags[tenant] = tag
        if tenant in self._waiting:
            self._tagged.push((tag, tenant))

    def _forget(self) -> None:
        """Drop the tags that decide nothing, once there are many."""
        if len(self.tags) > max(2 * len(self._waiting) + SPARE, self._room):
            first = self._tagged.first()
            least = math.inf if first is None else first[0]
            self.tags = {name: tag for name, tag in self.tags.items() if tag > least or name in self._waiting}
            self._room = 2 * len(self.tags)


class MemoryQueue:
    """The queued runs."""

    def __init__(self) -> None:
        self._levels: defaultdict[tuple[str, int], _Level] = defaultdict(_Level)
        """By pipeline and priority."""
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
        self._levels[record.pipeline, record.priority].add(record, self._greatest.get(record.priority, 0.0))

    def leaves(self, record: RunRecord) -> None:
        """It no longer is."""
        if self._died.pop(record.id, None) is not None:
            del self._pipelines[record.id]
        else:
            self._levels[record.pipeline, record.priority].remove(record)

    def chosen(
        self,
        held: Iterable[Suspicion],
        limit: int,
        pipelines: Sequence[str],
        classes: Mapping[str, SLA],
        now: float,
    ) -> list[str]:
        """The runs that an owner takes now; their tenants are charged."""
        levels = [(*place, level) for place, level in self._levels.items() if place[0] in pipelines]
        lines = [
            QueuedLine(pipeline, priority, sla, tenant, level.tags[tenant], ids[0], len(ids))
            for pipeline, priority, level in levels
            for (sla, tenant), ids in level.ids.items()
        ]
        died = [head for head in self._died.values() if self._pipelines[head.id] in pipelines]
        since: dict[str, str] = {}
        for sla, oldest in [(line.sla, line.oldest) for line in lines] + [(head.sla, head.id) for head in died]:
            since[sla] = min(since.get(sla, oldest), oldest)

        def more(line: QueuedLine, after: str) -> list[str]:
            ids = self._levels[line[:2]].ids[line[2:4]]
            first = bisect_right(ids, after)
            return ids[first : first + limit]

        late = overdue(since, classes, now)
        ids, tags = choose(lines, died, held, limit, more=more, classes=classes, overdue=late, earned=self._earned)
        for (priority, tenant), tag in tags.items():
            self._greatest[priority] = max(tag, self._greatest.get(priority, tag))
            for _, at, level in levels:
                if at == priority:
                    level.charge(tenant, tag)
        return ids
