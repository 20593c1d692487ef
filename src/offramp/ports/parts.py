"""The parts of a process beside its runs: each starts, drains and closes."""

from __future__ import annotations

from collections.abc import Sequence


class Part:
    """One thing that a process does beside its runs.

    Each method is called once at most, in this order, on the loop that no user code runs on.
    """

    async def start(self) -> None:
        """Begin to work."""

    async def drain(self) -> None:
        """Take on nothing new."""

    async def close(self) -> None:
        """Release everything that this part holds; called even if it was not started."""


async def start_all(parts: Sequence[Part]) -> None:
    """Start parts in their order."""
    for part in parts:
        await part.start()


async def drain_all(parts: Sequence[Part]) -> None:
    """Drain parts in the order in which they started."""
    for part in parts:
        await part.drain()


async def close_all(parts: Sequence[Part]) -> None:
    """Close parts in the reverse order."""
    for part in reversed(parts):
        await part.close()
