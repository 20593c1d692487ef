"""The context of user code in a child that it forked: no run to write to, and no way back into the runtime.

Such a child has a copy of the run, but none of the threads that serve it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from offramp.core.question import Question
from offramp.errors import OutsideRun
from offramp.execution.context import Ambient, Run, current
from offramp.ports import forks
from offramp.ports.clock import Clock

AWAITED_EXIT_CODE = 70
"""The exit code of a forked child that returns control to the event loop; `EX_SOFTWARE` of sysexits.h."""
_CURE = "do that in the step, with values that the child returns to it"


class ForkedChild:
    """The value of the context variable in a forked child: the view of the run as it was, without access to it.

    Args:
        ambient: its value before.
    """

    def __init__(self, ambient: Ambient) -> None:
        self.clock: Clock = ambient.clock
        self._run = ambient.run()

    def run(self) -> Run:
        """The view of the run, as it was at the fork."""
        return self._run

    def emit(self, encoded: bytes) -> None:
        """Refuse: no reader would receive it."""
        raise OutsideRun(f"emit() in a process forked by {self._where}: no reader would receive the value; {_CURE}")

    def value(self, _name: str, compute: Callable[[], Any]) -> Any:
        """Nothing is journaled."""
        return compute()

    async def sleep(self, seconds: float) -> None:
        """A plain wait, on whatever loop the child runs."""
        await asyncio.sleep(seconds)

    async def signal(self, question: Question, timeout: float | None) -> bytes:
        """Refuse: the child receives no signals."""
        raise OutsideRun(
            f"signal({question.name!r}) in a process forked by {self._where}: signals go to the run's own process"
        )

    def cleanup(self, _timeout: float) -> contextlib.AbstractAsyncContextManager[object]:
        """Refuse: the run ends in its own process."""
        raise OutsideRun(f"cleanup() in a process forked by {self._where}: it works in the pipeline's body")

    @property
    def replaying(self) -> bool:
        """False: a child does not belong to a replay."""
        return False

    @property
    def _where(self) -> str:
        step = self._run.step
        return f"pipeline {self._run.pipeline!r}" if step is None else f"step {step!r}"


class Territory:
    """A context manager around user code that no forked child leaves.

    A child that returns from the code ends there as a program does: with the code of its SystemExit, with 1 after
    another exception, which goes to stderr, else with 0.
    """

    def __init__(self) -> None:
        self.is_copy = False
        forks.on_fork(self)

    def forked(self) -> None:
        """Give the forked user code a context without a run."""
        self.is_copy = True
        ambient = current.get()
        if ambient is not None:
            current.set(ForkedChild(ambient))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The collector may close a coroutine of another run here: the child does not return by that.
        if self.is_copy and not isinstance(error, GeneratorExit):
            _end(error)


class LoopCopy:
    """Ends a child forked on a loop's own thread as soon as it returns control to its copy of that loop.

    The copy would execute the other runs' steps a second time, and change the sockets that the parent's loop watches.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._loop = loop
        self._thread = thread
        self._retained: list[Any] = []
        forks.on_fork(self)

    def forked(self) -> None:
        """Leave the loop nothing to do but end the process."""
        if self._thread.ident != threading.get_ident():
            return
        ready = _ready_of(self._loop)
        if ready is not None:
            self._retained += ready  # if dropped, they would be closed, and `finally` blocks of other runs would run
            ready.clear()
        self._loop.call_soon(_end_awaiting)
        _listen_to_nothing(self._loop)


def _ready_of(loop: asyncio.AbstractEventLoop) -> deque[Any] | None:
    """The queue of callbacks; uvloop shows it to the garbage collector only."""
    own = getattr(loop, "_ready", None)
    found = own if own is not None else next((each for each in gc.get_referents(loop) if type(each) is deque), None)
    return found if isinstance(found, deque) else None


def _listen_to_nothing(loop: Any) -> None:
    """Before it calls back, the loop polls once more, and would read the parent's data."""
    if sys.platform == "linux":
        shared = loop._get_backend_id() if hasattr(loop, "_get_backend_id") else loop._selector.fileno()  # noqa: SLF001
        with select.epoll() as empty:
            os.dup2(empty.fileno(), shared, inheritable=False)


def _end_awaiting() -> NoReturn:
    _leave(AWAITED_EXIT_CODE, "offramp: a forked child cannot await on the loop of its parent; it ends")


def _end(error: BaseException | None) -> NoReturn:
    if error is None:
        _leave(0)
    if not isinstance(error, SystemExit):
        _leave(1, "".join(traceback.format_exception(error)).rstrip())
    if error.code is None or isinstance(error.code, int):
        _leave(error.code or 0)
    _leave(1, str(error.code))


def _leave(code: int, message: str = "") -> NoReturn:
    if message:
        sys.stderr.write(f"{message}\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
