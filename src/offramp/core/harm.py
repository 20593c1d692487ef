"""How many runs belief may take off the fast path wrongly, and how many it does: a bound, kept by counting. Pure.

A run is demoted wrongly if it would have made its budget. A class allows that for a share of the runs that make it. The
limit below which chances are too small rises from 0 to near that share as runs end. It then follows an account: wrong
demotions so far, beside those allowed. Chance alone moves such a count by its standard deviation, so the balance is
measured in these. While fewer are wrong than allowed, the limit rises; when more are, beyond what chance explains, it
falls; and once the account is overdrawn, belief demotes none.

A demoted run would have made its budget if it moved no longer. A small random part of the doomed runs goes on as a
control, which corrects that rule where a run takes less, or more, on the fast path than on the deep one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, NamedTuple

from offramp.core.bands import Counts
from offramp.core.blocks import BLOCK_MINUTES, Blocks

CHANCE_MAX = 0.5
"""A run that more likely makes its budget than not stays, whatever its class allows."""
CONTROL = 0.03
"""The part of the doomed runs that goes on as a control."""
CONTROL_PRIOR = 15.0
"""The rule for demoted runs counts as much as so many controls that made their budget."""
BLOCK_MADE = 64
"""The fewest runs that made their budget in a full block."""
HALF_LIFE_MADE = 2_000
"""Later runs that made their budget that halve the weight of a block."""
LIMIT_BASE, LIMIT_RUNS = 1.5, 300.0
"""The limit on the odds, in times those of the allowed share, and after how many ended runs it is half of that."""
LIMIT_RUNS_AT_FIRST = 75.0
"""The same while no run has made its budget: there is nothing to harm yet, as far as is known."""
RAISED_BY, RAISED_MAX = 1.0, 2.0
"""Doublings of the limit's odds by each standard deviation of the account above 0, and in all."""
LOWERED_FROM, LOWERED_BY, LOWERED_MAX = 1.0, 2.0, 5.0
"""The standard deviations below 0 that chance explains; halvings of the odds by each one beyond, and in all."""
OVERDRAWN, CREDIT = 2.0, 2.0
"""Standard deviations and runs by which the account may be overdrawn: that of all blocks, and that of the latest."""
Fate = Literal["stayed", "demoted", "control"]
Verdict = Literal["stay", "demote", "control"]
_Sums = defaultdict[str, float]
_CELL = "harm"
"""The one cell of each block: the outcomes of runs."""


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
        if not self.allowed or not 0 <= chance <= CHANCE_MAX:
            return "stay"
        if odds(chance) >= self._limit() * left or chance > self._slack():
            return "stay"
        return "control" if draw < CONTROL else "demote"

    def demoted(self, chance: float, now: float) -> None:
        """Count a run that is demoted for its chance, until it is settled.

        Args:
            chance: of making its budget.
            now: epoch seconds.
        """
        self._count({"open": 1.0, "open chance": chance}, now)

    def withdraw(self, chance: float, now: float) -> None:
        """Count no longer a run that `demoted` has counted, because it was not started."""
        self._count({"open": -1.0, "open chance": -chance}, now)

    def settle(self, fate: Fate, now: float, *, made: bool | None) -> None:
        """Count a run that ended.

        Args:
            fate: whether belief demoted it, or would have.
            now: epoch seconds.
            made: whether it moved no longer than its budget; None if that is not known, as when it failed.
        """
        counts = {}
        if fate == "demoted":
            begun = max(1.0, self._counts["open"])
            counts = {"open": -1.0, "open chance": -self._counts["open chance"] / begun}
        if made is not None:
            counts |= {fate: 1.0, f"{fate} made": float(made)}
        self._count(counts, now)

    def report(self) -> Report:
        """The outcomes so far."""
        counts, wrong = self._counts, self._wrong(self._counts)
        made = _made(counts) + wrong
        return Report(
            share=wrong / made if made else None,
            allowed=self.allowed,
            limit=_chance(self._limit()) if self.allowed else 0.0,
            runs=_ended(counts),
            made=made,
            demoted=counts["demoted"],
            wrong=wrong,
            controls=counts["control"],
            controls_made=counts["control made"],
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

    def _count(self, counts: dict[str, float], now: float) -> None:
        latest, minute = max(self._blocks.numbers(), default=None), int(now // 60)
        if latest is None:
            latest = minute
        elif minute - latest >= BLOCK_MINUTES and _made(self._recent) >= BLOCK_MADE:
            latest = minute
            self._blocks.add(latest, {})
            self._look_over()
        self._blocks.add(latest, {_CELL: counts})
        _add(self._counts, counts)
        _add(self._recent, counts)

    def _look_over(self) -> None:
        """Sum the blocks, each by its weight."""
        self._counts: _Sums = defaultdict(float)
        self._recent: _Sums = defaultdict(float)
        later = 0.0
        for place, number in enumerate(self._blocks.numbers()):
            block: _Sums = defaultdict(float)
            for counts in self._blocks.parts(number):
                _add(block, counts.get(_CELL, {}))
            _add(self._counts, block, 2.0 ** -(later / HALF_LIFE_MADE))
            later += _made(block)
            if not place:
                self._recent = block

    def _limit(self) -> float:
        """The odds below which a run at its acceptance is demoted."""
        balance, deviation = self._account(self._counts)
        deviations = balance / (deviation + 1)
        if deviations > 0:
            doublings = min(deviations * RAISED_BY, RAISED_MAX)
        else:
            doublings = max(min(deviations + LOWERED_FROM, 0.0) * LOWERED_BY, -LOWERED_MAX)
        ended = _ended(self._counts)
        caution = LIMIT_RUNS if _made(self._counts) + self._wrong(self._counts) else LIMIT_RUNS_AT_FIRST
        rises = ended / (ended + caution)
        return LIMIT_BASE * odds(self.allowed) * math.pow(2.0, doublings) * rises

    def _slack(self) -> float:
        """How many more runs may be demoted wrongly now."""
        accounts = [self._account(counts) for counts in (self._counts, self._recent)]
        overdraft = min(balance + OVERDRAWN * deviation for balance, deviation in accounts)
        return overdraft + CREDIT - max(0.0, self._counts["open chance"])

    def _account(self, counts: _Sums) -> tuple[float, float]:
        """Runs that may still be demoted wrongly, below 0 if too many were, and the standard deviation of that."""
        wrong = self._wrong(counts)
        allowed = self.allowed * (_made(counts) + wrong)
        return allowed - wrong, math.sqrt(allowed)

    def _wrong(self, counts: _Sums) -> float:
        """Demoted runs that would have made it: counted, times what the control shows the count to be wrong by."""
        settled, controls = counts["demoted"], counts["control"]
        if not settled:
            return 0.0
        counted = counts["demoted made"]
        rate = (counted + 0.5) / (settled + 1)
        return counted * (CONTROL_PRIOR + counts["control made"]) / (CONTROL_PRIOR + controls * rate)


def odds(chance: float) -> float:
    """The odds of a chance.

    Those of a run are compared with the limit times the part of its budget that is left: demoting a run that misses its
    budget saves that much, so the same odds justify it less, the less is left.
    """
    return chance / max(1 - chance, 1e-9)


def _chance(odds: float) -> float:
    return odds / (1 + odds)


def _add(into: _Sums, more: Mapping[str, float], times: float = 1.0) -> None:
    for name, value in more.items():
        into[name] += value * times


def _ended(counts: _Sums) -> float:
    return counts["stayed"] + counts["control"] + counts["demoted"]


def _made(counts: _Sums) -> float:
    """The runs that made their budget on the fast path."""
    return counts["stayed made"] + counts["control made"]
