"""Tracebacks as data: the frames through which an exception passed, without values and without the machine's paths.

Extracts them from an exception, and writes a failure's as text. Keeps no frame alive and reads no file.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Literal, NamedTuple

from offramp.core.exact import place_of
from offramp.core.recorded import (
    TRACEBACK,
    Failure,
    Frame,
    Traceback,
    annotate,
    attributes_of,
    encodable,
    message_of,
    text_of,
)
from offramp.errors import OfframpError

FRAMES_MAX = 50
"""The limit of one exception's frames; of more, the first and the last ones are kept."""
FRAMES_FIRST = 15
"""How many of those are the outermost."""
FRAMES_BYTES_MAX = 16_000
"""The approximate limit of all frames of one failure with its causes; the innermost frames are kept."""
FRAME_NAME_LENGTH_MAX = 160
"""The limit of a frame's file and of its function, in characters."""
DECORATORS_MAX = 20
"""How many decorators and partials are looked behind for the place of a declaration."""
_FRAME_BYTES = 16
"""What a frame takes beside its file and function."""

_OWN = f"{Path(__file__).parent.parent.as_posix()}/"
_STDLIB = f"{Path(types.__file__).parent.as_posix()}/"
_TYPED = ("<stdin>", "<console>", "<ipython-")
"""Files that were typed in, unlike all others that begin so: the code of those was generated."""
_INSTALLED = ("/site-packages/", "/dist-packages/")
_MAIN = {"__main__", "__mp_main__"}
ABOVE = "The above exception was the direct cause of the following exception:"
DURING = "During handling of the above exception, another exception occurred:"

_Origin = Literal["own", "stdlib", "installed", "user"]


class _Code(NamedTuple):
    """What is known of the code of a frame."""

    origin: _Origin
    top: str
    file: str
    function: str


_Seen = tuple[_Code, int]
"""A frame's code and line."""


def frames_of(error: BaseException, room: int) -> Traceback | None:
    """The frames of an exception, outermost first, in at most `room` bytes; None if it has none.

    The frames of Offramp itself are left out, unless the exception is of another class and has no others. After them
    come those that were recorded where the exception was first described, in another process for example.
    """
    seen, left_out = _walked(error)
    frames = _shown([each for each in seen if each[0].origin != "own"])
    if not frames and not isinstance(error, OfframpError):
        frames = _shown(seen)
    recorded: Traceback | None = attributes_of(error).get(TRACEBACK)
    if recorded is not None and not _is_seen(recorded, frames):
        frames, left_out = frames + recorded.frames, left_out + recorded.left_out
    if len(frames) > FRAMES_MAX:
        left_out += len(frames) - FRAMES_MAX
        frames = frames[:FRAMES_FIRST] + frames[FRAMES_FIRST - FRAMES_MAX :]
    first = len(frames)
    for frame in reversed(frames):
        room -= size_of(frame)
        if room < 0:
            break
        first -= 1
    context = None if recorded is None else recorded.context
    if first == len(frames) and context is None:
        return None
    return Traceback(frames[first:], left_out + first, context)


def annotate_elsewhere(error: BaseException) -> None:
    """Note on an exception the recorded frames that its own traceback lacks, those of another process for example."""
    recorded: Traceback | None = attributes_of(error).get(TRACEBACK)
    if recorded is not None and not _is_seen(recorded, _shown(_walked(error)[0])):
        annotate(error, "\n".join(["raised where this traceback does not reach:", *_frame_lines(recorded)]))


def _is_seen(recorded: Traceback, frames: list[Frame]) -> bool:
    return recorded.frames[-1:] == frames[-1:]


def size_of(frame: Frame) -> int:
    """About how many bytes a frame takes."""
    return len(frame.file) + len(frame.function) + _FRAME_BYTES


def declared_at(function: Any) -> Traceback | None:
    """The place where a function is declared, behind its decorators; None if it is not written in Python."""
    for _ in range(DECORATORS_MAX):
        function = getattr(function, "__wrapped__", None) or getattr(function, "func", None) or function
    code = getattr(function, "__code__", None) or getattr(vars(type(function)).get("__call__"), "__code__", None)
    if not isinstance(code, CodeType):
        return None
    known = _known(code.co_filename, str(getattr(function, "__module__", "")), code.co_name)
    return Traceback([Frame(known.file, code.co_firstlineno, known.function, is_user=True)])


def cause_of(error: BaseException) -> BaseException | None:
    """The exception from which this one was raised."""
    cause: BaseException | None = vars(BaseException)["__cause__"].__get__(error)
    return cause


def context_of(error: BaseException) -> BaseException | None:
    """The exception during whose handling this one was raised, if Python would show it."""
    if vars(BaseException)["__suppress_context__"].__get__(error) or cause_of(error) is not None:
        return None
    context: BaseException | None = vars(BaseException)["__context__"].__get__(error)
    return context


