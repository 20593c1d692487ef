"""The limits of one API key on the runs that it starts, and how answers show them. Pure.

The header fields follow draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from offramp.core.rates import Rate
from offramp.core.run import accepted_at, first_id

KEY_RUNS_MAX = 10_000
"""The largest limit on the open runs of one key."""
RATE_POLICY, RUNS_POLICY = "default", "runs"
"""The names of the two limits in header fields."""


class Quota(NamedTuple):
    """The limits of one key.

    Args:
        key: identifies it in the store, as TENANT/NAME.
        rate: the requests that may start runs; None for no limit.
        runs: how many of its runs may be open at once; None for no limit.
    """

    key: str
    rate: Rate | None = None
    runs: int | None = None


class Use(NamedTuple):
    """What of a quota is in use; `free_in_s` are the seconds until the oldest counted start leaves the window."""

    started: int = 0
    free_in_s: float | None = None
    open: int = 0


class Window:
    """The starts of one key in a sliding window: exact to the millisecond, as many as its rate has at most.

    A start is known by the id of its run, which has its time: the same one, learned from two sides, counts once.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._ids: list[str] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Iterable[str]) -> None:
        """Count the starts of these runs."""
        for run_id in ids:
            place = bisect_left(self._ids, run_id)
            if place == len(self._ids) or self._ids[place] != run_id:
                self._ids.insert(place, run_id)
        del self._ids[: -self._rate.limit]

    def remove(self, run_id: str) -> None:
        """Uncount a run that was not started after all."""
        place = bisect_left(self._ids, run_id)
        if place < len(self._ids) and self._ids[place] == run_id:
            del self._ids[place]

    def pass_to(self, now: float) -> None:
        """Forget the starts that are no longer in the window; `now` in epoch seconds."""
        # A start leaves the window when it is exactly as old as the window is long.
        del self._ids[: bisect_right(self._ids, first_id(now - self._rate.seconds) + "~")]

    def free_in_s(self, now: float) -> float | None:
        """The seconds until the oldest start leaves the window; None if there is none."""
        if not self._ids:
            return None
        return max(0.0, accepted_at(self._ids[0]) + self._rate.seconds - now)


def fields(quota: Quota, use: Use) -> dict[str, str]:
    """The header fields for a key whose quota is used so far."""
    policies, limits = [], []
    if quota.rate is not None:
        policies.append(f'"{RATE_POLICY}";q={quota.rate.limit};w={quota.rate.seconds}')
        left = max(0, quota.rate.limit - use.started)
        until = quota.rate.seconds if use.free_in_s is None else math.ceil(use.free_in_s)
        limits.append(f'"{RATE_POLICY}";r={left};t={until}')
    if quota.runs is not None:
        policies.append(f'"{RUNS_POLICY}";q={quota.runs};qu="concurrent-requests"')
        limits.append(f'"{RUNS_POLICY}";r={max(0, quota.runs - use.open)}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(limits)}
