"""Which queued runs a process takes: urgent ones first, suspects in ever smaller groups. Pure decisions.

A store passes the heads of its queue and takes the chosen runs, in one transaction; nothing else orders claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

import msgspec

SUSPECT_DEATHS = 2
"""Consecutive deaths that make a run a suspect: each group of suspects is half the group that died together."""
HEADS_MAX = 500
"""Suspects that one claim looks at."""
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


class Head(msgspec.Struct, frozen=True, gc=False):
    """A queued run as `choose` sees it."""

    id: str
    priority: int
    suspicion: Suspicion = NO_SUSPICION


def choose(heads: Iterable[Head], held: Iterable[Suspicion], limit: int) -> list[str]:
    """The ids of the runs to take, the most urgent first, then the oldest.

    Runs without deaths never wait for a suspect. Runs with deaths execute together only in as large a group as the most
    suspected of them allows. If the next one does not fit, those behind it wait too, so that none starves.

    Args:
        heads: queued runs of pipelines that the process executes, in any order: the first `limit` without deaths, and
            the first with deaths.
        held: the runs that the process has already; those without deaths may be left out.
        limit: how many it may take.
    """
    taken = list(heads)
    died = [head for head in taken if head.suspicion is not NO_SUSPICION and head.suspicion.deaths]
    if died:
        taken = [head for head in taken if not head.suspicion.deaths]
        taken += _together(died, [each for each in held if each.deaths])
    # Twice, as that is quicker than once by a pair: every claim does it, nearly always to what is in order already.
    taken.sort(key=attrgetter("id"))
    taken.sort(key=attrgetter("priority"), reverse=True)
    return [head.id for head in taken[:limit]]


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
