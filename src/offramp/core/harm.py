"""How many runs belief may take off the fast path wrongly, and how many it does: a bound, kept by counting. Pure.

A run is demoted wrongly if it would have made its budget. A class allows that for a share of the runs that make it.
Two rules keep it. The limit: of the ended runs that made their budget, at most that share looked as doomed, at their
worst moment, as the limit. The account: runs demoted wrongly so far, and those expected among the demoted runs that
have not ended, are at most that share of the runs that made it, and `CREDIT`. Its balance moves the limit.

A demoted run would have made its budget if it moved no longer. A small random part of the doomed runs goes on as a
control, which corrects that rule where a run takes less, or more, on the fast path than on the deep one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from offramp.core.bands import Counts
from offramp.core.blocks import BLOCK_MINUTES, Blocks

CONTROL = 0.03
"""The part of the doomed runs that goes on as a control."""
CONTROL_PRIOR = 5.0
"""The rule for demoted runs counts as much as so many controls that made their budget."""
BLOCK_MADE = 64
"""The fewest runs that made their budget in a full block."""
HALF_LIFE_MADE = 500
"""Later runs that made their budget that halve the weight of a block."""
CREDIT = 5.0
"""Runs that may be demoted wrongly beyond the share, in all and in the latest block, before the counts say more."""
LIMIT_PRIOR = 100.0
"""Runs that made their budget from which their worst moments say more of the limit than the class does."""
STEPS_PER_RUN, ACCOUNT_MADE = 2.0, 200.0
"""By how much each run of the balance moves the limit; less, the more have made their budget beyond this number."""
LOWERED_MAX, RAISED_MAX = 16.0, 8.0
"""The bounds of that move: to a sixteenth of the odds, and to four times them."""
STEPS_PER_DOUBLING = 4
"""The fineness of the odds that are counted."""
STEP_MIN, STEP_MAX = -80, 40
DECILES = 10
Fate = Literal["stayed", "demoted", "control"]
Verdict = Literal["stay", "demote", "control"]
_Sums = defaultdict[str, float]
_MADE, _COUNTS, _CALIBRATION = "made", "harm", "calibration"
"""Cells: the worst odds of runs that made it, the outcomes of runs, and how chances at acceptance came true."""


class Calibrated(NamedTuple):
    """Runs whose chance at acceptance was from `low` to `high`: how many there were, and how many made their budget."""

    low: float
    high: float
    runs: float
    made: float


class Report(NamedTuple):
    """What belief did to the runs of a class; all counts are of ended runs, older ones in part.

    Args:
        share: of the runs that would have made their budget, those that belief demoted; None without any.
        allowed: what the class allows.
        limit: the chance below which a run at its acceptance is demoted.
        runs: all of them.
        made: those that made their budget, or would have.
        demoted: by belief.
        wrong: demoted runs that would have made their budget, as the control has it.
        controls: doomed runs that went on.
        controls_made: those of them that made their budget.
        wasted_s: seconds on the fast path of runs that missed their budget.
        calibration: by chance at acceptance.
    """

    share: float | None
    allowed: float
    limit: float
    runs: float
    made: float
    demoted: float
    wrong: float
    controls: float
    controls_made: float
    wasted_s: float
    calibration: tuple[Calibrated, ...]


class Harm:
    """The bound for the runs of one pipeline and class.

    Args:
        allowed: the share of the runs that would make their budget that may be demoted; 0 for none.
    """

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self._blocks = Blocks()
        self._look_over()

    def verdict(self, chance: float, left: float, draw: float) -> Verdict:
        """What to do with a run that would go on; the caller then says `demoted`, or keeps that it is a control.

        Args:
            chance: of making its budget.
            left: the part of its budget that is left, above 0.
            draw: a random number from 0 to 1.
        """
        if not self.allowed or odds_step(chance, left) >= self._limit or chance > self._slack():
            return "stay"
        return "control" if draw < CONTROL else "demote"

    def demoted(self, chance: float, now: float) -> None:
        """Count a run that is demoted for its chance, until it is settled.

        Args:
            chance: of making its budget.
            now: epoch seconds.
        """
        self._count({_COUNTS: {"open": 1.0, "open chance": chance}}, now)

    def withdraw(self, chance: float, now: float) -> None:
        """Count no longer a run that `demoted` has counted, because it was not started."""
        self._count({_COUNTS: {"open": -1.0, "open chance": -chance}}, now)

    def settle(
        self,
        looks: Iterable[tuple[float, float]],
        budget_s: float,
        fate: Fate,
        now: float,
        *,
        made: bool | None,
        wasted_s: float = 0.0,
    ) -> None:
        """Count a run that ended.

        Args:
            looks: seconds at which it was looked at, or would have been, each with its chance: `Belief.looked_at`.
            budget_s: its budget.
            fate: whether belief demoted it, or would have.
            now: epoch seconds.
            made: whether it moved no longer than its budget; None if it failed or was cancelled.
            wasted_s: seconds that it spent on the fast path.
        """
        counts: Counts = {_COUNTS: {}}
        if fate == "demoted":
            begun = max(1.0, self._counts["open"])
            counts[_COUNTS] |= {"open": -1.0, "open chance": -self._counts["open chance"] / begun}
        if made is not None:
            counts[_COUNTS] |= {fate: 1.0, f"{fate} made": float(made), "wasted_s": 0.0 if made else wasted_s}
            seen = list(looks)
            if seen and made:
                worst = min(odds_step(chance, 1 - elapsed_s / budget_s) for elapsed_s, chance in seen)
                counts[_MADE] = {str(worst): 1.0}
            if seen:
                decile = min(int(seen[0][1] * DECILES), DECILES - 1)
                counts[_CALIBRATION] = {f"{decile}": 1.0, f"{decile} made": float(made)}
        self._count(counts, now)

    def report(self) -> Report:
        """The outcomes so far."""
        counts, wrong = self._counts, self._wrong(self._counts)
        made = _made(counts) + wrong
        calibration = tuple(
            Calibrated(decile / DECILES, (decile + 1) / DECILES, runs, self._calibration[f"{decile} made"])
            for decile in range(DECILES)
            if (runs := self._calibration[f"{decile}"])
        )
        return Report(
            share=wrong / made if made else None,
            allowed=self.allowed,
            limit=_chance_at(self._limit) if self.allowed else 0.0,
            runs=counts["stayed"] + counts["control"] + counts["demoted"],
            made=made,
            demoted=counts["demoted"],
            wrong=wrong,
            controls=counts["control"],
            controls_made=counts["control made"],
            wasted_s=counts["wasted_s"],
            calibration=calibration,
        )

    def take(self) -> dict[int, Counts]:
        """What was counted here since the last call, by block: the store adds it to what it has."""
        return self._blocks.take()

    def put_back(self) -> None:
        """The store has not added what was taken last: the next `take` gives it again."""
        self._blocks.put_back()

    def replace(self, blocks: Mapping[int, Counts]) -> None:
        """Use the sums that the store has, which include what was taken here, and what was counted here since."""
        self._blocks.replace(blocks)
        self._look_over()

    def expired(self) -> list[int]:
        """Blocks that count no more: the store may delete them."""
        return self._blocks.expired()

    def _count(self, counts: Counts, now: float) -> None:
        latest, minute = max(self._blocks.numbers(), default=None), int(now // 60)
        if latest is None:
            latest = minute
        elif minute - latest >= BLOCK_MINUTES and _made(self._recent) >= BLOCK_MADE:
            latest = minute
            self._blocks.add(latest, {})
            self._look_over()
        self._blocks.add(latest, counts)
        self._see(counts, 1.0)
        _add(self._recent, counts[_COUNTS])
        if _MADE in counts:
            self._limit = self._limit_now()

    def _look_over(self) -> None:
        """Sum the blocks, each by its weight."""
        self._counts: _Sums = defaultdict(float)
        self._recent: _Sums = defaultdict(float)
        self._worst: _Sums = defaultdict(float)
        self._calibration: _Sums = defaultdict(float)
        numbers, later = self._blocks.numbers(), 0.0
        for number in numbers:
            begun: _Sums = defaultdict(float)
            for counts in self._blocks.parts(number):
                self._see(counts, 2.0 ** -(later / HALF_LIFE_MADE))
                _add(begun, counts.get(_COUNTS, {}))
            later += _made(begun)
            if number == numbers[0]:
                self._recent = begun
        self._limit = self._limit_now()

    def _see(self, counts: Mapping[str, Mapping[str, float]], times: float) -> None:
        _add(self._counts, counts.get(_COUNTS, {}), times)
        _add(self._calibration, counts.get(_CALIBRATION, {}), times)
        _add(self._worst, counts.get(_MADE, {}), times)

    def _limit_now(self) -> int:
        """The step of odds below which runs are demoted, from the worst moments of the runs that made it.

        Before any made it, the limit is the chance that the class allows; as if so many had, with worst moments in
        proportion to their chances.
        """
        made, fewest = sum(self._worst.values()), _steps_of(self.allowed)
        most, fell, limit = self.allowed * (made + LIMIT_PRIOR + 1), 0.0, STEP_MIN
        for limit in range(STEP_MIN, STEP_MAX + 1):
            fell += self._worst.get(str(limit), 0.0)
            expected = LIMIT_PRIOR * self.allowed * 2.0 ** ((limit + 1 - fewest) / STEPS_PER_DOUBLING)
            if fell + min(expected, LIMIT_PRIOR) > most:
                break
        moved = STEPS_PER_RUN * self._balance(self._counts) * min(1.0, ACCOUNT_MADE / max(made, 1.0))
        return limit + round(min(max(moved, -LOWERED_MAX), RAISED_MAX))

    def _balance(self, counts: _Sums) -> float:
        """How many more runs the class allows to be demoted wrongly; below 0: how many too many were."""
        return self.allowed * _made(counts) - (1 - self.allowed) * self._wrong(counts)

    def _slack(self) -> float:
        """How many more runs may be demoted wrongly now."""
        balance = min(self._balance(self._counts), self._balance(self._recent))
        return balance + CREDIT - max(0.0, self._counts["open chance"])

    def _wrong(self, counts: _Sums) -> float:
        """Demoted runs that would have made it: counted, times what the control shows the count to be wrong by."""
        settled, controls = counts["demoted"], counts["control"]
        if not settled:
            return 0.0
        counted = counts["demoted made"]
        rate = (counted + 0.5) / (settled + 1)
        return counted * (CONTROL_PRIOR + counts["control made"]) / (CONTROL_PRIOR + controls * rate)


def odds_step(chance: float, left: float) -> int:
    """How doomed a run looks: the odds of making its budget, over the part of it that can still be saved, in steps.

    Demoting saves what is left of the budget if the run misses it; so the same odds justify it less, the less is left.
    """
    chance = min(max(chance, 1e-9), 1 - 1e-9)
    step = math.floor(math.log2(chance / (1 - chance) / max(left, 1e-9)) * STEPS_PER_DOUBLING)
    return min(max(step, STEP_MIN), STEP_MAX)


def _steps_of(chance: float) -> float:
    if not 0 < chance < 1:
        return STEP_MAX if chance else STEP_MIN
    return math.log2(chance / (1 - chance)) * STEPS_PER_DOUBLING


def _chance_at(step: int) -> float:
    odds = math.pow(2.0, step / STEPS_PER_DOUBLING)
    return odds / (1 + odds)


def _add(into: _Sums, more: Mapping[str, float], times: float = 1.0) -> None:
    for name, value in more.items():
        into[name] += value * times


def _made(counts: _Sums) -> float:
    """The runs that made their budget on the fast path."""
    return counts["stayed made"] + counts["control made"]
