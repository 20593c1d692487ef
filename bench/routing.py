"""What belief saves clients, and how many runs it takes off wrongly; and what the wording of a request alone says.

1,385 turns of coding agents (bench/data/turns.csv.gz), replayed in order, learned as they end: always fast, always
deep, a rule by size, Offramp's belief with its bound, and an oracle. Also the CPU time of one decision. The part on
wording is in `routing_text.py`. See README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench import routing_text  # noqa: E402 - found through the line above
from bench._report import Target, show, table  # noqa: E402
from bench._turns import Seen, bounded, of_traces, recorded, replay  # noqa: E402
from offramp.core.belief import CELLS_MAX, Belief, Past, Progress  # noqa: E402
from offramp.core.features import FEATURES_MAX, Session, features  # noqa: E402
from offramp.core.harm import odds  # noqa: E402

BUDGET_S = 8.0
ALLOWED = 0.05
FROM_TURN = 300
DRAWS = 5
"""The control group is drawn anew so many times; figures are the means."""
LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2)
TIMED = 2_000


class Score(msgspec.Struct, frozen=True):
    """What one way to decide did to some turns.

    Attributes:
        turns: all of them.
        short: those that keep the budget.
        right: share of them whose path was right.
        waited_s: seconds on the fast path of turns that miss the budget.
        saved: the share by which that is less than if all stay.
        wrong: share of the turns that would have kept the budget that were taken off.
    """

    turns: int
    short: int
    right: float
    waited_s: float
    saved: float
    wrong: float


class Measured(msgspec.Struct, kw_only=True):
    """All results: scores by sessions and by way to decide, then the router's own report."""

    scores: dict[str, dict[str, Score]]
    limits: dict[str, Score]
    calibration: list[tuple[float, int, int]]
    reported: float
    counted: float
    reported_worst: float
    estimate_us: float
    chance_us: float
    features_us: float
    cells: int
    megabytes: float
    wording: routing_text.Measured


def score(seen: Sequence[Seen], taken: Sequence[float | None], budget_s: float) -> Score:
    """The outcome for these turns, if each was taken off then."""
    waited_s, right, wrong, short = 0.0, 0, 0, 0
    for one, off_s in zip(seen, taken, strict=True):
        is_short, stays = one.turn.took_s <= budget_s, off_s is None
        short += is_short
        right += is_short == stays
        wrong += is_short and not stays
        waited_s += 0.0 if is_short else budget_s if off_s is None else off_s
    most_s = budget_s * (len(seen) - short)
    return Score(len(seen), short, right / len(seen), waited_s, 1 - waited_s / most_s, wrong / max(1, short))


def mean(scores: Sequence[Score]) -> Score:
    """The mean of scores of the same turns."""
    first = scores[0]

    def of(name: str) -> float:
        return statistics.fmean(getattr(one, name) for one in scores)

    return Score(first.turns, first.short, of("right"), of("waited_s"), of("saved"), of("wrong"))


def by_size(seen: Sequence[Seen], budget_s: float) -> int:
    """The size from which an input goes deep, by the turns before those that count."""
    past = seen[:FROM_TURN]
    sizes = sorted({one.turn.input_tokens for one in past})

    def right(size: int) -> int:
        return sum((one.turn.input_tokens < size) == (one.turn.took_s <= budget_s) for one in past)

    return max(sizes, key=right)


def ways(seen: list[Seen], budget_s: float, allowed: float) -> dict[str, list[list[float | None]]]:
    """When each turn is taken off, by way to decide; ours once for each draw."""
    size = by_size(seen, budget_s)
    return {
        "always fast": [[None for _ in seen]],
        "always deep": [[0.0 for _ in seen]],
        f"deep from {size:,} tokens": [[0.0 if one.turn.input_tokens >= size else None for one in seen]],
        "belief": [bounded(seen, budget_s, allowed, seed)[0] for seed in range(DRAWS)],
        "oracle": [[None if one.turn.took_s <= budget_s else 0.0 for one in seen]],
    }


def at_limit(seen: Sequence[Seen], limit: float, budget_s: float) -> list[float | None]:
    """When each turn would be taken off by a fixed limit, without an account or a control."""
    most = odds(limit)
    return [
        next((at_s for at_s, chance in one.looks if odds(chance) < most * (1 - at_s / budget_s)), None) for one in seen
    ]


def calibrated(seen: Sequence[Seen], budget_s: float) -> list[tuple[float, int, int]]:
    """By chance at acceptance, in tenths: how many turns had it, and how many of them kept the budget."""
    rows = []
    for tenth in range(10):
        mine = [one.turn for one in seen if min(int(one.looks[0][1] * 10), 9) == tenth]
        if mine:
            rows.append((tenth / 10, len(mine), sum(turn.took_s <= budget_s for turn in mine)))
    return rows


def measure(seen: list[Seen], budget_s: float, allowed: float) -> Measured:
    """Everything that is reported."""
    groups = {
        "all sessions": [place for place in range(len(seen)) if place >= FROM_TURN],
        "sessions kept out of choosing": [
            place for place, one in enumerate(seen) if place >= FROM_TURN and one.turn.is_kept_out
        ],
    }
    scores: dict[str, dict[str, Score]] = {group: {} for group in groups}
    for way, takes in ways(seen, budget_s, allowed).items():
        for group, places in groups.items():
            mine = [seen[place] for place in places]
            scores[group][way] = mean([score(mine, [taken[place] for place in places], budget_s) for taken in takes])
    later = seen[FROM_TURN:]
    limits = {f"{limit:.0%}": score(later, at_limit(later, limit, budget_s), budget_s) for limit in LIMITS}
    runs = [bounded(seen, budget_s, allowed, seed)[1:] for seed in range(DRAWS)]
    reports = [(report.share or 0.0, counted) for report, counted in runs]
    estimate_us, chance_us, features_us, cells, megabytes = decisions()
    return Measured(
        scores=scores,
        limits=limits,
        calibration=calibrated(later, budget_s),
        reported=statistics.fmean(reported for reported, _ in reports),
        counted=statistics.fmean(counted for _, counted in reports),
        reported_worst=max(abs(reported - counted) for reported, counted in reports),
        estimate_us=estimate_us,
        chance_us=chance_us,
        features_us=features_us,
        cells=cells,
        megabytes=megabytes,
        wording=routing_text.measure(),
    )


