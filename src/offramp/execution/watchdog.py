"""Sees run loops that user code blocks, names the line, and lets a spare loop take the waiting runs.

A thread of its own: nothing a loop does can stop it from looking.
"""

from __future__ import annotations

import logging
import sys
import sysconfig
import threading
import time
import traceback
from pathlib import Path

from offramp.execution.loops import RunLoop, RunLoops

log = logging.getLogger("offramp")

TAKEN_WITHIN_S = 0.02
"""A run that the first loop does not take within this time goes to a spare loop."""

_OWN = str(Path(__file__).resolve().parent.parent)
_FOREIGN = tuple(
    str(Path(path).resolve())
    for path in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


class Watchdog:
    """Probes each run loop; `blocked_after` in seconds."""

    def __init__(self, loops: RunLoops, blocked_after: float) -> None:
        self._loops = loops
        self._blocked_after = blocked_after
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
            self._loops.wait_until_busy()  # where nothing runs, neither loops nor this thread need to wake up
            now = time.monotonic()
            for loop in list(self._loops.loops):
                if loop.busy or self._loops.waiting:
                    self._probe(loop, now)
            if self._loops.waiting and self._loops.loops[0].silent:
                self._loops.use_spare()

    def _probe(self, loop: RunLoop, now: float) -> None:
        probed_at = loop.probed_at  # once: the loop sets it back when it answers
        if probed_at is None:
            loop.probed_at = now
            loop.call(_beat, loop)
            return
        loop.silent = now - probed_at >= TAKEN_WITHIN_S
        if not loop.reported and now - probed_at >= self._blocked_after:
            loop.reported = True
            where = blocking_line(loop.thread.ident)
            log.warning(
                "%s has been blocked for %.2f s by %s; make the step a plain 'def' (it runs in a thread) or await "
                "something there. New runs use a spare loop meanwhile.",
                loop.name,
                now - probed_at,
                where or "code that is not on its stack any more",
            )


def _beat(loop: RunLoop) -> None:
    now = time.monotonic()
    if loop.reported and loop.probed_at is not None:
        log.warning("%s runs again after %.2f s", loop.name, now - loop.probed_at)
    loop.silent = loop.reported = False
    loop.probed_at = None


def blocking_line(thread_id: int | None) -> str | None:
    """`file:line in function (source)` of the innermost user code on a thread's stack; any code if there is none."""
    frame = sys._current_frames().get(thread_id or 0)
    if frame is None:
        return None
    stack = traceback.extract_stack(frame)
    mine = [line for line in stack if _is_user_code(line.filename)]
    line = (mine or stack)[-1]
    return f"{line.filename}:{line.lineno} in {line.name} ({line.line})"


def _is_user_code(filename: str) -> bool:
    path = str(Path(filename).resolve()) if not filename.startswith("<") else filename
    return not path.startswith((_OWN, "<", *_FOREIGN))
