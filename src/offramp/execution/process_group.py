"""A lane process and the processes that its step starts form one process group, which is killed as a whole.

On Linux, a lane dies with its parent process, however that ends, and processes forked by a step die with the lane.
On other systems, a lane whose parent was killed ends with the step that it executes.
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
"""See prctl(2). The signal comes when the forking thread ends, so only a child of the main thread may request it."""


def kill(leader: BaseProcess) -> None:
    """Kill a lane process and all processes that its step started."""
    if sys.platform != "win32" and leader.pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it had no time to form a group, or is gone
            os.killpg(leader.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError, AttributeError):  # never started, or closed
        leader.kill()


class Leader:
    """This lane process: the first object made in it.

    Args:
        pipe: the pipe to the parent process.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.territory = Territory()
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._prctl: Any = None
        # The parent kills it; a daemon may not have children, and its step may need some.
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
        """In a child of the step: close the pipe, which only the lane may write to and close."""
        forks.close_copy(self._pipe.fileno())
        if self._prctl is not None and threading.get_ident() == self._thread:
            self._die_with(self._pid)

    def _die_with(self, parent: int | None) -> None:
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the request
            os._exit(1)
