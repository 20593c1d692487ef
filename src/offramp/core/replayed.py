"""What routing would have done to recorded runs, with another budget or another bound. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from offramp.core.belief import Belief, Past
from offramp.core.critical import union
from offramp.core.features import LAST_RUNS, Session, features
from offramp.core.harm import Fate, Harm
from offramp.errors import InputError

GOLDEN = 0.6180339887498949
"""The fractional parts of its multiples are spread evenly: they choose the control group of a replay."""


class Recorded(NamedTuple):
    """A run that was recorded.

    Args:
        pipeline: its pipeline.
        sla: its class.
        session_id: the conversation that it belonged to, if any.
        input: its arguments by parameter name.
        began: when it was accepted, in epoch seconds; None if that is not recorded.
        took_s: seconds for which it moved.
        steps: its finished steps in the order of their ends, with the seconds for which it had moved then.
        own: what the pipeline's own function of features said of it.
    """

    pipeline: str
    sla: str
    session_id: str | None
    input: Mapping[str, Any]
    began: float | None
    took_s: float
    steps: tuple[tuple[str, float], ...]
    own: Mapping[str, float | str] = {}


class _Step(msgspec.Struct):
    name: str
    started_at: datetime
    duration_ms: float | None = None


class _Demotion(msgspec.Struct):
    at: datetime


class _Line(msgspec.Struct, rename={"sla": "class"}):
    pipeline: str
    sla: str = "default"
    session_id: str | None = None
    status: str = "completed"
    retry_of: str | None = None
    path: str = "fast"
    input: Any = None
    features: dict[str, float | str] | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    demotion: _Demotion | None = None
    steps: list[Any] = []
    took_s: float | None = None


def recorded(line: Any) -> Recorded | None:
    """A line of a record; None if it says nothing: of a run that has not completed, or that retries another.

    Args:
        line: a run document, with its input and steps as far as they are known; or `pipeline` and `took_s` (seconds),
            and `class`, `session_id`, `input`, `features`, `created_at`, and `steps` as pairs of a name and the seconds
            until its end.

    Raises:
        InputError: it is neither.
    """
    try:
        read = msgspec.convert(line, _Line)
        if read.status != "completed" or read.retry_of:
            return None
        took_s, steps = _of_document(read) if read.took_s is None else _short(read, read.took_s)
    except ValueError as error:
        raise InputError(
            "a recorded run is a JSON object: a run document, or 'pipeline' and 'took_s' (seconds), and 'class', "
            f"'input', 'features', 'session_id', 'created_at' and 'steps' as far as they are known: {error}",
            [],
        ) from None
    given = read.input if isinstance(read.input, dict) else {}
    began = None if read.created_at is None else read.created_at.timestamp()
    in_order = tuple(sorted(steps, key=_end))
    return Recorded(read.pipeline, read.sla, read.session_id, given, began, took_s, in_order, read.features or {})


def _short(line: _Line, took_s: float) -> tuple[float, list[tuple[str, float]]]:
    if not 0 <= took_s < math.inf:
        raise ValueError(f"took_s is in seconds, 0 or more, got {took_s!r}")
    return took_s, msgspec.convert(line.steps, list[tuple[str, float]])


def _of_document(line: _Line) -> tuple[float, list[tuple[str, float]]]:
    """A run moved on the fast path as long as it was there, and on the deep path while a step of it executed."""
    if line.created_at is None or line.finished_at is None:
        raise ValueError("it has neither 'took_s', nor 'created_at' and 'finished_at'")
    spans = []
    for step in msgspec.convert(line.steps, list[_Step]):
        if step.duration_ms is not None:
            start = step.started_at.timestamp()
            spans.append((step.name, start, start + max(0.0, step.duration_ms) / 1000))
    moved = [(start, end) for _, start, end in spans]
    if line.path == "fast" or line.demotion is not None:
        left = line.finished_at if line.demotion is None else line.demotion.at
        moved.append((line.created_at.timestamp(), left.timestamp()))
    covered = union(moved)

    def at(moment: float) -> float:
        return sum(max(0.0, min(end, moment) - start) for start, end in covered)

    return at(math.inf), [(name, at(end)) for name, _, end in spans]


def _end(step: tuple[str, float]) -> float:
    return step[1]


class _Tally:
    """What one way to route did to the runs of a pipeline and class."""

    def __init__(self) -> None:
        self.right = self.short_deep = 0
        self.waited_s = 0.0

    def add(self, left_after_s: float | None, took_s: float, budget_s: float) -> None:
        """A run that left the fast path after so many seconds; None for one that would have stayed to its budget."""
        made = took_s <= budget_s
        self.right += made is (left_after_s is None)
        self.short_deep += made and left_after_s is not None
        self.waited_s += (0.0 if made else budget_s) if left_after_s is None else left_after_s

    def shown(self, runs: int) -> dict[str, Any]:
        share = round(self.right / runs, 4)
        return {
            "right": self.right,
            "share_right": share,
            "waited_s": round(self.waited_s, 3),
            "short_deep": self.short_deep,
        }


class _Replay:
    """The runs of one pipeline and class, replayed in order, learning as it goes."""

    def __init__(self, budget_s: float, early_demotion: float) -> None:
        self._budget_s = budget_s
        self._belief, self._harm = Belief(), Harm(early_demotion)
        self._sessions: dict[str, Session] = {}
        self._under_way: list[tuple[float, int, Recorded, Past, Fate]] = []
        self.runs = self.made = 0
        self.fast, self.deep, self.learned = _Tally(), _Tally(), _Tally()

    def add(self, run: Recorded) -> None:
        """Decide about a run by those that had ended when it began."""
        began = float(self.runs) if run.began is None else run.began
        while self._under_way and (run.began is None or self._under_way[0][0] <= began):
            ended, _, run_before, past, fate = heapq.heappop(self._under_way)
            self._end(ended, run_before, past, fate)
        self.runs += 1
        self.made += run.took_s <= self._budget_s
        session = None if run.session_id is None else self._sessions.get(run.session_id, Session(0, ()))
        past = Past(features(run.input, run.own, session), run.took_s, run.steps, self._budget_s)
        fate, left_after_s = self._fate(past, began)
        for tally, after_s in ((self.fast, None), (self.deep, 0.0), (self.learned, left_after_s)):
            tally.add(after_s, run.took_s, self._budget_s)
        heapq.heappush(self._under_way, (began + run.took_s, self.runs, run, past, fate))

    def _fate(self, past: Past, began: float) -> tuple[Fate, float | None]:
        if not self._budget_s:
            return "stayed", 0.0  # its class sends it deep
        for elapsed_s, chance in self._belief.looked_at(past, self._budget_s):
            draw = self.runs * GOLDEN % 1
            verdict = self._harm.verdict(chance, 1 - elapsed_s / self._budget_s, draw)
            if verdict == "demote":
                self._harm.demoted(chance, began)
                return "demoted", elapsed_s
            if verdict == "control":
                return "control", None
        return "stayed", None

    def _end(self, ended: float, run: Recorded, past: Past, fate: Fate) -> None:
        self._harm.settle(fate, ended, made=run.took_s <= self._budget_s)
        self._belief.observe(past, ended)
        if run.session_id is not None:
            turns, last_s = self._sessions.get(run.session_id, Session(0, ()))
            self._sessions[run.session_id] = Session(turns + 1, (run.took_s, *last_s[: LAST_RUNS - 1]))

    def shown(self) -> dict[str, Any]:
        wrong = round(self.learned.short_deep / self.made, 4) if self.made else None
        return {
            "runs": self.runs,
            "made": self.made,
            "always_fast": self.fast.shown(self.runs),
            "always_deep": self.deep.shown(self.runs),
            "learned": {**self.learned.shown(self.runs), "wrong_share": wrong},
        }


def replay(runs: Iterable[Recorded], budget_s: float, early_demotion: float) -> list[dict[str, Any]]:
    """What would have become of the runs, by pipeline and class, if each had been decided by those that ended before.

    Args:
        runs: in the order of their acceptance; those with a time are put in order.
        budget_s: the budget in seconds.
        early_demotion: the share of the runs that make their budget that may be taken off the fast path.

    Raises:
        InputError: the budget or the share is out of range.

    Returns:
        A row for each pipeline and class: `runs`, how many `made` the budget, and for always fast, always deep and the
        learned estimate how many were decided `right`, the seconds that clients `waited_s` for nothing, and the runs
        that made their budget but were sent deep, `short_deep`.
    """
    if not (0 <= budget_s < math.inf and 0 <= early_demotion <= 1):
        raise InputError(f"a budget has 0 seconds or more, and a share is from 0 to 1: {budget_s}, {early_demotion}")
    groups: dict[tuple[str, str], list[Recorded]] = {}
    for run in runs:
        groups.setdefault((run.pipeline, run.sla), []).append(run)
    rows = []
    for (pipeline, sla), group in sorted(groups.items()):
        replayed = _Replay(budget_s, early_demotion)
        for run in _in_order(group):
            replayed.add(run)
        head = {"pipeline": pipeline, "class": sla, "budget_s": budget_s, "early_demotion": early_demotion}
        rows.append({**head, **replayed.shown()})
    return rows


def _in_order(runs: Sequence[Recorded]) -> Sequence[Recorded]:
    timed = all(run.began is not None for run in runs)
    return sorted(runs, key=lambda run: run.began or 0.0) if timed else runs
