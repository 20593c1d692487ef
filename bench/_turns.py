"""Recorded turns of coding agents, and their replay: who stays on the fast path, and who is taken off when.

A turn starts a minute after the turn before, and in a session after its last one; its duration is learned when it ends.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from offramp.core.belief import Belief, Past
from offramp.core.features import Session, features
from offramp.core.harm import Fate, Harm, Report

RECORDED = Path(__file__).parent / "data" / "turns.csv.gz"
START_S = 1_790_000_000.0
APART_S = 60.0
KEPT_OUT_OF = 3
"""One of so many sessions, by the hash of its name, took no part in any choice."""


class Turn(NamedTuple):
    """One request to an agent."""

    session: str
    number: int
    model: str
    input_tokens: int
    calls_s: tuple[float, ...]

    @property
    def took_s(self) -> float:
        return sum(self.calls_s)

    @property
    def is_kept_out(self) -> bool:
        return int(hashlib.sha256(self.session.encode()).hexdigest(), 16) % KEPT_OUT_OF == 0


class Seen(NamedTuple):
    """A turn as the router saw it: when it was looked at, with its chance then."""

    turn: Turn
    starts_s: float
    looks: list[tuple[float, float]]


def recorded() -> list[Turn]:
    """The turns that the repository holds."""
    with gzip.open(RECORDED, "rt") as lines:
        next(lines)  # source and licence
        return [_turn(row) for row in csv.DictReader(lines)]


def of_traces(turns: Path, steps: Path) -> list[Turn]:
    """The complete turns of a user in two files of such traces: one row a turn, and one row a call."""
    calls: dict[str, dict[int, str]] = defaultdict(dict)
    for row in _rows(steps):
        if row["agent"] == "main":
            calls[row["trace_id"]][int(row["step"])] = row["api_time_s"]
    numbers: Counter[str] = Counter()
    found = []
    for row in _rows(turns):
        session = row["trace_id"]
        number, numbers[session] = numbers[session], numbers[session] + 1
        if row["complete"] == row["starts_with_user"] == "1" and row["last_stop"] != "tool_use":
            mine = sorted(step for step in calls[session] if step >= int(row["first_step"]))[: int(row["llm_calls"])]
            took = tuple(float(calls[session][step] or 0) for step in mine)
            found.append(Turn(session, number, row["model"], int(row["first_input"]), took))
    return found


def _rows(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt") as lines:
        return list(csv.DictReader(lines))


def _turn(row: dict[str, str]) -> Turn:
    took = tuple(map(float, row["calls_s"].split()))
    return Turn(row["session"], int(row["turn"]), row["model"], int(row["input_tokens"]), took)


def replay(turns: Iterable[Turn], budget_s: float) -> Iterator[Seen]:
    """Every turn with its chances, by the belief that was learned from the turns that had ended then.

    A turn that is taken off is learned like any other, so the verdicts change no chance.
    """
    belief, waiting = Belief(), list[tuple[float, int, Past]]()
    lasted: dict[str, list[float]] = defaultdict(list)
    free_s: dict[str, float] = defaultdict(float)
    for place, (turn, starts_s) in enumerate(_starts(turns, free_s)):
        while waiting and waiting[0][0] <= starts_s:
            ended_s, _, ended = heapq.heappop(waiting)
            belief.observe(ended, ended_s)
        of_session = lasted[turn.session]
        seen = features(
            {"model": turn.model, "input_tokens": turn.input_tokens},
            session=Session(turn.number, tuple(reversed(of_session[-3:]))),
        )
        ends = tuple(("llm", at_s) for at_s in accumulate(turn.calls_s[:-1]))
        past = Past(seen, turn.took_s, ends, budget_s)
        yield Seen(turn, starts_s, list(belief.looked_at(past, budget_s)))
        heapq.heappush(waiting, (starts_s + turn.took_s, place, past))
        of_session.append(turn.took_s)


def _starts(turns: Iterable[Turn], free_s: dict[str, float]) -> Iterator[tuple[Turn, float]]:
    starts_s = START_S
    for turn in turns:
        starts_s = max(starts_s + APART_S, free_s[turn.session])
        free_s[turn.session] = starts_s + turn.took_s
        yield turn, starts_s


Rule = Callable[[Seen], float | None]
"""After how many seconds a turn is taken off the fast path; None: it stays."""


def bounded(seen: list[Seen], budget_s: float, allowed: float, seed: int) -> tuple[list[float | None], Report, float]:
    """When the bound lets each turn be taken off; its report, and the share that was taken off wrongly."""
    harm, draws, waiting = Harm(allowed), random.Random(seed), list[tuple[float, int, Fate]]()
    taken: list[float | None] = []

    def settle(until_s: float) -> None:
        while waiting and waiting[0][0] <= until_s:
            ended_s, place, fate = heapq.heappop(waiting)
            harm.settle(fate, ended_s, made=seen[place].turn.took_s <= budget_s)

    for place, one in enumerate(seen):
        settle(one.starts_s)
        fate, off_s = _fate(harm, one, budget_s, draws)
        taken.append(off_s)
        heapq.heappush(waiting, (one.starts_s + one.turn.took_s, place, fate))
    settle(float("inf"))
    made = [off_s for off_s, one in zip(taken, seen, strict=True) if one.turn.took_s <= budget_s]
    return taken, harm.report(), sum(off_s is not None for off_s in made) / max(1, len(made))


def _fate(harm: Harm, one: Seen, budget_s: float, draws: random.Random) -> tuple[Fate, float | None]:
    for elapsed_s, chance in one.looks:
        verdict = harm.verdict(chance, 1 - elapsed_s / budget_s, draws.random())
        if verdict == "demote":
            harm.demoted(chance, one.starts_s + elapsed_s)
            return "demoted", elapsed_s
        if verdict == "control":
            return "control", None
    return "stayed", None
