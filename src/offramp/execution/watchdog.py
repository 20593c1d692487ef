"""Detects run loops that user code blocks, names the line, and lets a spare loop take the waiting runs.

It has a thread of its own, so no loop can stop it. `core/blocking.py` judges its samples.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
import math
import threading
import time
import weakref
from types import CodeType
from typing import Any, NamedTuple, Protocol

from offramp.core.blocking import Evidence, Sample, begin, judge
from offramp.execution import stacks
from offramp.execution.loops import RunLoop, RunLoops
from offramp.ports import forks

logger = logging.getLogger("offramp")

LOOK_EVERY_S = 0.02
PASSED_OVER_S = 0.04
"""A loop that user code holds for this long gets no new runs: a spare one takes them."""
CONTENTION_EVERY_S = 30.0
"""How often the log says that the interpreter is contended."""
CPU_EVERY_S = 1.0
"""The interval of notes of the CPU time of each thread, to compare later use with."""
CONTENTION_SHARE = 0.1
"""The share of the time since the note: a function that used this much CPU, over all threads, is named."""
NAMED_MAX = 3


_THREADS = (
    "%s has waited %.2f s for the interpreter, which other threads use: %s; give such steps "
    'lane="process", where they have an interpreter of their own'
)
_LATE = (
    "%s has waited %.2f s for its turn, as has the watchdog: other processes use the machine, or a call in C keeps "
    'the interpreter; steps that make such calls belong in lane="process"'
)


class Blocker(NamedTuple):
    """The code that blocks a loop; pipeline and step are empty if it runs in none, or in a task of its own."""

    pipeline: str
    step: str
    line: str


class Blocked(Protocol):
    """The receiver of reports of blocked loops."""

    def __call__(self, pipeline: str, step: str, seconds: float, *, newly: bool) -> object:
        """This step blocks a loop, for so many seconds since the last report."""


class _Watched:
    """The samples of a loop since its last unanswered probe."""

    def __init__(self, loop: RunLoop, asked_at: float) -> None:
        self.asked_at = asked_at
        self.evidence: Evidence = begin(_sample(loop, asked_at))
        self.seen: stacks.Standing | None = None
        self._task: Any = None
        self._code: CodeType | None = None
        self._holder = 0
        self._numbers = itertools.count(1)

    def look(self, loop: RunLoop, now: float, late_s: float) -> Evidence:
        """Sample the loop's thread once more."""
        self.seen = seen = stacks.standing(loop.thread.ident)
        task = asyncio.current_task(loop.loop)
        if seen is None:
            self._holder, self._code = 0, None
        elif seen.code is not self._code or task is not (self._task and self._task()):
            # The same code in another task is another step: many short ones do not block the loop.
            self._holder, self._code = next(self._numbers), seen.code
            self._task = None if task is None else weakref.ref(task)
        self.evidence = self.evidence.and_then(_sample(loop, now, late_s, self._holder))
        return self.evidence


