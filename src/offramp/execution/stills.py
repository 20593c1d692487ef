"""When an executing run only waits for others: for permits, a thread or a signal. Such time says nothing about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from offramp.core.critical import Interval, union

if TYPE_CHECKING:
    from offramp.ports.clock import Clock

STILLS_MAX = 1_000
"""Separate waits of one execution that are remembered; further ones count as time in which the run moves."""


class Stills:
    """The waits of one execution, on the monotonic clock; noted on its loop, read from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[object, float] = {}
        self._over: list[Interval] = []
        self._within: dict[str, list[Interval]] = {}
        self._since_within: dict[object, tuple[str, float]] = {}
        self._is_full = False
        """Whether merging those that are over would make little room."""

    @contextlib.contextmanager
    def during(self, within: str = "") -> Iterator[None]:
        """Note a wait for others; `within` the step with this key, which is in flight meanwhile."""
        mark = object()
        if within:
            yield from self._during_step(mark, within)
            return
        self._since[mark] = self._clock.monotonic()
        try:
            yield
        finally:
            wait = self._since.pop(mark), self._clock.monotonic()
            if len(self._over) >= STILLS_MAX and not self._is_full:
                self._over = union(self._over)
                self._is_full = len(self._over) > STILLS_MAX // 2
            if wait[0] < wait[1] and len(self._over) < STILLS_MAX:
                self._over.append(wait)

    def _during_step(self, mark: object, key: str) -> Iterator[None]:
        since = self._clock.monotonic()
        self._since_within[mark] = key, since
        try:
            yield
        finally:
            del self._since_within[mark]
            if sum(map(len, self._within.values())) < STILLS_MAX:
                self._within.setdefault(key, []).append((since, self._clock.monotonic()))

    def within(self, now: float) -> dict[str, list[Interval]]:
        """The waits of steps in flight up to now, those that are not over included, by the step's key."""
        found = {key: list(waits) for key, waits in list(self._within.items())}
        for key, since in list(self._since_within.values()):
            found.setdefault(key, []).append((since, now))
        return found

    def until(self, now: float) -> list[Interval]:
        """All waits up to now, those that are not over included."""
        return [*self._over, *((since, now) for since in list(self._since.values()))]
