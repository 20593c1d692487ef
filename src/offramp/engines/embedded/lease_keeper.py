"""Renews this process's lease and releases what others let expire, on a thread that nothing else can hold up (L1)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from offramp.errors import StoreError
from offramp.ports.clock import Clock, Timer
from offramp.ports.store import Leases

log = logging.getLogger("offramp")

RENEWALS_PER_LEASE = 3


class Found(Protocol):
    """What is done with what a renewal found."""

    def __call__(self, *, held: bool, cancels: Sequence[str], expired: Sequence[str]) -> object:
        """Whether the lease still held, the runs to cancel, the owners whose lease had run out."""


class LeaseKeeper:
    """A thread that renews.

    Args:
        leases: where.
        clock: when.
        owner: whose lease.
        lease_s: how long the lease runs.
        found: called on the thread after each renewal.
    """

    def __init__(
        self,
        leases: Leases,
        clock: Clock,
        owner: str,
        lease_s: float,
        found: Found,
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._owner = owner
        self._lease_s = lease_s
        self._found = found
        self._due = threading.Event()
        self._closing = False
        self._timer: Timer | None = None
        self._thread = threading.Thread(target=self._run, name="offramp-leases", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._schedule()
        self._thread.start()

    def _schedule(self) -> None:
        every = self._lease_s / RENEWALS_PER_LEASE
        self._timer = self._clock.call_at(self._clock.monotonic() + every, self._due.set)

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._closing:
                return
            # The next renewal is set before this one, which may have to wait for the disk.
            self._schedule()
            try:
                now = self._clock.time()
                held, cancels = self._leases.renew(self._owner, now + self._lease_s)
                self._found(held=held, cancels=cancels, expired=self._leases.expire(now))
            except StoreError as error:
                log.error("%s; trying again in %.1f s", error, self._lease_s / RENEWALS_PER_LEASE)  # noqa: TRY400

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
