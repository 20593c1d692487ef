"""The stage of a case of the clock suite: a clock, and the means to move it."""

from __future__ import annotations

from offramp.conformance.harness import ClockHarness
from offramp.ports.clock import Clock


class ClockStage:
    """One case's clock."""

    def __init__(self, harness: ClockHarness) -> None:
        self._harness = harness
        self.clock: Clock = harness.make()

    @classmethod
    async def open(cls, harness: ClockHarness) -> ClockStage:
        """With a clock of its own."""
        return cls(harness)

    async def close(self) -> None:
        """A clock needs no closing."""

    async def let_pass(self, seconds: float) -> None:
        """Let time pass."""
        await self._harness.let_pass(self.clock, seconds)

    def set_wall(self, epoch: float) -> None:
        """Let the wall clock jump."""
        self._harness.set_wall(self.clock, epoch)

    def called_at(self, when: float) -> list[float]:
        """Set a timer; the list gets the monotonic time of each call."""
        called: list[float] = []
        self.clock.call_at(when, lambda: called.append(self.clock.monotonic()))
        return called
