"""pydantic's `ValidationError`, which has no arguments: taken apart and put together by its own methods.

pydantic is recognised by them and never imported.
"""

from __future__ import annotations

import sys
from typing import Any

_KEPT = ("loc", "input", "ctx")
_PARTS = 4


def is_validation_error(kind: type) -> bool:
    """Whether the class is pydantic's, or one made like it."""
    return callable(getattr(kind, "from_exception_data", None))


def parts_of(error: BaseException) -> list[Any]:
    """Title, errors, mode and whether inputs are hidden; errors of a type of the user's own say how they are worded."""
    parts = error.__reduce__()[1]
    if not (isinstance(parts, tuple) and len(parts) == _PARTS):
        raise TypeError(f"{type(error).__name__} is pickled in another way")
    title, details, mode, hides = parts
    return [title, [_detail(each) for each in details], mode, hides]


def _detail(given: dict[str, Any]) -> dict[str, Any]:
    kind = given["type"]
    if not isinstance(kind, str):
        kind = [kind.type, kind.message_template, kind.context]
    return {"type": kind} | {name: given[name] for name in _KEPT if name in given}


def made_of(kind: Any, parts: list[Any]) -> BaseException:
    """The error again; the module that its class comes from is loaded."""
    title, details, mode, hides = parts
    own = getattr(sys.modules.get(kind.__module__.partition(".")[0]), "PydanticCustomError", None)
    lines = []
    for each in details:
        of_type = each["type"]
        if isinstance(of_type, list):
            assert own is not None, "pydantic has no errors of one's own any more"  # noqa: S101 - as it is pickled
            of_type = own(*of_type)
        lines.append({**each, "type": of_type})
    made: BaseException = kind.from_exception_data(title, lines, mode, hides)
    made.args = ()  # as where pydantic itself raises it
    return made
