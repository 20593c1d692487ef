"""Labels of step calls: a format of their arguments, checked where the step is declared. Formatting never fails."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from offramp.core.names import did_you_mean
from offramp.errors import DeclarationError

LABEL_LENGTH_MAX = 80
"""Characters of a label; the rest is cut off."""
_CONVERSIONS = {None, "", "a", "r", "s"}
_SIZED = re.compile(r"(?:.?[<>=^])?[ +-]?z?#?0?(\d*)[,_]?(?:\.(\d+))?[,_]?[A-Za-z%]?", re.DOTALL)
"""A format specification of Python's own types, with its width and its precision."""


def require_label(label: object, names: Sequence[str], what: str) -> str | None:
    """`label`, if it is a format of arguments with these names.

    Raises:
        DeclarationError: it is none; the message says what to change.
    """
    if label is None:
        return None
    if not isinstance(label, str) or not label.strip():
        raise DeclarationError(f"{what}: label= is a format of its arguments such as '{{source}}', got {label!r}")
    try:
        fields = list(string.Formatter().parse(label))
    except ValueError as error:
        raise DeclarationError(f"{what}: label={label!r} is not a format: {error}") from error
    for _, field, spec, conversion in fields:
        if field is None:
            continue
        name = field.partition(".")[0].partition("[")[0]
        if name not in names:
            hint = "number no arguments, name them" if not name or name.isdigit() else did_you_mean(name, names)
            raise DeclarationError(f"{what}: label={label!r} names {field!r}, which is no parameter of it: {hint}")
        if conversion not in _CONVERSIONS:
            raise DeclarationError(f"{what}: label={label!r} has the conversion {conversion!r}: use !r, !s or !a")
        if spec is not None and "{" in spec:  # an argument could ask for any width
            raise DeclarationError(f"{what}: label={label!r} has a field within the format of {field!r}: leave it out")
        sized = _SIZED.fullmatch(spec or "")
        if sized and any(digits and _is_long(digits) for digits in sized.groups()):
            raise DeclarationError(
                f"{what}: label={label!r} formats {field!r} with a width or precision above {LABEL_LENGTH_MAX}, "
                "the characters of a label: make it smaller"
            )
    return label


def _is_long(digits: str) -> bool:
    return len(digits) > len(str(LABEL_LENGTH_MAX)) or int(digits) > LABEL_LENGTH_MAX


def label_of(label: str, names: Sequence[str], values: Sequence[Any]) -> str | None:
    """The label of a call, in one line; None if the arguments cannot be formatted so."""
    try:
        text = label.format_map(dict(zip(names, values, strict=True)))[:LABEL_LENGTH_MAX]
        return "".join(each if each.isprintable() else " " for each in text)
    except BaseException:  # noqa: BLE001 - a user's own __format__ may raise anything, and must not fail the run
        return None
