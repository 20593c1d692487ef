"""Lease adapters with one bug each in what they do for an engine of many processes."""

from __future__ import annotations

import msgspec

from offramp.ports.store import Turn
from offramp.stores.memory import MemoryStore
from tests.conformance.broken.marks import breaks

replace = msgspec.structs.replace


@breaks("Q14")
class StepsOfTheEnded(MemoryStore):
    """A step is given to a taker though its run has ended."""

    async def take_step(self, lease, step):
        if self._runs[lease.run_id].record.finished:
            return Turn(replace(lease, step=step, turn=1), finished=False)
        return await super().take_step(lease, step)


@breaks("Q17")
class TellsOfTheEnded(MemoryStore):
    """Runs that have ended have pending notices for the engine."""

    async def pending_notices(self):
        return [run.record.id for run in self._runs.values() if run.notices]
