"""The notation of a resource's windows: `500/min`, `60/10s`, `200k/min`. Pure."""

from __future__ import annotations

import re

from offramp.core.rates import WINDOW_S_MAX, Rate, seconds_of
from offramp.errors import DeclarationError

CALLS_MAX = 1_000_000
"""The largest number of calls in a window of a resource."""
TOKENS_MAX = 10_000_000_000
"""The largest number of tokens in a window of a resource."""

_TIMES = {"": 1, "k": 1_000, "m": 1_000_000}
_RATE = re.compile(r"([0-9]{1,11})(\.[0-9]{1,6})?([km]?)/([0-9]{0,5})([a-z]{1,6})")
SUCH_AS = {"rate": "'500/min' or '60/10s'", "tokens": "'200k/min' or '2m/min'"}


def parse(text: object, what: str = "rate") -> Rate:
    """The window of `500/min`, `60/10s`, `200k/min` or `1.5m/min`.

    Args:
        text: a number, with `k` for thousands or `m` for millions, a slash, and a unit of time with a number of them
            before it or one.
        what: the argument it was given as, `rate` or `tokens`.

    Raises:
        DeclarationError: it has another form, or a number out of range.
    """
    shown = f"{what}={text!r:.60}"
    found = _RATE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    seconds = None if found is None else seconds_of(int(found[4] or 1), found[5])
    if found is None or seconds is None:
        raise DeclarationError(f"{shown}: write number/unit, such as {SUCH_AS[what]}")
    limit = float(found[1] + (found[2] or "")) * _TIMES[found[3]]
    largest = TOKENS_MAX if what == "tokens" else CALLS_MAX
    if not (limit.is_integer() and 1 <= limit <= largest):
        raise DeclarationError(f"{shown}: the number is whole, from 1 to {largest:,}")
    if not 1 <= seconds <= WINDOW_S_MAX:
        raise DeclarationError(f"{shown}: the window is from 1 second to {WINDOW_S_MAX // 3_600} hours")
    return Rate(int(limit), seconds)


def say(rate: Rate) -> str:
    """The shortest notation: `200k/min` for 200,000 in 60 seconds."""
    for letter in ("m", "k"):
        if rate.limit % _TIMES[letter] == 0:
            scaled = Rate(rate.limit // _TIMES[letter], rate.seconds)
            number, _, unit = str(scaled).partition("/")
            return f"{number}{letter}/{unit}"
    return str(rate)
