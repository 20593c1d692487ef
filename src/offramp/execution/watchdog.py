"""Sees run loops that user code blocks, names the line, and lets a spare loop take the waiting runs.

A thread of its own: nothing a loop does can stop it from looking.
"""

from __future__ import annotations

import gc
import logging
import sys
import sysconfig
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol

from offramp.execution.attempt import Attempt
from offramp.execution.lanes import Lanes
from offramp.execution.loops import RunLoop, RunLoops
from offramp.execution.runner import Execution

log = logging.getLogger("offramp")

TAKEN_WITHIN_S = 0.02
"""A run that the first loop does not take within this time goes to a spare loop."""

_LOOKING = threading.Lock()
"""One watchdog at a time, as the collector is the process's."""
_OWN = str(Path(__file__).resolve().parent.parent)
_FOREIGN = tuple(
    str(Path(path).resolve())
    for path in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


class Blocker(NamedTuple):
    """The code that blocks a loop; pipeline and step are empty where it runs in none, or in a task of its own."""

    pipeline: str = ""
    step: str = ""
    line: str = "code that is not on its stack any more"


class Blocked(Protocol):
    """Who is told of blocked loops."""

    def __call__(self, pipeline: str, step: str, seconds: float, *, newly: bool) -> object:
        """A loop is blocked by this step, for so many seconds since it was told last."""


class Watchdog:
    """Probes each run loop.

    Args:
        loops: which.
        blocked_after: seconds after which one is reported.
        blocked: told while one is.
    """

    def __init__(self, loops: RunLoops, blocked_after: float, blocked: Blocked) -> None:
        self._loops = loops
        self._blocked_after = blocked_after
        self._blocked = blocked
        self._blockers: dict[RunLoop, tuple[Blocker, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="offramp-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._loops.end_watch()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(TAKEN_WITHIN_S):
            if not self._blockers:  # what was told of them is to be told to its end
                self._loops.wait_until_busy()  # where nothing runs, neither loops nor this thread need to wake up
            now = time.monotonic()
            for loop in list(self._loops.loops):
                if loop.busy or self._loops.waiting or loop in self._blockers:
                    self._probe(loop, now)
            if self._loops.waiting and self._loops.loops[0].silent:
                self._loops.use_spare()

    def _probe(self, loop: RunLoop, now: float) -> None:
        probed_at = loop.probed_at  # once: the loop sets it back when it answers
        if loop in self._blockers:
            self._count(loop, now)
        if probed_at is None:
            loop.probed_at = now
            loop.call(_beat, loop)
            return
        loop.silent = now - probed_at >= TAKEN_WITHIN_S
        if not loop.reported and now - probed_at >= self._blocked_after:
            loop.reported = True
            blocker = blocker_of(loop.thread.ident)
            self._blockers[loop] = blocker, now
            self._blocked(blocker.pipeline, blocker.step, now - probed_at, newly=True)
            log.warning(
                "%s has been blocked for %.2f s by %s; make the step a plain 'def' (it runs in a thread) or await "
                "something there. New runs use a spare loop meanwhile.",
                loop.name,
                now - probed_at,
                blocker.line,
                extra={"pipeline": blocker.pipeline, "step": blocker.step} if blocker.step else None,
            )

    def _count(self, loop: RunLoop, now: float) -> None:
        blocker, told_at = self._blockers[loop]
        self._blocked(blocker.pipeline, blocker.step, now - told_at, newly=False)
        if loop.reported:
            self._blockers[loop] = blocker, now
        else:
            del self._blockers[loop]


def _beat(loop: RunLoop) -> None:
    now = time.monotonic()
    if loop.reported and loop.probed_at is not None:
        log.warning("%s runs again after %.2f s", loop.name, now - loop.probed_at)
    loop.silent = loop.reported = False
    loop.probed_at = None


def blocker_of(thread_id: int | None) -> Blocker:
    """What runs on a thread now.

    Its line is `file:line in function (source)` of the innermost user code on the stack, any code if there is none.
    """
    frame = frame_of(thread_id or 0)
    if frame is None:
        return Blocker()
    pipeline, step = _step_of(frame)
    stack = traceback.extract_stack(frame)
    mine = [line for line in stack if is_user_code(line.filename)]
    line = (mine or stack)[-1]
    return Blocker(pipeline, step, f"{line.filename}:{line.lineno} in {line.name} ({line.line})")


def frame_of(thread_id: int) -> FrameType | None:
    """The innermost frame of a thread, looked up while no garbage is collected.

    Before 3.11.9 CPython makes the frames under the lock of its list of threads, and collects a `threading.local` under
    the same one: a collection that comes with one of the frames stops the whole process for ever (gh-106883).
    """
    with _LOOKING:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames().get(thread_id)
        finally:
            if collects:
                gc.enable()


def _step_of(frame: FrameType | None) -> tuple[str, str]:
    """The pipeline and step that a stack is inside of: a coroutine's callers are on it while it runs."""
    while frame is not None:
        attempt = frame.f_locals.get("attempt") if frame.f_code is Lanes.run.__code__ else None
        if isinstance(attempt, Attempt):
            return attempt.scope.facts.pipeline, attempt.spec.name
        execution = frame.f_locals.get("self") if frame.f_code is Execution._main.__code__ else None  # noqa: SLF001
        if isinstance(execution, Execution):
            return execution.scope.facts.pipeline, ""
        frame = frame.f_back
    return "", ""


def is_user_code(filename: str) -> bool:
    path = str(Path(filename).resolve()) if not filename.startswith("<") else filename
    return not path.startswith((_OWN, "<", *_FOREIGN))