def brief(error: BaseException) -> Failure:
    """What a traceback needs of an exception that no replay sees."""
    kind = type(error)
    return Failure("", message_of(kind.__name__, text_of(error)), type=place_of(kind))


def written(failure: Failure, *, messages: bool = True) -> str:
    """A failure's traceback as Python writes one, without lines of source; empty if it has no frames at all.

    Args:
        failure: the failure.
        messages: whether the exceptions' texts are in it; else only their classes.
    """
    return "\n".join(_lines(failure, messages=messages)) if has_frames(failure) else ""


def has_frames(failure: Failure) -> bool:
    """Whether a frame of it, or of an exception behind it, is recorded."""
    trace = failure.traceback
    if trace is not None and (trace.frames or trace.context is not None):
        return True
    behind = [*failure.causes, *([failure.cause] if failure.cause else [])]
    return any(map(has_frames, behind))


def _lines(failure: Failure, *, messages: bool) -> Iterator[str]:
    trace = failure.traceback or Traceback()
    if failure.cause is not None:
        yield from (*_lines(failure.cause, messages=messages), "", ABOVE, "")
    elif trace.context is not None:
        yield from (*_lines(trace.context, messages=messages), "", DURING, "")
    if trace.frames:
        yield "Traceback (most recent call last):"
    yield from _frame_lines(trace)
    yield failure.message if messages else class_of(failure)
    for number, member in enumerate(failure.causes, 1):
        yield f"  +- {number} of {len(failure.causes)}"
        yield from (f"  |  {line}".rstrip() for line in _lines(member, messages=messages))


def _frame_lines(trace: Traceback) -> Iterator[str]:
    cut_at = FRAMES_FIRST if len(trace.frames) == FRAMES_MAX else 0
    for place, frame in enumerate(trace.frames):
        if trace.left_out and place == cut_at:
            yield f"  [{trace.left_out} more frames]"
        yield f'  File "{frame.file}", line {frame.line}, in {frame.function}'


def class_of(failure: Failure) -> str:
    """The exception's class as tracebacks name it; without a class, the error's code."""
    return failure.code if failure.type is None else failure.type.removeprefix("builtins:").replace(":", ".")


def _walked(error: BaseException) -> tuple[list[_Seen], int]:
    """The outermost and the innermost frames, and how many are between them."""
    walk = _walk(vars(BaseException)["__traceback__"].__get__(error))
    first = list(islice(walk, FRAMES_FIRST))
    last: deque[_Seen] = deque(maxlen=FRAMES_MAX)
    count = 0
    for each in walk:
        last.append(each)
        count += 1
    return [*first, *last], count - len(last)


def _walk(step: TracebackType | None) -> Iterator[_Seen]:
    while step is not None:
        frame = step.tb_frame
        code = frame.f_code
        module = frame.f_globals.get("__name__")
        known = _known(code.co_filename, module if isinstance(module, str) else "", code.co_name)
        yield known, step.tb_lineno or 0
        step = step.tb_next


def _shown(seen: list[_Seen]) -> list[Frame]:
    """The frames, with a mark on the user's: a package that is installed is the user's if its code was called first."""
    home = next((known.top for known, _ in seen if known.origin != "stdlib"), None)
    return [
        Frame(
            known.file,
            line,
            known.function,
            known.origin == "user" or (known.origin == "installed" and known.top == home),
        )
        for known, line in seen
    ]


@lru_cache(4096)
def _known(filename: str, module: str, function: str) -> _Code:
    filename = filename.replace("\\", "/")
    file = encodable(_file(filename, module)[-FRAME_NAME_LENGTH_MAX:])
    return _Code(_origin(filename), module.partition(".")[0], file, encodable(function[:FRAME_NAME_LENGTH_MAX]))


def _origin(filename: str) -> _Origin:
    if filename.startswith("<"):
        return "user" if filename.startswith(_TYPED) else "stdlib"
    if filename.startswith(_OWN):
        return "own"
    if any(place in filename for place in _INSTALLED):  # first: they are below the standard library's folder
        return "installed"
    return "stdlib" if filename.startswith(_STDLIB) else "user"


def _file(filename: str, module: str) -> str:
    """The path of a module's file below the folder that it is imported from: it says nothing of the machine."""
    if filename.startswith("<"):
        return filename
    parts = filename.split("/")
    names = [] if module in _MAIN else module.split(".")
    stems = parts[-1].rpartition(".")[0], parts[-2] if len(parts) > 1 else ""
    if names and names[-1] == stems[0]:
        return "/".join(parts[-len(names) :])
    if names and stems[0] == "__init__" and names[-1] == stems[1]:
        return "/".join(parts[-len(names) - 1 :])
    return parts[-1]
