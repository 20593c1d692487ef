"""Early demotion: a run that is expected to miss its budget leaves the fast path before its budget ends.

A run is looked at when one of its first steps ends and at fixed parts of its budget: at most `STEPS_MAX` and
`len(LOOKS)` times, and not at all while nothing speaks against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from offramp.core.belief import LOOKS, STEPS_MAX, Estimate, Progress, chance_in_words
from offramp.core.features import Features
from offramp.core.leaving import OVER, State
from offramp.core.run import RunRecord
from offramp.paths.learning import Learning
from offramp.paths.process import Process
from offramp.paths.verdicts import Verdicts
from offramp.ports.clock import Timer


class Fast(Protocol):
    """The part of an executing run on the fast path that is looked at."""

    began: float
    waited_s: float
    record: RunRecord

    @property
    def state(self) -> State:
        """Its state in this process."""

    def moved(self) -> Progress:
        """How far it has come."""


R = TypeVar("R", bound=Fast)


class _Watch(Generic[R]):
    """A run that may miss its budget: what it is compared by, its looks so far, and the timer of the next one."""

    __slots__ = ("looks", "run", "seen", "steps", "timer")

    def __init__(self, run: R) -> None:
        self.run = run
        self.seen: Features | None = None
        self.looks = self.steps = 0
        self.timer: Timer | None = None


class EarlyDemotion(Generic[R]):
    """Looks at the fast runs of a process.

    Args:
        process: this process.
        learning: what is known about the durations of runs.
        verdicts: decides whether a run stays.
        demote: called on the control loop with a run that is to leave, its estimate, and the reasons in sentences. If
            the run does not leave for them, it takes the verdict back.
    """

    def __init__(
        self,
        process: Process,
        learning: Learning,
        verdicts: Verdicts,
        demote: Callable[[R, Estimate, Sequence[str]], object],
    ) -> None:
        self._process = process
        self._learning = learning
        self._verdicts = verdicts
        self._demote = demote
        self._watched: dict[str, _Watch[R]] = {}

    def begin(self, run: R) -> bool:
        """Watch a run that begins on the fast path, if it may leave early; returns whether it does."""
        record = run.record
        if not self._learning.doubts(record.pipeline, record.sla, record.budget_s):
            return False
        if not self._process.classes[record.sla].early_demotion or self._verdicts.doubt_of(record.id):
            return False
        watch = self._watched[record.id] = _Watch(run)
        self._look_later(watch)
        if run.state in OVER:  # it has been forgotten already
            self.forget(record.id)
        return True

    def forget(self, run_id: str) -> None:
        """Look no more at a run."""
        watch = self._watched.pop(run_id, None)
        if watch is not None and watch.timer is not None:
            watch.timer.cancel()

    def step_ended(self, run: R) -> None:
        """Look at a run if one of its first steps has ended. Before the first fixed look there is little to gain."""
        watch = self._watched.get(run.record.id)
        if watch is None or watch.steps >= STEPS_MAX:
            return
        watch.steps += 1
        if self._process.clock.monotonic() - run.began >= LOOKS[1] * run.record.budget_s:
            self._process.control.call(self._look, watch)

    def _look_later(self, watch: _Watch[R]) -> None:
        """Set the timer of the next fixed look. The look at acceptance was the router's."""
        watch.looks += 1
        if watch.looks < len(LOOKS):
            clock, run = self._process.clock, watch.run
            due = run.began + LOOKS[watch.looks] * run.record.budget_s
            watch.timer = clock.call_at(due, lambda: self._process.control.call(self._look_on, watch))

    def _look_on(self, watch: _Watch[R]) -> None:
        if self._look(watch):
            self._look_later(watch)

    def _look(self, watch: _Watch[R]) -> bool:
        """Have a run leave that is expected to miss its budget; returns whether it is looked at again."""
        run, record = watch.run, watch.run.record
        if record.id not in self._watched or run.state != "running" or record.path != "fast":
            return False
        if watch.seen is None:
            watch.seen = self._learning.features_of(record.pipeline, record.input, record.seen, record.tenant)
        elapsed_s, moved = self._process.clock.monotonic() - run.began, run.moved()
        left_s = record.budget_s - run.waited_s - elapsed_s
        if left_s <= 0:
            return False
        # What it waited for others is lost for its budget, and says nothing about its own time.
        moves_s = moved.elapsed_s + left_s
        exact = not record.tenant
        estimate = self._learning.estimate(record.pipeline, record.sla, watch.seen, moves_s, moved, exact=exact)
        verdict = self._verdicts.verdict(record.id, record.pipeline, record.sla, estimate, left_s / record.budget_s)
        if verdict == "stay":
            return True
        self.forget(record.id)
        if verdict == "demote":
            chance = chance_in_words(estimate.chance, elapsed_s, exact=exact)
            self._demote(run, estimate, [*estimate.reasons, chance])
        return False
