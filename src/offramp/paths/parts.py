"""Parts of a process that work in the background, and duties that one process performs for all."""

from __future__ import annotations

import math

from offramp.paths.process import Process
from offramp.ports.parts import Part


class Background(Part):
    """Work on the control loop that lasts until the process drains.

    Args:
        process: the process with the control loop.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.is_over = False

    async def start(self) -> None:
        """Begin to work."""
        self._process.control.spawn(self.work())

    async def drain(self) -> None:
        """End the work after its current turn."""
        self.is_over = True

    async def work(self) -> None:
        """Work until `is_over`. Must not end while the store is unavailable: the next turn repeats failed work."""
        raise NotImplementedError


class Single:
    """A duty that one process at a time performs for all; the store elects it (S19).

    Args:
        process: the candidate.
        name: names the duty.
        lasts_s: seconds after which another process may take it from a holder that was killed.
    """

    def __init__(self, process: Process, name: str, lasts_s: float = 30.0) -> None:
        self._process = process
        self._name = name
        self._lasts_s = lasts_s
        self._until = -math.inf

    async def is_mine(self) -> bool:
        """Take or renew the duty; False while another process has it. Asks the store in the second half of its time.

        Raises:
            StoreError: the store cannot be asked.
        """
        now = self._process.clock.time()
        if self._until - now >= self._lasts_s / 2:
            return True
        until = now + self._lasts_s
        if not await self._process.store.take_duty(self._name, self._process.id, now, until):
            return False
        self._until = until
        return True

    async def give_up(self) -> None:
        """Give the duty to another process at once.

        Raises:
            StoreError: the store cannot be asked; the duty is free when its time is over.
        """
        self._until = -math.inf
        now = self._process.clock.time()
        await self._process.store.take_duty(self._name, self._process.id, now, now)
