"""Lease adapters with one bug each in what they do for an engine of many processes."""

from __future__ import annotations

import msgspec

from offramp.ports.store import ENGINE, Turn
from offramp.stores.memory import MemoryStore
from tests.conformance.broken.marks import breaks

replace = msgspec.structs.replace


@breaks("Q13")
class EntrustedTwice(MemoryStore):
    """Entrusting a run again takes it from those that have it already."""

    async def entrust(self, run_id, now):
        run = self._runs.get(run_id)
        if run is not None and not run.record.finished:
            run.owner = None
        return await super().entrust(run_id, now)


@breaks("Q13")
class EntrustedAfterTheEnd(MemoryStore):
    """A run that has its outcome is entrusted."""

    async def entrust(self, run_id, now):
        run = self._runs.get(run_id)
        if run is None or not run.record.finished:
            return await super().entrust(run_id, now)
        return run.take(ENGINE, now)


@breaks("Q14")
class NoTurns(MemoryStore):
    """Who took a step before may go on writing it."""

    async def take_step(self, lease, step):
        taken = await super().take_step(lease, step)
        if not taken.finished:
            self._runs[lease.run_id].turns[step] = (1, False)
        return taken._replace(lease=replace(taken.lease, turn=1))


@breaks("Q14")
class StepsOfTheEnded(MemoryStore):
    """A step is given to a taker though its run has ended."""

    async def take_step(self, lease, step):
        if self._runs[lease.run_id].record.finished:
            return Turn(replace(lease, step=step, turn=1), finished=False)
        return await super().take_step(lease, step)


@breaks("Q17")
class HeardAtOnce(MemoryStore):
    """One word to the engine counts for all that it was to be told."""

    async def heard(self, run_id):
        self._runs[run_id].unheard = 0


@breaks("Q17")
class TellsOfTheEnded(MemoryStore):
    """An engine is to be told of runs that have ended."""

    async def unheard(self):
        return [run.record.id for run in self._runs.values() if run.unheard]
