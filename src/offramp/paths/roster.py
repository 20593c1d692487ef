"""The processes of the service: this one says what runs in it, and any one lists them all."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version

from offramp.errors import StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.live import LiveRuns
from offramp.paths.parts import Background
from offramp.paths.process import Process
from offramp.ports.store import About, Owner, Ownership

ABOUT_EVERY_S = 1.0
"""Seconds after which other processes know what changed in this one."""


class Roster(Background):
    """Describes this process while it works.

    Args:
        process: this process.
        leases: where the processes are registered.
        live: the runs that execute here.
        places: how many places for deep runs are taken here, of how many.

    Attributes:
        starting: the workers that this process has started and that do not take runs yet; None if it scales none.
    """

    def __init__(
        self, process: Process, leases: Ownership, live: LiveRuns, places: Callable[[], tuple[int, int]]
    ) -> None:
        super().__init__(process)
        self._leases = leases
        self._live = live
        self._places = places
        self.starting: int | None = None
        self._host, self._version = socket.gethostname(), version("offramp")

    async def work(self) -> None:
        """Describe it every `ABOUT_EVERY_S`, if that has changed."""
        said: About | None = None
        while not self.is_over:
            now = self._about()
            try:
                if now != said:
                    await self._leases.describe(self._process.id, now)
                    said = now
            except StoreError:  # the store's other users say why
                said = None
            await sleep_for(self._process.clock, ABOUT_EVERY_S)

    def _about(self) -> About:
        held = Counter(run.record.tenant for run in self._live.all())
        lanes = self._process.lanes.warm
        return About(self._host, os.getpid(), self._version, dict(held), lanes, *self._places(), self.starting)

    async def present(self) -> Sequence[Owner]:
        """The processes that hold a lease, the oldest first.

        Raises:
            StoreError: they cannot be read.
        """
        now = self._process.clock.time()
        held = [owner for owner in await self._leases.owners() if owner.expires_at > now]
        return sorted(held, key=lambda owner: (owner.started_at, owner.id))
