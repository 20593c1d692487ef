"""The functions of a user's that the entry asks: rules, a classifier, a pipeline's own features. Pure.

Owns what may be declared, and what of a feature function's answer is used; `routing.answer_of` reads the other answers.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from offramp.core.routing import Unusable
from offramp.core.spec import is_async
from offramp.errors import DeclarationError

CLASSIFIER_TIMEOUT_DEFAULT_S = 0.05
CLASSIFIER_TIMEOUT_MAX_S = 10.0
RULE_TIMEOUT_S = 1.0
"""The time limit of one call of a rule or a feature function."""
FEATURES_MAX = 8
FEATURE_NAME_LENGTH_MAX = 50
FEATURE_TEXT_LENGTH_MAX = 100
"""Characters of a feature that is a text; the rest is cut."""


@dataclass(frozen=True, slots=True)
class Adviser:
    """One function; `what` is how reasons and the log name it."""

    function: Callable[..., Any]
    what: str
    is_async: bool


def of_requests(function: Any, kind: str) -> Adviser:
    """A function that is called with a `RouteRequest`; `kind` is `rule` or `classifier`.

    Raises:
        DeclarationError: it cannot be called with one argument.
    """
    name = getattr(function, "__name__", type(function).__name__)
    what = f"rule {name!r}" if kind == "rule" else "the classifier"
    if not callable(function):
        raise DeclarationError(f"{what}: a function that takes a RouteRequest is needed, got {function!r}")
    if not _takes(function, (None,), {}):
        raise DeclarationError(f"{what} ({name}) is called with one argument, a RouteRequest")
    return _adviser(function, what)


def of_input(function: Any, pipeline: str, parameters: Collection[str]) -> Adviser:
    """A function of a pipeline's features, which is called with the pipeline's arguments by name.

    Raises:
        DeclarationError: it does not take them.
    """
    what = f"the features of pipeline {pipeline!r}"
    if not callable(function):
        raise DeclarationError(f"{what}: a function of the pipeline's arguments is needed, got {function!r}")
    if not _takes(function, (), dict.fromkeys(parameters)):
        listed = ", ".join(parameters) or "none"
        raise DeclarationError(f"{what}: the function is called with the pipeline's arguments by name ({listed})")
    return _adviser(function, what)


def require_timeout(seconds: Any) -> float:
    """The time limit of a classifier.

    Raises:
        DeclarationError: it is out of range.
    """
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= CLASSIFIER_TIMEOUT_MAX_S:
        most = f"at most {CLASSIFIER_TIMEOUT_MAX_S:g}"
        raise DeclarationError(f"App(classifier_timeout=) is in seconds, above 0 and {most}, got {seconds!r}")
    return float(seconds)


def _takes(function: Any, args: tuple[None, ...], kwargs: dict[str, None]) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _adviser(function: Any, what: str) -> Adviser:
    return Adviser(function, what, is_async(function) or is_async(type(function).__call__))


def features_of(returned: Any, what: str) -> dict[str, float | str]:
    """What a feature function returned.

    Raises:
        Unusable: it is no mapping of at most `FEATURES_MAX` names to numbers or texts.
    """
    if not isinstance(returned, Mapping) or len(returned) > FEATURES_MAX:
        raise Unusable(f"{what}: return a dict of at most {FEATURES_MAX} numbers or texts")
    made: dict[str, float | str] = {}
    for name, value in returned.items():
        if not isinstance(name, str) or not 1 <= len(name) <= FEATURE_NAME_LENGTH_MAX:
            raise Unusable(f"{what}: a feature's name is a text of 1 to {FEATURE_NAME_LENGTH_MAX} characters")
        if isinstance(value, str):
            made[_encodable(name)] = _encodable(value[:FEATURE_TEXT_LENGTH_MAX])
        elif isinstance(value, numbers.Real) and math.isfinite(float(value)):
            made[_encodable(name)] = float(value)
        else:
            raise Unusable(f"{what}: a feature is a finite number or a text, got {type(value).__name__}")
    return made


def _encodable(text: str) -> str:
    """Half of a surrogate pair cannot be stored."""
    return str(text).encode("utf-8", "replace").decode()
