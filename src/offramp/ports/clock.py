"""Time and randomness, so that tests can jump the one and fix the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not make the call, if it was not made yet."""


class Clock(Protocol):
    """Where time and randomness come from.

    C1 `monotonic` never goes back, whatever happens to `time`.
    C2 A timer's callback is called once, at or after its time, on a thread that runs no user code; it must return
       at once and may be called from any thread.
    """

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back at this monotonic time."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes, for ids."""