def decisions() -> tuple[float, float, float, int, float]:
    """Microseconds of CPU time of an estimate, of a chance, and of the features; cells and MB of the belief."""

    def of(number: int) -> dict[str, object]:
        return {f"field{field}": f"value{number * (field + 3) % 31}" for field in range(FEATURES_MAX - 4)} | {
            "question": f"What is the size of {number}? " * (number % 9 + 1),
            "size": number * 37 % 50_000,
        }

    names = [f"step{number}" for number in range(8)]
    tracemalloc.start()
    belief, number = Belief(), 0
    while belief.cells < CELLS_MAX and number < 50_000:
        seen = features(of(number), session=Session(number % 9, (number % 40 + 1.0,)))
        ends = tuple((names[(number + step) % 8], step + 1.0) for step in range(4))
        belief.observe(Past(seen, 5.0 + number % 97, ends, BUDGET_S), number * 30.0)
        number += 1
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    inputs = [of(number) for number in range(TIMED)]
    session = Session(3, (2.0, 4.0))
    all_features = [features(given, session=session) for given in inputs]
    progress = Progress(3.0, (("step0", 1.0), ("step1", 2.5)))

    def median_us(times: list[float]) -> float:
        return statistics.median(times) * 1e6

    def timed(call: object, given: object) -> float:
        begun = time.process_time()
        call(given)  # type: ignore[operator]
        return time.process_time() - begun

    return (
        median_us([timed(lambda seen: belief.estimate(seen, BUDGET_S), seen) for seen in all_features]),
        median_us([timed(lambda seen: belief.chance(seen, BUDGET_S, progress), seen) for seen in all_features]),
        median_us([timed(lambda given: features(given, session=session), given) for given in inputs]),
        belief.cells,
        megabytes,
    )


def render(measured: Measured) -> str:
    """The tables."""
    parts = []
    titles = ["", "right", "waited for nothing", "less of it", "short sent deep"]
    for group, scores in measured.scores.items():
        any_score = next(iter(scores.values()))
        rows = [[way, *_cells(one)] for way, one in scores.items()]
        parts.append(f"{group}: {any_score.turns} turns, {any_score.short} of them short\n" + table(titles, rows))
    rows = [[limit, *_cells(one)] for limit, one in measured.limits.items()]
    parts.append("a fixed limit instead of the bound, all sessions\n" + table(["chance below", *titles[1:]], rows))
    rows = [
        [f"{low:.0%} to {low + 0.1:.0%}", f"{count:,}", f"{short / count:.0%}"]
        for low, count, short in measured.calibration
    ]
    parts.append(table(["chance at acceptance", "turns", "kept the budget"], rows))
    parts.append(
        f"taken off wrongly, over all turns: {measured.reported:.2%} reported, {measured.counted:.2%} counted\n"
        f"with {measured.cells:,} cells ({measured.megabytes:.1f} MB), CPU: an estimate with its reasons "
        f"{measured.estimate_us:.0f} µs, a chance under way {measured.chance_us:.0f} µs, the features of an input "
        f"{measured.features_us:.0f} µs"
    )
    return "\n\n".join([*parts, "what wording says\n" + routing_text.render(measured.wording)])


def _cells(one: Score) -> list[str]:
    return [f"{one.right:.0%}", f"{one.waited_s:,.0f} s", f"{one.saved:.1%}", f"{one.wrong:.1%}"]


def targets(measured: Measured) -> list[Target]:
    """The targets of the design."""
    made = []
    for group, scores in measured.scores.items():
        ours = scores["belief"]
        made.append(Target(f"less waiting for nothing, {group}", ours.saved * 100, 50, at_least=True, unit=" %"))
        made.append(Target(f"short turns taken off, {group}", ours.wrong * 100, 5, at_least=False, unit=" %"))
    apart = measured.reported_worst * 100
    slower = max(measured.estimate_us, measured.chance_us)
    return [
        *made,
        Target("reported beside counted, the farthest draw", apart, 2, at_least=False, unit=" points"),
        Target("CPU of a decision", slower, 100, at_least=False, unit=" µs"),
        *routing_text.targets(measured.wording),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="S", help=f"seconds; {BUDGET_S:g} by default")
    parser.add_argument("--allowed", type=float, default=ALLOWED, metavar="SHARE", help=f"{ALLOWED:g} by default")
    parser.add_argument("--traces", type=Path, nargs=2, metavar=("TURNS", "STEPS"), help="other traces, gzipped CSV")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    given = parser.parse_args()
    turns = of_traces(*given.traces) if given.traces else recorded()
    if len(turns) <= FROM_TURN:
        parser.error(f"{len(turns)} turns: only those from turn {FROM_TURN} on count")
    measured = measure(list(replay(turns, given.budget)), given.budget, given.allowed)
    show(measured, render(measured), targets(measured), as_document=given.json)


if __name__ == "__main__":
    main()
