"""Renews this process's lease and releases expired ones, on a thread that no other work can block (L1)."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from typing import Protocol

from offramp.errors import StoreError
from offramp.ports.clock import Clock, Timer
from offramp.ports.store import Ownership

logger = logging.getLogger("offramp")

RENEWALS_PER_LEASE = 3


class Renewed(Protocol):
    """Called with the result of a renewal."""

    def __call__(self, *, held_until: float | None, cancels: Sequence[str], expired: Sequence[str]) -> object:
        """The end of the lease, None if it was lost; the runs to cancel; the owners whose leases had expired."""


class LeaseKeeper:
    """The thread that renews the lease.

    Args:
        leases: the store of the leases.
        clock: time.
        owner: the owner of the lease, this process.
        lease_s: the duration of a lease.
        renewed: called on the thread after each renewal.
    """

    def __init__(
        self,
        leases: Ownership,
        clock: Clock,
        owner: str,
        lease_s: float,
        renewed: Renewed,
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._owner = owner
        self._lease_s = lease_s
        self._renewed = renewed
        self._due = threading.Event()
        self._closing = False
        self._timer: Timer | None = None
        self._until = -math.inf
        self._wall_ahead = clock.time() - clock.monotonic()
        self._judges_from = -math.inf
        self._blames_from = -math.inf
        self._gave_way = False
        self._thread = threading.Thread(target=self._run, name="offramp-leases", daemon=True)

    def start(self) -> None:
        """Start to renew a lease that was just taken."""
        self._until = self._clock.monotonic() + self._lease_s
        self._schedule()
        self.start_thread()

    def start_thread(self) -> None:
        """Renew on the thread from now on; a simulation that calls `renew` itself starts none."""
        self._thread.start()

    def renew_now(self) -> None:
        """Renew early, to learn which runs to cancel. From any thread."""
        self._due.set()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        every = self._lease_s / RENEWALS_PER_LEASE
        self._timer = self._clock.call_at(self._clock.monotonic() + every, self._due.set)

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._closing:
                return
            self.renew()

    def renew(self) -> None:
        """Renew once and release expired leases; waits for the store."""
        # The next renewal is scheduled before this one, which may have to wait for the disk.
        self._schedule()
        try:
            now, began = self._clock.time(), self._clock.monotonic()
            judges = self._judges(now, began)
            held, cancels = self._leases.renew(self._owner, now + self._lease_s)
            self._until = began + self._lease_s
            blames = self._blames(began)
            expired = self._leases.expire(now, blames=blames) if judges else ()
            self._renewed(held_until=self._until if held else None, cancels=cancels, expired=expired)
        except StoreError as error:
            self._note_trouble()
            logger.error("%s; trying again in %.1f s", error, self._lease_s / RENEWALS_PER_LEASE)  # noqa: TRY400

    def _judges(self, now: float, began: float) -> bool:
        """Whether an expired lease means a dead owner: after a pause here, not until every owner had time to renew.

        A process suspended while holding the write lock blocks every renewal, so an expired lease may not mean a dead
        owner. The same is true after a jump of the wall clock.
        """
        wall_ahead, before = now - began, self._wall_ahead
        self._wall_ahead = wall_ahead
        late = began >= self._until or abs(wall_ahead - before) > self._lease_s / RENEWALS_PER_LEASE
        if late and not self._gave_way:  # once: a process that is always late must recover the runs of others too
            self._gave_way, self._judges_from = True, began + self._lease_s
        judges = began >= self._judges_from
        self._gave_way = self._gave_way and not judges
        return judges

    def _blames(self, began: float) -> bool:
        """Whether the silence of a process counts as a death of its runs: not if the store may have caused it.

        All processes renew in the same store, so those of this one must have succeeded for the length of a lease.
        """
        if self._clock.monotonic() - began > self._lease_s / RENEWALS_PER_LEASE:
            self._note_trouble()
        return began >= self._blames_from

    def _note_trouble(self) -> None:
        self._blames_from = self._clock.monotonic() + self._lease_s

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