class Watchdog:
    """Probes each run loop.

    Args:
        loops: the run loops.
        blocked_after: seconds after which a blocked loop is reported.
        blocked: called while a loop is blocked.
    """

    def __init__(self, loops: RunLoops, blocked_after: float, blocked: Blocked) -> None:
        self._loops = loops
        self._blocked_after = blocked_after
        self._blocked = blocked
        self._watched: dict[RunLoop, _Watched] = {}
        self._blockers: dict[RunLoop, tuple[Blocker, float]] = {}
        self._told_at: dict[str, float] = {}
        self._cpu: dict[threading.Thread, float] = {}
        self._cpu_at = -math.inf
        self._stop = threading.Event()
        forks.on_fork(stacks.quiet)
        self.thread = threading.Thread(target=self._run, name="offramp-watchdog", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._loops.end_watch()
        self.thread.join(1.0)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(LOOK_EVERY_S):
            now = time.monotonic()
            late_s = max(0.0, now - began - LOOK_EVERY_S)
            if not self._blockers:  # every reported block is reported to its end
                self._loops.wait_until_busy()  # without runs, neither loops nor this thread need to wake
            now = began = time.monotonic()
            for loop in list(self._loops.loops):
                if loop.busy or self._loops.waiting or loop in self._blockers:
                    self._probe(loop, now, late_s)
            if self._loops.waiting and self._loops.loops[0].held:
                self._loops.use_spare()

    def _probe(self, loop: RunLoop, now: float, late_s: float) -> None:
        probed_at = loop.probed_at  # once: the loop sets it back when it answers
        if loop in self._blockers:
            self._count(loop, now)
        if probed_at is None:
            if now - self._cpu_at >= CPU_EVERY_S:
                self._cpu, self._cpu_at = _cpu_of_threads(), now
            self._watched[loop] = _Watched(loop, now)
            loop.probed_at = now
            loop.call(beat, loop)
            return
        watched = self._watched[loop]
        evidence = watched.look(loop, now, late_s)
        if loop.probed_at != probed_at:
            return  # it answered during the look
        if not loop.held and judge(evidence, min(PASSED_OVER_S, self._blocked_after)) == "blocked":
            loop.held = True
        if loop.reported or now - probed_at < self._blocked_after:
            return
        verdict = judge(evidence, self._blocked_after)
        if verdict == "blocked" and watched.seen is not None:
            self._report(loop, now, now - probed_at, watched.seen)
        elif verdict == "contended":
            self._tell_contention(loop, now, watched)

    def _report(self, loop: RunLoop, now: float, seconds: float, seen: stacks.Standing) -> None:
        loop.reported = True
        blocker = Blocker(*stacks.step_of(loop.thread.ident), seen.line)
        self._blockers[loop] = blocker, now
        self._blocked(blocker.pipeline, blocker.step, seconds, newly=True)
        logger.warning(
            "%s has been blocked for %.2f s by %s; make the step a plain 'def' (it runs in a thread) or await "
            "something there. New runs use a spare loop meanwhile.",
            loop.name,
            seconds,
            blocker.line,
            extra={"pipeline": blocker.pipeline, "step": blocker.step} if blocker.step else None,
        )

    def _tell_contention(self, loop: RunLoop, now: float, watched: _Watched) -> None:
        waited = now - watched.asked_at
        if self._is_due(_THREADS, now):
            but = {loop.thread, threading.main_thread()}
            if lines := _lines_of(_used_since(self._cpu, now - self._cpu_at, but)):
                self._told_at[_THREADS] = now
                logger.warning(_THREADS, loop.name, waited, "; ".join(lines))
                return
        if watched.evidence.whole.is_late and self._is_due(_LATE, now):
            self._told_at[_LATE] = now
            logger.warning(_LATE, loop.name, waited)

    def _is_due(self, message: str, now: float) -> bool:
        return now - self._told_at.get(message, -math.inf) >= CONTENTION_EVERY_S

    def _count(self, loop: RunLoop, now: float) -> None:
        blocker, told_at = self._blockers[loop]
        self._blocked(blocker.pipeline, blocker.step, now - told_at, newly=False)
        if loop.reported:
            self._blockers[loop] = blocker, now
        else:
            del self._blockers[loop]


def beat(loop: RunLoop) -> None:
    """Say that the loop runs; called on it."""
    now = time.monotonic()
    if loop.reported and loop.probed_at is not None:
        logger.warning("%s runs again after %.2f s", loop.name, now - loop.probed_at)
    loop.held = loop.reported = False
    loop.probed_at = None


def _sample(loop: RunLoop, now: float, late_s: float = 0.0, holder: int = 0) -> Sample:
    return Sample(now, late_s, holder, stacks.cpu_s(loop.thread.native_id), time.process_time())


def _cpu_of_threads() -> dict[threading.Thread, float]:
    return {thread: stacks.cpu_s(thread.native_id) or 0.0 for thread in threading.enumerate()}


def _used_since(before: dict[threading.Thread, float], seconds: float, but: set[threading.Thread]) -> dict[int, float]:
    """The shares of a period that other threads spent on a CPU, by the thread's id."""
    return {
        thread.ident: (used - before.get(thread, 0.0)) / seconds
        for thread, used in _cpu_of_threads().items()
        if thread not in but and thread.ident is not None
    }


def _lines_of(shares: dict[int, float]) -> list[str]:
    """The lines of user code of these threads, one for each function, with its CPU use, the largest first."""
    used: dict[CodeType, float] = collections.defaultdict(float)
    lines: dict[CodeType, str] = {}
    for thread, seen in stacks.all_standing().items():
        used[seen.code] += shares.get(thread, 0.0)
        lines[seen.code] = seen.line
    largest = sorted(used, key=lambda code: -used[code])[:NAMED_MAX]
    return [f"{lines[code]} ({used[code]:.0%} of a CPU)" for code in largest if used[code] >= CONTENTION_SHARE]
