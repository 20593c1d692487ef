"""What is believed of a pipeline's durations: learned from its ended runs, and asked about the next ones. Pure.

A cell is a histogram of log durations: of all runs of a pipeline and class, or of those with one feature. The belief
for a run starts from the cell of all runs and multiplies in what each of its features says, each shrunk towards all
runs (naive Bayes over the bands of the histogram). After each finished step, cells of their own hold the time that was
left then. Counts are additive, so gateways share a belief by adding. They are kept in blocks, by when they were
learned: later runs halve the weight of a block, and a break (the pipeline became faster or slower) cuts it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import NamedTuple

from offramp.core.bands import Cell, Counts, above, place_of, quantiles, weights_of
from offramp.core.blocks import BLOCK_MINUTES, BLOCKS_KEPT, Blocks
from offramp.core.features import Features, in_words

STEPS_MAX = 4
"""Finished steps of a run after which the time left is learned."""
VALUES_MAX = 32
"""Values of one feature with a cell of their own; further ones share one."""
RARE = 0.01
"""The share of runs below which a value holds no place among these from the next block on."""
NAMES_MAX = 64
"""Named features that are counted at one stage of a run: an input with other fields each time has ever new ones."""
CELLS_MAX = 10_000
"""Cells of one belief; beyond it no further feature is counted."""
BLOCK_RUNS = 128
"""The fewest runs of a full block."""
HALF_LIFE_RUNS = 1_000
"""Later runs that halve the weight of a block."""
HALF_LIFE_MINUTES = 14 * 1440
"""Minutes that halve the weight of a block."""
BROKEN_WEIGHT = 0.005
"""What runs before a break count in the belief after it."""
WEIGHT_MIN = 1e-9
"""A block with a smaller weight counts no more."""
UNKNOWN = 1.0
"""Runs that are taken to have kept their budget, and as many that have missed it, before any is known."""


class Mix(NamedTuple):
    """How the features are believed together.

    Args:
        temper: how far; correlated ones say the same thing twice, so less may be right.
        shrunk_to: how many runs of the whole weigh as much as a feature's own; little where features tell surely.
    """

    temper: float
    shrunk_to: float

    @property
    def name(self) -> str:
        return f"{self.temper:g} {self.shrunk_to:g}"


MIXES = (Mix(1.0, 10.0), Mix(1.0, 1.0), *(Mix(temper, 10.0) for temper in (0.7, 0.5, 0.35, 0.15)))
"""The mix that foretold best which runs keep their budgets is used; at first the first one."""
LOOKS = (0.0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875)
"""When a run on the fast path is looked at again, in parts of its budget; also whenever one of its steps has ended."""
MISSES_MIN = 0.2
"""Runs above the budget up to which every run is expected to make it."""
DRIFT_SLACK, DRIFT_LIMIT = 0.75, 12.0
"""A cumulative sum test: by how many standard deviations runs may differ from the belief, and the sum of what they
differ beyond that at which the pipeline is taken to have changed."""
DRIFT_SOURCE_MAX = 7.0
"""What one tenant, or one session, may add to that sum while others have runs too: two have to say the same."""
SOURCES_SEEN = 200
"""Runs whose tenants and sessions are remembered for that."""
DRIFT_RUNS_MIN = 20
"""Runs from which a belief is firm enough to be found wrong."""
SCORE_MIN = 0.001
"""The least chance that a mix is charged for: one odd run decides nothing."""
NOTES, RUNS, BREAK = "!", "runs", "break"
"""The cell of a block with its notes: its runs, the scores of the mixes, and whether it began with a break."""
_NORMAL = NormalDist()


class Progress(NamedTuple):
    """How far a run has come.

    Args:
        elapsed_s: seconds for which it has moved.
        steps: its finished steps in the order of their ends, with the seconds for which the run had moved then.
    """

    elapsed_s: float = 0.0
    steps: tuple[tuple[str, float], ...] = ()


JUST_BEGUN = Progress()


class Past(NamedTuple):
    """A run that ended.

    Args:
        features: what it is compared by.
        took_s: seconds for which it moved.
        steps: its finished steps in the order of their ends, with the seconds for which the run had moved then.
        budget_s: its budget on the fast path; None if it had none.
        sources: its tenant and its session, or names for them; an empty one is not told from others.
    """

    features: Features
    took_s: float
    steps: tuple[tuple[str, float], ...] = ()
    budget_s: float | None = None
    sources: tuple[str, ...] = ()

    def at(self, elapsed_s: float) -> Progress:
        """How far it had come then."""
        return Progress(elapsed_s, tuple(step for step in self.steps if step[1] <= elapsed_s))


class Estimate(NamedTuple):
    """What is expected of a run.

    Args:
        p50_s: the median of the seconds that it will have moved in all.
        p95_s: their 95th percentile.
        chance: of ending within the budget; 1 if nothing is known.
        runs: ended runs that this rests on, older ones in part.
        reasons: sentences for a person.
    """

    p50_s: float
    p95_s: float
    chance: float
    runs: int
    reasons: tuple[str, ...]


NOTHING_KNOWN = Estimate(0.0, 0.0, 1.0, 0, ("no run of this pipeline has ended yet",))


class _Left(NamedTuple):
    """The time that a run has left after its last finished step: the cells that say it, and the belief from them."""

    stage: str
    since_s: float
    whole: Cell
    cells: list[tuple[str, Cell]]
    weights: list[tuple[int, float]]

    def chance(self, elapsed_s: float, budget_s: float) -> float:
        if budget_s <= elapsed_s:
            return 0.0
        gone_s = elapsed_s - self.since_s
        ahead = above(self.weights, place_of(gone_s)) if gone_s > 0 else sum(weight for _, weight in self.weights)
        late = above(self.weights, place_of(budget_s - self.since_s))
        unknown = UNKNOWN / (self.whole.runs + 1)
        return (ahead - late + unknown) / (ahead + 2 * unknown)


class Belief:
    """What is believed of the runs of one pipeline and class."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._drift = _Drift()
        self._look_over()

    @property
    def runs(self) -> float:
        """Ended runs that it rests on, older ones in part."""
        whole = self._cells.get("|")
        return whole.runs if whole else 0.0

    @property
    def cells(self) -> int:
        """The number of cells."""
        return len(self._cells)

    def estimate(
        self, features: Features, budget_s: float, progress: Progress = JUST_BEGUN, *, exact: bool = True
    ) -> Estimate:
        """What is expected of a run.

        Args:
            features: what it is compared by.
            budget_s: its budget in seconds.
            progress: how far it has come.
            exact: False for a run of a tenant: counts would tell how many runs other tenants have.
        """
        left = self._left(features, progress.steps)
        if left is None:
            return NOTHING_KNOWN
        ahead = _ahead(left.weights, progress.elapsed_s - left.since_s)
        elapsed_s, since_s = progress.elapsed_s, left.since_s
        p50_s, p95_s = (
            [max(elapsed_s, since_s + more_s) for more_s in quantiles(ahead, (0.5, 0.95))] if ahead else [elapsed_s] * 2
        )
        chance = left.chance(elapsed_s, budget_s)
        runs = round(left.whole.runs) if exact else rounded_down(left.whole.runs)
        return Estimate(p50_s, p95_s, chance, runs, _reasons(left, budget_s, progress, exact=exact))

    def chance(self, features: Features, budget_s: float, progress: Progress = JUST_BEGUN) -> float:
        """The chance of ending within the budget alone, as `estimate` gives it: the cheaper half."""
        left = self._left(features, progress.steps)
        return 1.0 if left is None else left.chance(progress.elapsed_s, budget_s)

    def may_miss(self, budget_s: float) -> bool:
        """Whether any run is known to have taken longer, as far as it still counts; cheap."""
        whole = self._cells.get("|")
        return whole is not None and whole.above(budget_s) > MISSES_MIN

    def looked_at(self, past: Past, budget_s: float) -> Iterator[tuple[float, float]]:
        """When an ended run was, or would have been, looked at on the fast path, and its chance then by this belief."""
        ends = [at_s for _, at_s in past.steps if at_s < past.took_s]
        times = {part * budget_s for part in LOOKS if part * budget_s < past.took_s}
        for elapsed_s in sorted(times | {at_s for at_s in ends[:STEPS_MAX] if at_s < budget_s}):
            yield elapsed_s, self.chance(past.features, budget_s, past.at(elapsed_s))

    def observe(self, past: Past, now: float) -> None:
        """Learn from a run that ended.

        Args:
            past: the run.
            now: epoch seconds.
        """
        whole = self._cells.get("|")
        notes = {RUNS: 1.0} if whole is None else {RUNS: 1.0, **self._judged(past, whole)}
        block = self._block(int(now // 60))
        learned: Counts = {NOTES: notes}
        for stage, since_s in _stages(past.steps, past.took_s):
            weights = weights_of(past.took_s - since_s)
            learned |= dict.fromkeys(self._keys_of(stage, past.features), weights)
        self._blocks.add(block, learned)
        self._see(learned, 1.0)

    def take(self) -> dict[int, Counts]:
        """What was learned here since the last call, by block: the store adds it to what it has."""
        return self._blocks.take()

    def put_back(self) -> None:
        """The store has not added what was taken last: the next `take` gives it again."""
        self._blocks.put_back()

    def replace(self, blocks: Mapping[int, Counts]) -> None:
        """Believe the sums that the store has, which include what was taken here, and what was learned here since."""
        self._blocks.replace(blocks)
        self._look_over()

    def written(self) -> None:
        """The sums given with `replace` have what was taken here since: the store and their owner have added it."""
        self._blocks.written()

    def added(self, blocks: Mapping[int, Counts]) -> bool:
        """Other processes have added this to the sums given with `replace`: cheaper than to give them again.

        Returns:
            Whether it counts now. A new block or a break weighs the others anew: then the sums have to be given again.
        """
        if any(number not in self._times or counts.get(NOTES, {}).get(BREAK) for number, counts in blocks.items()):
            return False
        for number, counts in blocks.items():
            if self._times[number]:
                self._see(counts, self._times[number])
        return True

    def expired(self) -> list[int]:
        """Blocks that count no more: the store may delete them."""
        return self._blocks.expired()

    def _look_over(self) -> None:
        """Sum the blocks into the cells, each by its weight."""
        self._cells: dict[str, Cell] = {}
        self._values: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._scores = dict.fromkeys(MIXES, 0.0)
        self._times: dict[int, float] = {}
        numbers = self._blocks.numbers()
        later, times = 0.0, 1.0
        for number in numbers:
            decay = 2.0 ** -(later / HALF_LIFE_RUNS + (numbers[0] - number) / HALF_LIFE_MINUTES)
            weight = self._times[number] = times * decay if times * decay > WEIGHT_MIN else 0.0
            for counts in self._blocks.parts(number) if weight else ():
                self._see(counts, weight)
            later += self._blocks.sum(number, NOTES, RUNS)
            if self._blocks.sum(number, NOTES, BREAK):
                times = BROKEN_WEIGHT
                self._drift.began_with(number)
        self._free_places()

    def _free_places(self) -> None:
        """Let rare values hold no place: one tenant with many would keep those of all others from being counted."""
        self._values = dict.fromkeys(self._values, 0)
        for key, cell in self._cells.items():
            whole = self._cells.get(f"{key.partition('|')[0]}|")
            if whole is None or cell.runs >= RARE * whole.runs:
                self._values[key.rpartition(":")[0]] += 1

    def _see(self, counts: Mapping[str, Mapping[str, float]], times: float) -> None:
        for key, weights in counts.items():
            if key == NOTES:
                for mix in MIXES:
                    self._scores[mix] += times * weights.get(mix.name, 0.0)
                continue
            if key not in self._cells:
                if len(self._cells) >= CELLS_MAX:
                    continue
                self._cells[key] = Cell()
                name = key.rpartition(":")[0]
                is_new = name not in self._values
                self._values[name] = self._values.get(name, 0) + 1
                if is_new:
                    stage = key.partition("|")[0]
                    self._names[stage] = self._names.get(stage, 0) + 1
            self._cells[key].add(weights, times)
        self._mix = max(MIXES, key=self._scores.__getitem__)

    def _block(self, minute: int) -> int:
        """The block that counts now; a new one if the latest is full, or the pipeline has changed."""
        latest = max(self._blocks.numbers(), default=None)
        if latest is None:
            return minute
        if self._drift.is_over:
            latest = max(latest + 1, minute)
            self._blocks.add(latest, {NOTES: {BREAK: 1.0}})
            self._look_over()
        elif minute - latest >= BLOCK_MINUTES and self._is_full(latest):
            latest = minute
            self._blocks.add(latest, {})
            self._look_over()
        return latest

    def _is_full(self, block: int) -> bool:
        return self._blocks.sum(block, NOTES, RUNS) >= max(BLOCK_RUNS, self.runs / BLOCKS_KEPT)

    def _keys_of(self, stage: str, features: Features) -> Iterator[str]:
        """The cells of a run; a value too many of one feature counts with the others of its kind.

        A feature too many is not counted: the cells of one pipeline are as many as those of the next.
        """
        yield f"{stage}|"
        for feature in features:
            key = f"{stage}|{feature}"
            name = key.rpartition(":")[0]
            if key not in self._cells and self._values.get(name, 0) >= VALUES_MAX:
                key = f"{name}:*"
            is_known = name in self._values or self._names.get(stage, 0) < NAMES_MAX
            if key in self._cells or (is_known and len(self._cells) < CELLS_MAX):
                yield key

    def _judged(self, past: Past, whole: Cell) -> dict[str, float]:
        """How well each mix expected this run; and whether its like has changed."""
        left = self._left(past.features, ())
        cells = [cell for _, cell in left.cells] if left else []
        ratios = {shrunk_to: _ratios(whole, cells, shrunk_to) for shrunk_to in {mix.shrunk_to for mix in MIXES}}
        scores = {}
        budget_s = past.budget_s or 0.0
        for mix in MIXES if budget_s else ():
            weights = _tempered(whole, ratios[mix.shrunk_to], mix.temper)
            chance = _Left("", 0.0, whole, [], weights).chance(0.0, budget_s)
            came_true = chance if past.took_s <= budget_s else 1 - chance
            scores[mix.name] = math.log(max(came_true, SCORE_MIN))
        if left and whole.runs >= DRIFT_RUNS_MIN:
            late = above(left.weights, place_of(past.took_s))
            self._drift.add(1 - late / sum(weight for _, weight in left.weights), past.sources)
        return scores

    def _left(self, features: Features, steps: tuple[tuple[str, float], ...]) -> _Left | None:
        """What the latest of its stages says that was seen before."""
        for stage, since_s in reversed(list(_stages(steps))):
            whole = self._cells.get(f"{stage}|")
            if whole is None or not whole.weights:
                continue
            cells = []
            for feature in features:
                shown, cell = feature, self._cells.get(f"{stage}|{feature}")
                if cell is None:
                    shown = f"{feature.rpartition(':')[0]}:*"
                    cell = self._cells.get(f"{stage}|{shown}")
                if cell is not None:
                    cells.append((shown, cell))
            ratios = _ratios(whole, [cell for _, cell in cells], self._mix.shrunk_to)
            weights = _tempered(whole, ratios, self._mix.temper)
            return _Left(stage, since_s, whole, cells, weights)
        return None


class _Drift:
    """Notices that runs have become faster or slower than believed.

    It sums how far from the middle of its expected distribution each run lies, in standard deviations.
    """

    def __init__(self) -> None:
        self._slower = self._faster = 0.0
        self._block: int | None = None
        self._lately: deque[tuple[tuple[str, ...], float]] = deque(maxlen=SOURCES_SEEN)
        """The sources of the latest runs, and what each run added: below 0 if it was faster."""

    @property
    def is_over(self) -> bool:
        return max(self._slower, self._faster) > DRIFT_LIMIT

    def add(self, rank: float, sources: tuple[str, ...]) -> None:
        """A run of these sources that took longer than this share of its like."""
        differs = _NORMAL.inv_cdf(min(max(rank, 0.02), 0.98))
        slower, faster = (
            min(more, self._allowed(sources, sign)) if (more := sign * differs - DRIFT_SLACK) > 0 else more
            for sign in (1, -1)
        )
        self._slower = max(0.0, self._slower + slower)
        self._faster = max(0.0, self._faster + faster)
        self._lately.append((sources, max(0.0, slower) - max(0.0, faster)))

    def _allowed(self, sources: tuple[str, ...], sign: int) -> float:
        """What a run of these sources may add."""
        allowed = math.inf
        for place, source in enumerate(sources):
            same = [added for others, added in self._lately if others[place : place + 1] == (source,)]
            if source and len(same) < len(self._lately):
                given = sum(abs(added) for added in same if added * sign > 0)
                allowed = min(allowed, max(0.0, DRIFT_SOURCE_MAX - given))
        return allowed

    def began_with(self, block: int) -> None:
        """Begin again with a block that another process or this one opened for the change."""
        if self._block is None or block > self._block:
            self._slower = self._faster = 0.0
            self._block = block


def _stages(steps: tuple[tuple[str, float], ...], took_s: float = math.inf) -> Iterator[tuple[str, float]]:
    """The stages of a run, with the seconds at which each began: its start, and the end of each of its first steps."""
    yield "", 0.0
    for number, (name, at_s) in enumerate(steps[:STEPS_MAX], 1):
        if at_s < took_s:
            yield f"{number} {name.replace('|', ' ')}", at_s


def _ratios(whole: Cell, cells: list[Cell], shrunk_to: float) -> list[float]:
    """How much likelier the features make each band of the whole."""
    runs = whole.runs
    odds = [(band, runs / weight) for band, weight in whole.weights.items()]
    ratios = [1.0] * len(odds)
    for cell in cells:
        of, times = cell.weights.get, 1 / (cell.runs + shrunk_to)
        ratios = [
            ratio * (of(band, 0.0) * more + shrunk_to) * times for ratio, (band, more) in zip(ratios, odds, strict=True)
        ]
    return ratios


def _tempered(whole: Cell, ratios: list[float], temper: float) -> list[tuple[int, float]]:
    """The weight of each band."""
    pairs = zip(whole.weights.items(), ratios, strict=True)
    if temper == 1.0:
        return [(band, weight / whole.runs * ratio) for (band, weight), ratio in pairs]
    return [(band, weight / whole.runs * ratio**temper) for (band, weight), ratio in pairs]


def _ahead(weights: list[tuple[int, float]], gone_s: float) -> list[tuple[int, float]]:
    """The weights of the time that is not over."""
    if gone_s <= 0:
        return weights
    place = place_of(gone_s)
    return [(band, weight * min(1.0, band + 1 - place)) for band, weight in weights if band + 1 > place]


def rounded_down(runs: float) -> int:
    """A number of runs that tells little about the tenants that have them: 0, 1, 10, 100, 1,000 or 10,000."""
    return next((most for most in (10_000, 1_000, 100, 10, 1) if round(runs) >= most), 0)


def chance_in_words(chance: float, elapsed_s: float, *, exact: bool) -> str:
    """A sentence about the chance that a run had under way; `exact` as in `Belief.estimate`."""
    shown = f"{chance:.1%}" if exact else f"about {round(chance * 20) * 5}%" if chance >= 0.05 else "less than 5%"
    return f"the chance that it ends within its budget was {shown} after {_seconds(elapsed_s)} s"


def _reasons(left: _Left, budget_s: float, progress: Progress, *, exact: bool) -> tuple[str, ...]:
    """What the most telling feature says."""
    gone_s = progress.elapsed_s - left.since_s
    gone, until = place_of(gone_s) if gone_s > 0 else None, place_of(budget_s - left.since_s)
    late, runs = _late_of(left.whole, gone, until)
    odds, furthest, telling = _odds(late, runs), -1.0, None
    for feature, cell in left.cells:
        share = _late_of(cell, gone, until)
        differs = abs(_odds(*share) - odds)
        if differs > furthest:
            (late, runs), furthest, telling = share, differs, feature
    done = [f"had finished {_steps(len(progress.steps))}"] if left.stage else []
    if gone is not None:
        done.append(f"were still running after {_seconds(progress.elapsed_s)} s")
    did = " and ".join(done)
    like_this = " like this" if telling is not None or not did else ""
    if telling is not None:
        like_this += f", {in_words(telling)},"
    if did:
        like_this += f" that {did}"
    is_late = late * 2 >= runs
    whole, most = round(runs), round(late if is_late else runs - late)
    if not whole:
        return (f"hardly any recent runs{like_this or ' like this'} are known".replace(", are", " are"),)
    which = _counted(most, whole, is_all=bool(did)) if exact else _share(max(late, runs - late) / runs)
    return (f"{which} runs{like_this} took {'' if is_late else 'no '}longer than {budget_s:g} s",)


def _counted(most: int, runs: int, *, is_all: bool) -> str:
    return f"{'all' if is_all and most == runs > 1 else most} of the last {runs}"


def _share(share: float) -> str:
    """A share that does not tell of how many: above one half, to the next tenth."""
    percent = round(share * 10) * 10
    return "nearly all recent" if percent >= 100 else f"about {percent}% of recent"


def _steps(number: int) -> str:
    return f"{number} step{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


def _late_of(cell: Cell, gone: float | None, until: float) -> tuple[float, float]:
    """How many of the runs of a cell that were still going took longer than the budget, and how many were."""
    runs = cell.runs if gone is None else above(cell.weights.items(), gone)
    return min(runs, cell.above_place(until)), runs


def _odds(late: float, runs: float) -> float:
    return math.log((late + 1) / (runs - late + 1))
