"""A value as JSON that a replay reads as it is, and the error for one that has none."""

from __future__ import annotations

from typing import Any

import msgspec

from offramp.core import models, shapes
from offramp.core.planner import OPEN_FIELD
from offramp.core.plans import PLAIN, Plan, Record
from offramp.core.written import Refusal, forgotten, require_finite
from offramp.errors import DeclarationError, EncodingError

CURE = "Return builtins, a dataclass, a msgspec Struct or a pydantic model"
ARGUMENT_CURE = (
    "A step's arguments are part of its journal key: pass data, and take clients and connections from module level"
)
FAILURES = (TypeError, ValueError, RecursionError, NotImplementedError, AttributeError)
"""What encoders raise for what cannot be encoded, and serializers of a user's own."""


def _write(value: Any) -> Any:
    kind = type(value)
    awaitable = forgotten(value)
    if awaitable is not None:
        raise Refusal(awaitable)
    if models.is_secret(kind) or models.is_model(kind):
        OPEN_FIELD.check(value, kind.__name__)
    return shapes.write(value)


written = msgspec.json.Encoder(enc_hook=_write).encode
SURE = frozenset({str, int, bool})
"""Types that cannot hold what JSON has no form for, but for text that is no Unicode."""


def encode_planned(value: Any, plan: Plan, path: str) -> bytes:
    """JSON of a value that a replay reads as it is.

    Raises:
        Misfit: a part of it would change; or what an encoder raises.
    """
    if type(value) in SURE:
        return written(value)
    if plan is not PLAIN:
        plan.check(value, path)
    model = type(plan) is Record and type(value) is plan.made and plan.model
    encoded = models.dumped(value) if model else written(value)
    if value is not None and (b"null" in encoded or b"NaN" in encoded or b"Infinity" in encoded):
        require_finite(value, path)
    return encoded


def refused(what: str, error: Exception, cure: str, where: str = "") -> EncodingError:
    """The error for a value that an encoder, a plan or a comparison refused."""
    if isinstance(error, (Refusal, DeclarationError)):
        return EncodingError(f"{what} cannot be passed: {error}")
    return EncodingError(f"{what} is not JSON-encodable: {where}{error}. {cure}")
