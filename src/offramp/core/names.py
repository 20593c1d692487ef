"""Names of pipelines, steps and classes: what is allowed, and the nearest one when one is not found."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from offramp.errors import DeclarationError

NAME_LENGTH_MAX = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")


def require_name(what: str, name: object) -> str:
    """`name`, if it can stand in a URL, a log line and a metric label.

    Raises:
        DeclarationError: it cannot.
    """
    if not isinstance(name, str) or len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{what} name {name!r}: use a letter or underscore, then letters, digits, '_', '-' or '.', "
            f"at most {NAME_LENGTH_MAX} characters",
        )
    return name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name, or all of them when they are few."""
    names = sorted(known)
    near = _near(name, names)
    if near:
        return f"did you mean {near!r}?"
    if not names:
        return "none is declared."
    return "known: " + ", ".join(names[:10]) + (", …" if len(names) > 10 else "") + "."


def near_miss(name: str, known: Iterable[str]) -> str:
    """What ends a sentence that lists the known names: the nearest one, or nothing."""
    near = _near(name, sorted(known))
    return f"; did you mean {near!r}?" if near else ""


def _near(name: str, known: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name[:NAME_LENGTH_MAX], known, n=1)), None)
