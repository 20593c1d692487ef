"""Rates such as `100/min`: so many in a sliding window. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from offramp.errors import SettingsError

RATE_MAX = 10_000
"""The largest number of a rate: as many starts of a key are remembered."""
WINDOW_S_MAX = 86_400
"""The longest window of a rate; runs stay known for longer, so the store can count them."""

_UNITS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_NAMES = {
    "s": "s sec second",
    "min": "min m minute",
    "h": "h hr hour",
    "d": "d day",
}
_UNIT_OF = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{0,9})([a-z]+)")


class Rate(NamedTuple):
    """At most `limit` in any `seconds` seconds."""

    limit: int
    seconds: int

    def __str__(self) -> str:
        """The shortest notation."""
        for unit in reversed(_UNITS):
            if self.seconds % _UNITS[unit] == 0:
                amount = self.seconds // _UNITS[unit]
                return f"{self.limit}/{'' if amount == 1 else amount}{unit}"
        raise AssertionError("a window has whole seconds")


def seconds_of(amount: int, unit: str) -> int | None:
    """The seconds of so many units of time, such as 10 and `min`; None if there is no such unit."""
    name = _UNIT_OF.get(unit)
    return None if name is None else amount * _UNITS[name]


def parse_rate(text: str, what: str = "a rate") -> Rate:
    """The rate of `100/min`, `5/s`, `1000/12h` or `10000/d`.

    Args:
        text: a number, a slash, and a unit of time, with a number of units before it or one.
        what: names the rate in the message of an error.

    Raises:
        SettingsError: it has another form, or a number out of range.
    """
    found = _RATE.fullmatch(text.strip())
    seconds = None if found is None else seconds_of(int(found[2] or 1), found[3])
    if found is None or seconds is None:
        raise SettingsError(f"{what} is a number per time, such as 100/min, 5/s or 1000/12h, got {text[:40]!r}")
    rate = Rate(int(found[1]), seconds)
    if not 1 <= rate.limit <= RATE_MAX:
        raise SettingsError(f"{what} is from 1 to {RATE_MAX} in its window (RATE_MAX), got {text!r}")
    if not 1 <= rate.seconds <= WINDOW_S_MAX:
        raise SettingsError(f"the window of {what} is from 1 second to {WINDOW_S_MAX // 3600} hours, got {text!r}")
    return rate
