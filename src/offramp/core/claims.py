"""Which queued runs a process takes: in the order of every queue, suspects in ever smaller groups. Pure decisions.

A store shows the first lines of its queue and takes the chosen runs, in one transaction; nothing else orders claims.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Literal, NamedTuple

from offramp.core.order import Line, Queue, Waiter
from offramp.core.sla import SLA

SUSPECT_DEATHS = 2
"""Consecutive deaths that make a run a suspect: each group of suspects is half the group that died together."""
HEADS_MAX = 500
"""Suspects that one claim looks at."""
CLASSES_SPARE = 1
"""Classes that a claim allows for beside those that its process knows."""
UNBOUNDED = 2**31 - 1
"""The `company` of a run that may be executed beside any number of others."""


LeftBy = Literal["exit", "wait", "death", "silence"]
"""How the last owner left a run: it stopped in order or gave the run back between two steps, parked it, died, or fell
silent for longer than its lease."""


class Suspicion(NamedTuple):
    """What is known of the processes that a run lost in a row, without finishing a step in between.

    Attributes:
        deaths: how many processes it lost.
        alone: how many of them executed no other run that may have been the cause.
        silent: how many of them fell silent for longer than their lease.
        company: how many runs with deaths, this one among them, may execute in its next process; 0 without deaths.
    """

    deaths: int = 0
    alone: int = 0
    silent: int = 0
    company: int = 0


NO_SUSPICION = Suspicion()


class Head(Waiter, frozen=True, gc=False):
    """A queued run with deaths."""

    suspicion: Suspicion = NO_SUSPICION


class QueuedLine(NamedTuple):
    """The queued runs without deaths of one tenant in one class of one pipeline, as a store keeps count of them.

    A line that gets its first run takes the smallest tag of the lines of its pipeline and priority that have runs; if
    there are none, the greatest tag that was given at its priority. If its own tenant has a greater one in that
    pipeline and priority, it takes that.

    Attributes:
        pipeline: of the runs.
        priority: of their class when they were accepted.
        sla: the class.
        tenant: the tenant.
        tag: of the tenant at this priority, see `core.order`.
        oldest: the run that was accepted first.
        runs: how many there are, at least 1.
    """

    pipeline: str
    priority: int
    sla: str
    tenant: str
    tag: float
    oldest: str
    runs: int


class Chosen(NamedTuple):
    """What a claim takes, and what it leaves behind.

    Attributes:
        ids: the runs, in order.
        tags: new tags, by priority and tenant: of all its lines in the pipelines of the claim.
    """

    ids: list[str]
    tags: dict[tuple[int, str], float]


def choose(
    lines: Sequence[QueuedLine],
    died: Iterable[Head],
    held: Iterable[Suspicion],
    limit: int,
    *,
    more: Callable[[QueuedLine, str], Iterable[str]],
    classes: Mapping[str, SLA],
    overdue: Iterable[str] = (),
    earned: dict[str, float] | None = None,
) -> Chosen:
    """The runs to take, in the order of `core.order`.

    Runs without deaths never wait for a suspect. Runs with deaths execute together only in as large a group as the most
    suspected of them allows. If the next one does not fit, those behind it wait too, so that none starves.

    Args:
        lines: of pipelines that the process executes, in any order: all, or the first by priority, tag and oldest, with
            one tenant more than the claim takes runs. Of each overdue class also the first `limit` + 1 by oldest.
        died: the first queued runs with deaths.
        held: the runs that the process has already; those without deaths may be left out.
        limit: how many it may take.
        more: the ids of further runs of a line, above a given one, in order; none at its end.
        classes: by name.
        overdue: classes whose oldest run is overdue now; a claim judges this once.
        earned: the credit of classes; changed in place.
    """
    heads = list(died)
    if len(lines) == 1 and not heads:  # the common queue needs no rule
        [line] = lines
        rest = more(line, line.oldest) if line.runs > 1 and limit > 1 else ()
        return Chosen([line.oldest, *rest][:limit], {})
    late = frozenset(overdue)
    if not (heads or late) and len({line[1:3] for line in lines}) == 1 and _are_distinct(lines):
        return _by_turns(lines, limit, more)
    queue = Queue(classes, earned)
    before: dict[tuple[int, str], float] = {}
    for line in lines:
        place = line.priority, line.sla, line.tenant
        further = _Further(line, more) if line.runs > 1 else None
        queue.add_line(Line(*place, [Waiter(line.oldest, line.sla, line.tenant, line.priority)], further), line.tag)
        level = line.priority, line.tenant
        before[level] = max(line.tag, before.get(level, line.tag))
    if heads:
        for head in _together(heads, [each for each in held if each.deaths]):
            queue.add(head)
    taken = iter(functools.partial(queue.take, late), None)
    ids = [waiter.id for _, waiter in zip(range(limit), taken, strict=False)]
    tags = {level: queue.tags(level[0]).get(level[1], 0.0) for level in before}
    return Chosen(ids, {level: tag for level, tag in tags.items() if tag > before[level]})


def _are_distinct(lines: Sequence[QueuedLine]) -> bool:
    """Whether each line is of another tenant."""
    return len({line.tenant for line in lines}) == len(lines)


def _by_turns(lines: Sequence[QueuedLine], limit: int, more: Callable[[QueuedLine, str], Iterable[str]]) -> Chosen:
    """The choice among lines of one class, the usual case: only the turns of their tenants matter."""
    ids: list[str] = []
    tags = [line.tag for line in lines]
    further = [[line.oldest] for line in lines]
    """Known runs of each line, the next one last."""
    last = [line.oldest for line in lines]
    heap = [(line.tag, line.oldest, at) for at, line in enumerate(lines)]
    heapify(heap)
    while heap and len(ids) < limit:
        tag, _, at = heap[0]
        known = further[at]
        if not known:
            known += reversed(list(more(lines[at], last[at])))
            if not known:
                heappop(heap)
                continue
            last[at] = known[0]
        else:
            ids.append(known.pop())
            if len(heap) > 1:  # alone, it uses up no other's turn
                tag = tags[at] = tag + 1.0
            if not known and lines[at].runs == 1:
                heappop(heap)
                continue
        # Further runs are asked for when it is the turn of the line: until then it goes before others of its tag.
        heapreplace(heap, (tag, known[-1] if known else "", at))
    charged = {(line.priority, line.tenant): tag for line, tag in zip(lines, tags, strict=True) if tag > line.tag}
    return Chosen(ids, charged)


class _Further:
    """The runs of a line after its oldest, as they are asked for."""

    def __init__(self, line: QueuedLine, more: Callable[[QueuedLine, str], Iterable[str]]) -> None:
        self._line, self._more = line, more
        self._last = line.oldest

    def __call__(self) -> list[Waiter]:
        line = self._line
        found = [Waiter(run_id, line.sla, line.tenant, line.priority) for run_id in self._more(line, self._last)]
        if found:
            self._last = found[-1].id
        return found


def _together(died: list[Head], held: Sequence[Suspicion]) -> list[Head]:
    """Those of the runs with deaths that join what is held: large groups first, as most of a large one are innocent."""
    died.sort(key=lambda head: (-head.priority, -head.suspicion.company, head.id))
    bound = min((each.company for each in held), default=UNBOUNDED)
    for place, head in enumerate(died):
        bound = min(bound, head.suspicion.company)
        if len(held) + place >= bound:
            return died[:place]
    return died


def after_death(held: Sequence[Suspicion], *, silent: bool) -> list[Suspicion]:
    """What is known of each run that a process held, now that it has died or fallen silent.

    A suspect shares the blame with those that had deaths before, any other run with all of them.
    """
    suspected = sum(1 for each in held if each.deaths)
    return [
        _after_death(each, suspected if each.deaths >= SUSPECT_DEATHS else len(held), silent=silent) for each in held
    ]


def _after_death(before: Suspicion, among: int, *, silent: bool) -> Suspicion:
    deaths = before.deaths + 1
    company = max(1, among // 2) if deaths >= SUSPECT_DEATHS else UNBOUNDED
    return Suspicion(deaths, before.alone + (among == 1), before.silent + silent, company)
