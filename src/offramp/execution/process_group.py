"""A lane process and what its step starts are one process group: they are killed together, and none outlives them.

Where the system can do it (Linux), a lane dies with the process that it belongs to, however that ends, and what a step
forks dies with the lane. Elsewhere a lane whose process was killed ends with the step that it executes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from multiprocessing import current_process, parent_process
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from offramp.execution.forked import Territory
from offramp.ports import forks

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

PR_SET_PDEATHSIG = 1
"""See prctl(2). The signal comes when the thread ends that forked, so only a child of the main thread may have it."""


def kill(leader: BaseProcess) -> None:
    """Kill a lane process with all that its step started."""
    if sys.platform != "win32" and leader.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it had no time to become a group, or is gone
            os.killpg(leader.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError, AttributeError):  # never started, or closed
        leader.kill()


class Leader:
    """This lane process: made first of all in it.

    Args:
        pipe: to the process that it belongs to.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.territory = Territory()
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._prctl: Any = None
        # The parent kills it; what it may have children for is its step's business, and those of a daemon are refused.
        current_process().daemon = False
        if sys.platform == "win32":
            return
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        if sys.platform == "linux":
            import ctypes

            self._prctl = ctypes.CDLL(None).prctl
            self._die_with(getattr(parent_process(), "pid", None))
        forks.on_fork(self)

    def forked(self) -> None:
        """In a child of the step: what goes through the pipe is the lane's to say, and to end."""
        forks.close_copy(self._pipe.fileno())
        if self._prctl is not None and threading.get_ident() == self._thread:
            self._die_with(self._pid)

    def _die_with(self, parent: int | None) -> None:
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it was asked to tell
            os._exit(1)
