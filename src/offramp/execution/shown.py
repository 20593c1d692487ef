"""A run's exception for a caller in the same process: the exceptions that the steps really raised, and where."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from offramp.core.failure import CAUSES_MAX, annotate, live_of, step_of
from offramp.core.tracebacks import annotate_elsewhere

_OWN = str(Path(__file__).resolve().parent.parent)


def missing(error: BaseException) -> str | None:
    """The remedy for a body that reads an attribute of a step's exception that is not journaled."""
    if not isinstance(error, AttributeError) or not isinstance(error.obj, BaseException):
        return None
    step, _ = step_of(error.obj)
    if step is None or hasattr(error.obj, error.name or ""):
        return None
    return (
        f"a body sees only journaled attributes of the exception of step {step!r}; {error.name!r} cannot be journaled: "
        "have the step put the values needed into an exception of its own"
    )


def shown(error: BaseException, where: str) -> BaseException:
    """The exception to raise to the caller: notes name its origin, and the runtime's own frames are removed.

    The body may have received a stand-in for a step's exception; the caller receives the exception itself.
    """
    error = _original(error, CAUSES_MAX)
    _note(error, where, CAUSES_MAX)
    return error


def _original(error: BaseException, depth: int) -> BaseException:
    live = live_of(error)
    if live is not None:
        for note in getattr(error, "__notes__", ()):
            if note not in getattr(live, "__notes__", ()):
                annotate(live, note)
        return live.with_traceback(error.__traceback__)  # which continues from the step's own into the body's
    if depth:
        for each in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            _complete(each, depth - 1)
        if error.__cause__ is not None:
            error.__cause__ = _original(error.__cause__, depth - 1)
        if error.__context__ is not None:
            error.__context__ = _original(error.__context__, depth - 1)
    return error


def _complete(error: BaseException, depth: int) -> None:
    """Complete the members of a group: a stand-in gets the chain of the exception that it stands for."""
    live = live_of(error)
    if live is None:
        _original(error, depth)
    elif type(live) is type(error):
        error.__cause__, error.__context__ = live.__cause__, live.__context__
        error.__suppress_context__ = live.__suppress_context__
    else:
        error.__cause__ = live


def _note(error: BaseException, where: str, depth: int) -> None:
    step, attempt = step_of(error)
    error.with_traceback(_user_traceback(error.__traceback__))
    hint = missing(error)
    if hint is not None:
        annotate(error, hint)
    annotate_elsewhere(error)
    annotate(error, f"in {where}" if step is None else f"in step {step!r} (attempt {attempt}) of {where}")
    if isinstance(error, BaseExceptionGroup) and depth:
        for cause in error.exceptions:
            _note(cause, where, depth - 1)


def _user_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without frames of the runtime; unchanged if it has no others."""
    frames = []
    step = traceback
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_OWN):
            frames.append(step)
        step = step.tb_next
    rest: TracebackType | None = None
    for frame in reversed(frames):
        rest = TracebackType(rest, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return rest or traceback
