"""Ends runs that no process executes: cancelled runs, and runs past their deadline.

A run that has begun may have to clean up. A process that executes deep runs does so; without one, any process does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from offramp.core.ownership import ASSIGNED_GRACE_S
from offramp.core.run import RunRecord
from offramp.engines.leased.seat import Seat
from offramp.errors import StoreError
from offramp.ports.clock import Clock
from offramp.ports.engine import RunTaker
from offramp.ports.parts import Part
from offramp.ports.store import Ownership, Runs

logger = logging.getLogger("offramp")


class Ends(Part):
    """Ends runs in one process; used on its control loop.

    Args:
        seat: the process.
        host: ends a run after its cleanup.
        store: runs.
        leases: of the same store.
        clock: time.
    """

    def __init__(self, seat: Seat, host: RunTaker, store: Runs, leases: Ownership, clock: Clock) -> None:
        self._seat = seat
        self._host = host
        self._store = store
        self._leases = leases
        self._clock = clock
        self._closed = False

    async def close(self) -> None:
        """Take no more runs: this process could not execute them."""
        self._closed = True

    async def cancel(self, record: RunRecord) -> bool:
        """Take a run that is to be cancelled; False if another process has to."""
        if record.started_at is not None and not self._seat.takes and await self._seat.ready():
            return False
        return await self._end(record.id)

    async def end_waiting(self, run_ids: Sequence[str]) -> None:
        """End those of these runs that wait, as another process requested."""
        if not self._seat.takes:
            return
        try:
            for run_id in run_ids:
                record = await self._store.get(run_id)
                if record is not None and record.cancel_requested and not record.finished:
                    await self._end(run_id)
        except StoreError as error:
            logger.error("%s", error)  # noqa: TRY400 - they are in the queue

    async def overdue(self) -> None:
        """End the runs past their deadline that no process executes."""
        now = self._clock.time()
        for run_id in await self._leases.overdue(now):
            if self._seat.takes or not self._waits_for_others(await self._store.get(run_id), now):
                await self._end(run_id)

    def _waits_for_others(self, record: RunRecord | None, now: float) -> bool:
        begun = record is not None and record.started_at is not None
        return begun and record is not None and now < (record.deadline_at or now) + ASSIGNED_GRACE_S

    async def _end(self, run_id: str) -> bool:
        if self._closed:
            return False
        claim = await self._leases.claim_one(self._seat.member.id, run_id, self._clock.time())
        if claim is not None:
            self._host.execute(claim)
        return claim is not None
