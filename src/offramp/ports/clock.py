"""Time and randomness, so that tests can jump the one and fix the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not make the call, if it was not made yet."""


class Clock(Protocol):
    """Where time and randomness come from. Safe to use from any thread; `offramp.conformance` proves:

    C1 `monotonic` never goes back, whatever happens to `time`; timers go by it.
    C2 A timer that is not cancelled is called once, at or after its time, earlier ones first, and never before
       `call_at` has returned: on a thread that runs no user code, so the callback must return at once.
    C3 `random` is in [0, 1); `random_bytes` returns the requested number, and never the same bytes again.
    """

    def time(self) -> float:
        """Seconds since the epoch; may be set, and then jumps (C1)."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start (C1)."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back at this monotonic time, or soon if that is past (C2)."""

    def random(self) -> float:
        """A number in [0, 1) (C3)."""

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes, for ids (C3)."""
