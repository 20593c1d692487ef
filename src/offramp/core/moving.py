"""The time that a run moves: its steps and its own sleeps, without queues, permits and waits for signals. Pure.

A client on the fast path waits for this time, and nothing else about a run foretells the next ones. Times are in epoch
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from offramp.core.belief import STEPS_MAX, Progress
from offramp.core.critical import Interval, union
from offramp.core.journal import DUE, TIMER, Entry
from offramp.core.waterfall import BUSY, Waterfall

SLEEP = "offramp.sleep"
_TURNED = BUSY | {"retry"}
_due = msgspec.json.Decoder(float | None).decode


class Part(NamedTuple):
    """A stretch of time in which one process executed a run; `still` is when it only waited for others."""

    began: float
    ended: float
    still: Sequence[Interval] = ()
    within: Mapping[str, Sequence[Interval]] = {}
    """When its steps only waited for others while they were in flight, by their keys."""


class Fast(NamedTuple):
    """The time of a demoted run on the fast path: its acceptance, its demotion, and the seconds that it moved."""

    began: float
    ended: float
    moved_s: float


def moved(part: Part, entries: Sequence[Entry], earlier: Sequence[Interval] = (), fast: Fast | None = None) -> Progress:
    """How far a run has come that executes in this process, or has ended there.

    Args:
        part: its execution here.
        entries: its journal.
        earlier: when it moved in earlier executions, from `earlier`.
        fast: of a demoted run.
    """
    covered: list[Interval] = [(part.began, part.ended)]
    if part.still or part.within:
        covered = union([*_without(part), *_steps(entries, part.within), *_sleeps(entries, part.ended)])
    if earlier:
        covered = union([*covered, *earlier])
    return _measured(covered, _ends(entries), fast)


def earlier(entries: Sequence[Entry], until: float) -> list[Interval]:
    """When a run moved before this time, from the journal that its earlier executions left."""
    return union([*_steps(entries), *_sleeps(entries, until), *_timers(entries, until)])


def moved_elsewhere(drawn: Waterfall, accepted_at: float, fast: Fast | None) -> Progress:
    """How far a run has come whose parts executed in several processes, from its events."""
    covered, ends = [], []
    for row in drawn.rows[1:]:
        kinds = _TURNED if row.kind == "step" else {"wait"} if row.name == "sleep" else set()
        spans = [span for span in row.spans if span.kind in kinds]
        covered += [(accepted_at + span.start, accepted_at + span.end) for span in spans]
        if spans and row.kind == "step" and row.status in {"completed", "failed"}:
            ends.append((row.name, accepted_at + spans[-1].end))
    return _measured(union(covered), sorted(ends, key=_end)[:STEPS_MAX], fast)


def _end(step: tuple[str, float]) -> float:
    return step[1]


def _measured(covered: list[Interval], ends: Iterable[tuple[str, float]], fast: Fast | None) -> Progress:
    since, before_s = (-math.inf, 0.0) if fast is None else (fast.ended, fast.moved_s)

    def at(moment: float) -> float:
        if fast is not None and moment <= fast.ended:
            return min(fast.moved_s, max(0.0, moment - fast.began))
        return before_s + sum(max(0.0, min(end, moment) - max(start, since)) for start, end in covered)

    return Progress(at(math.inf), tuple((name, at(end)) for name, end in ends))


def _ends(entries: Sequence[Entry]) -> Iterator[tuple[str, float]]:
    found = 0
    for entry in entries:
        if entry.kind == "step":
            yield entry.name, entry.started_at + entry.duration_ms / 1000
            found += 1
        if found >= STEPS_MAX:
            return


def _without(part: Part) -> Iterator[Interval]:
    """The rest of a part, without the time in which it only waited."""
    waits = [wait for waits in part.within.values() for wait in waits]
    return _rest((part.began, part.ended), [*part.still, *waits])


def _rest(whole: Interval, waits: Sequence[Interval]) -> Iterator[Interval]:
    since, ended = whole
    for start, end in union(waits):
        if start > since:
            yield since, min(start, ended)
        since = max(since, end)
    if since < ended:
        yield since, ended


def _steps(entries: Sequence[Entry], waits: Mapping[str, Sequence[Interval]] = {}) -> Iterator[Interval]:
    for entry in entries:
        if entry.kind == "step" and entry.duration_ms:
            whole = entry.started_at, entry.started_at + entry.duration_ms / 1000
            yield from _rest(whole, waits[entry.key]) if entry.key in waits else [whole]


def _sleeps(entries: Sequence[Entry], until: float) -> Iterator[Interval]:
    over = {entry.key: entry.started_at for entry in entries if entry.kind == "sleep"}
    for entry in entries:
        if entry.name == SLEEP and entry.kind == "value":
            due = _moment(entry)
            yield entry.started_at, min(due, over.get(f"{entry.key}:over", until))


def _timers(entries: Sequence[Entry], until: float) -> Iterator[Interval]:
    """The plain `asyncio.sleep` of a body, where its due time was noted."""
    over = {entry.key: entry.started_at for entry in entries if entry.name == TIMER}
    for entry in entries:
        if entry.name == DUE and entry.key.startswith(f"{TIMER}:sleep:"):
            yield entry.started_at, min(_moment(entry), over.get(entry.key.removesuffix(":due"), until))


def _moment(entry: Entry) -> float:
    due = _due(entry.value or b"null")
    return math.inf if due is None else due
