"""Event loops that give timers of a pipeline's own code to its run, and leave all others to the loop.

A timer is the body's if its author's code set it, through asyncio or not. A timer that a library sets for itself, such
as one for the connections of an HTTP client, stays the loop's: the awaited events are not journaled either.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import sysconfig
from contextvars import Context
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from offramp.core.leaving import OVER
from offramp.execution.body import Body
from offramp.execution.context import current
from offramp.execution.timers import Timers

_OWN = Path(__file__).resolve().parent.parent
_LOOPS = {str(_OWN / "execution" / "loops.py"), str(_OWN / "engines" / "temporal" / "exits.py")}
"""The runtime's files that only pass calls on to a loop."""
_ASYNCIO = str(Path(asyncio.__file__).resolve().parent)
_PYTHON = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}
_BOTTOM = asyncio.Handle._run.__code__  # noqa: SLF001 - no frame below it is the body's


@functools.lru_cache(maxsize=4096)
def _acts_for(file: str) -> Literal["itself", "its caller", "its author"]:
    """The owner of a timer set by code of this file."""
    if file.startswith(str(_OWN)):
        return "its caller" if file in _LOOPS else "itself"
    if not _INSTALLED.isdisjoint(Path(file).parts):
        return "itself"
    return "its caller" if file.startswith((*_PYTHON, "<frozen")) else "its author"


def _is_the_authors(frame: FrameType | None, home: str) -> bool:
    """Whether a timer that is set in this frame is the pipeline's, whose package is `home`."""
    while frame is not None and frame.f_code is not _BOTTOM:
        acts_for = _acts_for(frame.f_code.co_filename)
        if acts_for != "its caller":
            return acts_for == "its author" or frame.f_globals.get("__name__", "").partition(".")[0] == home
        frame = frame.f_back
    return True  # asyncio's own coroutine, in a task that the body made from it


def _timers(frame: FrameType) -> Timers | None:
    """The timers of the body that this call belongs to, if any."""
    ambient = current.get()
    if not isinstance(ambient, Body) or ambient.scope.gate.state in OVER:
        return None
    timers = ambient.scope.timers
    return timers if _is_the_authors(frame.f_back, ambient.scope.home) else None


def _time(timers: Timers, frame: FrameType) -> float:
    """The loop's time: journaled if the body itself reads it, so that a replay continues from there."""
    asks = frame.f_back
    if asks is not None and asks.f_code.co_filename.startswith(_ASYNCIO):
        return timers.now() + timers.shift
    ambient: Any = current.get()
    return float(ambient.value("offramp.time", timers.now)) + timers.shift


@functools.cache
def _with_body_timers(kind: Any) -> Any:
    """A class of loops like `kind`, except for timers that a body sets."""

    class BodyTimersLoop(kind):  # type: ignore[misc]
        def call_later(self, delay: Any, callback: Any, *args: Any, context: Context | None = None) -> Any:
            timers = _timers(sys._getframe())  # noqa: SLF001 - the only way to see who sets it
            if timers is None or not delay > 0:
                return super().call_later(delay, callback, *args, context=context)
            return timers.set(timers.now() + delay, callback, args, context)

        def call_at(self, when: Any, callback: Any, *args: Any, context: Context | None = None) -> Any:
            timers = _timers(sys._getframe())  # noqa: SLF001
            if timers is None:
                return super().call_at(when, callback, *args, context=context)
            return timers.set(when - timers.shift, callback, args, context)

        def time(self) -> Any:
            if not isinstance(current.get(), Body):
                return super().time()
            frame = sys._getframe()  # noqa: SLF001
            timers = _timers(frame)
            return super().time() if timers is None else _time(timers, frame)

    return BodyTimersLoop


def new_run_loop() -> asyncio.AbstractEventLoop:
    """A loop for run loops: uvloop's if it is installed, else asyncio's."""
    kind: Any
    try:
        from uvloop import Loop as kind  # noqa: N813
    except ImportError:  # Windows has no uvloop
        kind = getattr(asyncio, "ProactorEventLoop", asyncio.SelectorEventLoop)
    loop: asyncio.AbstractEventLoop = _with_body_timers(kind)()
    return loop


def give_body_timers(loop: asyncio.AbstractEventLoop) -> None:
    """Make a loop created by another program treat a body's timers as the run loops do."""
    kind: Any = type(loop)
    loop.__class__ = _with_body_timers(kind)
