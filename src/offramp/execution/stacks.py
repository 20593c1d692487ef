"""Inspects threads from outside: the line of user code where one stands, and the CPU time that it has used.

Changes nothing and keeps no frame, as that would keep alive the objects that the frame refers to.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import linecache
import sys
import sysconfig
import threading
import time
from pathlib import Path
from types import CodeType, FrameType
from typing import Literal, NamedTuple

from offramp.core.codec import Signature
from offramp.execution.attempt import Attempt
from offramp.execution.first_token import bounded
from offramp.execution.lanes import Lanes
from offramp.execution.runner import Execution

_OWN = str(Path(__file__).resolve().parent.parent)


def _places(*names: str) -> tuple[str, ...]:
    return tuple({str(Path(sysconfig.get_path(name)).resolve()) for name in names})


_INSTALLED = _places("purelib", "platlib")
_STDLIB = _places("stdlib", "platstdlib")
_CALLERS = {
    each.__code__
    for each in (Lanes.run, bounded, Signature.call, Execution._main)  # noqa: SLF001 - what calls user code
}


class Standing(NamedTuple):
    """The user code in which a thread stands.

    Attributes:
        code: the outermost function of user code, by which two looks are compared.
        file: the file of the innermost one.
        number: the line in it.
        function: its name.
    """

    code: CodeType
    file: str
    number: int
    function: str

    @property
    def line(self) -> str:
        """Readable text: `file:line in function (source)`."""
        return f"{self.file}:{self.number} in {self.function} ({linecache.getline(self.file, self.number).strip()})"


def standing(thread_id: int | None) -> Standing | None:
    """The user code in which a thread stands; None if it executes the runtime, or nothing."""
    frame = _frames().get(thread_id or 0)
    return None if frame is None else _standing(frame)


def all_standing() -> dict[int, Standing]:
    """The same for every thread in user code, by its id."""
    found = {thread: _standing(frame) for thread, frame in _frames().items()}
    return {thread: seen for thread, seen in found.items() if seen is not None}


def stack_of(thread_id: int) -> list[FrameType]:
    """The frames of a thread, the innermost last; empty if there is no such thread."""
    frames: list[FrameType] = []
    frame = _frames().get(thread_id)
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    return frames


def is_user_code(filename: str) -> bool:
    """Whether a file is user code: not of the runtime, nor of Python, nor installed."""
    return _kind(filename) == "user"


def step_of(thread_id: int | None) -> tuple[str, str]:
    """The pipeline and step in which a run loop's thread is; empty if in none, or in a task of its own.

    A coroutine's callers are on the stack while it runs.
    """
    frame = _frames().get(thread_id or 0)
    while frame is not None:
        attempt = frame.f_locals.get("attempt") if frame.f_code is Lanes.run.__code__ else None
        if isinstance(attempt, Attempt):
            return attempt.scope.facts.pipeline, attempt.call.name
        execution = frame.f_locals.get("self") if frame.f_code is Execution._main.__code__ else None  # noqa: SLF001
        if isinstance(execution, Execution):
            return execution.scope.facts.pipeline, ""
        frame = frame.f_back
    return "", ""


def cpu_s(native_id: int | None) -> float | None:
    """CPU seconds that a thread has used, None if the platform does not say (all but Linux)."""
    if sys.platform != "linux" or native_id is None:
        return None
    # The clock of pthread_getcpuclockid(3), which would crash for a thread that is gone; the kernel refuses it.
    with contextlib.suppress(OSError):
        return time.clock_gettime(~native_id << 3 | 6)
    return None


class _Quiet:
    """Pauses the garbage collector while one thread looks; one at a time, as the collector belongs to the process.

    Before 3.11.9 CPython makes the frames under the lock of its list of threads, and collects a `threading.local` under
    the same one: a collection during that stops the whole process forever (gh-106883).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._collects = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self._collects = gc.isenabled()
        gc.disable()

    def __exit__(self, *_error: object) -> None:
        if self._collects:
            gc.enable()
        self._lock.release()

    def forked(self) -> None:
        """In a forked child: forget a look of another thread, which is not under way there."""
        if self._lock.locked():
            self.__exit__()


quiet = _Quiet()


def _frames() -> dict[int, FrameType]:
    """The innermost frames of all threads."""
    with quiet:
        return sys._current_frames()


def _standing(frame: FrameType) -> Standing | None:
    """The standing of a stack: the user's frames are those inside the innermost frame of the runtime."""
    mine: list[FrameType] = []
    installed: list[FrameType] = []
    at: FrameType | None = frame
    while at is not None and (kind := _kind(at.f_code.co_filename)) != "own":
        if kind == "user":
            mine.append(at)
        elif kind == "installed":
            installed.append(at)
        at = at.f_back
    if mine:
        innermost, outermost = mine[0], mine[-1]
    elif installed and at is not None and at.f_code in _CALLERS:  # pipelines may be installed as a package
        innermost = outermost = installed[-1]
    else:
        return None
    return Standing(outermost.f_code, innermost.f_code.co_filename, innermost.f_lineno, innermost.f_code.co_name)


@functools.lru_cache(4096)
def _kind(filename: str) -> Literal["own", "stdlib", "installed", "user"]:
    if filename.startswith("<"):
        return "stdlib"
    path = str(Path(filename).resolve())
    if path.startswith(_OWN):
        return "own"
    if path.startswith(_INSTALLED):  # first: they are below the standard library's folder
        return "installed"
    return "stdlib" if path.startswith(_STDLIB) else "user"
