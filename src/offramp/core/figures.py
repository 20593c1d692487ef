"""The decisions of routing and their outcomes: counts that add up, and the figures computed from them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from offramp.core.blocks import Blocks
from offramp.core.run import RunRecord

Fate = Literal["fast", "early", "deep"]
"""Where a run that the router judged went: it stayed on the fast path to its end or its budget, was demoted under way
because it was expected to miss its budget, or was sent to the deep path for that at acceptance."""
FATES: tuple[Fate, ...] = ("fast", "early", "deep")
MADE, MISSED = "made", "missed"
WAITED = "waited_s"
TENTHS = 10
BLOCK_MINUTES = 720
"""The time for which one block of counts is filled: those that are kept cover a week."""
CELL = "figures"


def fate_of(record: RunRecord) -> Fate | None:
    """Where the router sent an ended run; None if something else did: its client, its class, a drain, a death."""
    demotion, route = record.demotion, record.route
    if demotion is None:
        if route.path == "deep":
            return "deep" if route.by == "learned" else None
        return "fast" if record.path == "fast" else None
    if demotion.reason == "budget":
        return "fast"
    return "early" if demotion.by == "belief" else None


def counts_of(record: RunRecord, fate: Fate, chance: float | None, *, made: bool) -> dict[str, float]:
    """The counts of an ended run.

    Args:
        record: of the run.
        fate: where the router sent it.
        chance: of making its budget, as it was estimated for its acceptance; None without an estimate.
        made: whether it made its budget, or would have.
    """
    counts = {f"{fate}:{MADE if made else MISSED}": 1.0}
    if record.demotion is not None:
        counts[WAITED] = record.demotion.elapsed_ms / 1000
    if chance is not None:
        tenth = min(int(chance * TENTHS), TENTHS - 1)
        counts |= {f"{tenth}:runs": 1.0, f"{tenth}:chance": chance, f"{tenth}:{MADE}": float(made)}
    return counts


def decided(counts: Mapping[str, float]) -> dict[str, Any] | None:
    """How many runs went where and made their budget, and how often that was right; None without runs."""
    shown: dict[str, dict[str, int]] = {
        fate: {what: round(counts.get(f"{fate}:{what}", 0)) for what in (MADE, MISSED)} for fate in FATES
    }
    runs = sum(sum(each.values()) for each in shown.values())
    if not runs:
        return None
    right = shown["fast"][MADE] + shown["early"][MISSED] + shown["deep"][MISSED]
    return {"runs": runs, "right": right, "share_right": round(right / runs, 4), **shown}


def short_deep(counts: Mapping[str, float]) -> int:
    """Runs that the router took off the fast path, and that would have made their budget."""
    return round(counts.get(f"early:{MADE}", 0) + counts.get(f"deep:{MADE}", 0))


def calibration(counts: Mapping[str, float]) -> list[dict[str, Any]]:
    """By tenth of the chance at acceptance: the mean of what was predicted, and the share that made its budget."""
    rows = []
    for tenth in range(TENTHS):
        runs = counts.get(f"{tenth}:runs", 0)
        shares = {
            name: round(counts.get(f"{tenth}:{of}", 0) / runs, 4) if runs else None
            for name, of in (("predicted", "chance"), (MADE, MADE))
        }
        rows.append({"from": tenth / TENTHS, "to": (tenth + 1) / TENTHS, "runs": round(runs), **shares})
    return rows


class Figures(Blocks):
    """The counts of one pipeline and class, which all processes of a store share by adding them."""

    def count(self, counts: dict[str, float], now: float) -> None:
        """Add the counts of a run that ended `now`, in epoch seconds."""
        self.add(int(now // (60 * BLOCK_MINUTES)) * BLOCK_MINUTES, {CELL: counts})

    def sums(self) -> dict[str, float]:
        """The counts of the blocks that are kept."""
        summed: dict[str, float] = {}
        for number in self.numbers():
            for counts in self.parts(number):
                for name, count in counts.get(CELL, {}).items():
                    summed[name] = summed.get(name, 0.0) + count
        return summed
