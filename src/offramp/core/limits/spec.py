"""What a user declares of a resource: its limits, the part of them that other classes leave free, its breaker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from offramp.core.limits.notation import SUCH_AS, parse
from offramp.core.names import require_name
from offramp.core.rates import Rate
from offramp.errors import DeclarationError

SHARE_DEFAULT = 0.05
RESERVE_DEFAULT = 0.2
MIN_CALLS_MAX = 1_000
CONCURRENCY_MAX = 100_000
RESOURCES_MAX = 1_000
"""Resources of an app, and of all processes of a data directory."""
"""The largest number of calls at once to a resource."""
WINDOWS_MAX = 8
"""Windows of calls, and of tokens, of one resource."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """When calls to a resource stop for a while, because most of them fail or are slow.

    Args:
        error_rate: the share of failed and slow calls at which the breaker opens; 1 opens when all are.
        slow_after: seconds; a call whose first token is later counts as slow. None counts no call as slow.
        min_calls: calls within the window that a decision needs, from 1 to 1,000.
        window: seconds; older calls do not count. Nor do those before about the last 50, or 5 times `min_calls` if
            that is more, so that a busy resource's breaker opens soon after calls begin to fail.
        open_for: seconds until an open breaker lets probes through.

    Raises:
        DeclarationError: a value is out of range.
    """

    error_rate: float = 0.5
    slow_after: float | None = None
    min_calls: int = 10
    window: float = 30.0
    open_for: float = 10.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not (_is_number(self.error_rate) and 0 < self.error_rate <= 1):
            raise self._refusal("error_rate", "is above 0, at most 1")
        if not (isinstance(self.min_calls, int) and 1 <= self.min_calls <= MIN_CALLS_MAX):
            raise self._refusal("min_calls", f"is a whole number from 1 to {MIN_CALLS_MAX}")
        if self.slow_after is not None and not (_is_number(self.slow_after) and self.slow_after > 0):
            raise self._refusal("slow_after", "is in seconds, above 0, or None")
        for field in ("window", "open_for"):
            if not (_is_number(getattr(self, field)) and getattr(self, field) > 0):
                raise self._refusal(field, "is in seconds, above 0")

    def _refusal(self, field: str, rule: str) -> DeclarationError:
        return DeclarationError(f"Breaker({field}=) {rule}, got {getattr(self, field)!r}")


class ResourceSpec(msgspec.Struct, frozen=True):
    """One declared resource, as every process of the app knows it.

    Attributes:
        name: what events, documents and metrics call it.
        concurrency: calls at once; None for no limit.
        rates: calls in any window of so many seconds, all of them at once.
        tokens: tokens in any window of so many seconds.
        share: the part of all grants that goes to a class while its oldest waiter is overdue.
        reserve: the part of every window that a lower class leaves free once a higher one has used the resource.
        breaker: when calls stop; None for never.
    """

    name: str
    concurrency: int | None = None
    rates: tuple[Rate, ...] = ()
    tokens: tuple[Rate, ...] = ()
    share: float = SHARE_DEFAULT
    reserve: float = RESERVE_DEFAULT
    breaker: Breaker | None = None


def windows(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """One notation or several as a tuple."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def resource_spec(
    name: str,
    *,
    concurrency: int | None = None,
    rate: str | Sequence[str] | None = None,
    tokens: str | Sequence[str] | None = None,
    share: float = SHARE_DEFAULT,
    reserve: float = RESERVE_DEFAULT,
    breaker: Breaker | None = None,
) -> ResourceSpec:
    """What `app.resource` declares. A resource that limits nothing still counts calls, and stops them when asked to.

    Args:
        name: what events, documents and metrics call it.
        concurrency: calls at once; None for no limit.
        rate: calls in a window, such as `500/min`, or several windows.
        tokens: tokens in a window, such as `200k/min`, or several windows.
        share: the part of the grants that goes to a class while its oldest waiter is overdue.
        reserve: the part of every limit that a lower class leaves free once a higher one has used the resource; 0 for
            none.
        breaker: when calls stop; None for never.

    Raises:
        DeclarationError: a value is out of range.
    """
    require_name("resource", name)
    if concurrency is not None and not (_is_whole(concurrency) and 1 <= concurrency <= CONCURRENCY_MAX):
        raise _refusal(name, "concurrency", f"is a whole number from 1 to {CONCURRENCY_MAX:,}, or None", concurrency)
    if not (_is_number(share) and 0 < share < 1):
        raise _refusal(name, "share", "is above 0 and below 1", share)
    if not (_is_number(reserve) and 0 <= reserve < 1):
        raise _refusal(name, "reserve", "is 0 or more, and below 1", reserve)
    if breaker is not None and not isinstance(breaker, Breaker):
        raise _refusal(name, "breaker", "is a Breaker(...) or None", breaker)
    return ResourceSpec(
        name=name,
        concurrency=concurrency,
        rates=_parsed(rate, "rate"),
        tokens=_parsed(tokens, "tokens"),
        share=share,
        reserve=reserve,
        breaker=breaker,
    )


def _parsed(given: object, what: str) -> tuple[Rate, ...]:
    """The windows of an argument, shortest first, one for each length."""
    if given is not None and not (isinstance(given, str) or _are_strings(given)):
        raise DeclarationError(f"{what}={given!r:.60}: write a string such as {SUCH_AS[what]}, or several in a tuple")
    rates = [parse(text, what) for text in windows(given)]  # type: ignore[arg-type]
    if len(rates) > WINDOWS_MAX:
        raise DeclarationError(f"{what}= has {len(rates)} windows, at most {WINDOWS_MAX}")
    lengths = [rate.seconds for rate in rates]
    if len(set(lengths)) < len(lengths):
        raise DeclarationError(f"{what}={given!r:.60}: two windows have one length; keep the smaller")
    return tuple(sorted(rates, key=lambda rate: rate.seconds))


def _are_strings(given: object) -> bool:
    return isinstance(given, (list, tuple)) and all(isinstance(each, str) for each in given)


def _refusal(name: str, field: str, rule: str, given: object) -> DeclarationError:
    return DeclarationError(f"resource {name!r}: {field}= {rule}, got {given!r:.60}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
