"""Lease adapters with one bug each."""

from __future__ import annotations

from collections import Counter

import msgspec

from offramp.core import ownership
from offramp.core.claims import SUSPECT_DEATHS, UNBOUNDED
from offramp.ports.store import Claim
from offramp.stores.memory import MemoryStore
from offramp.stores.memory.queue import MemoryQueue
from tests.conformance.broken.marks import breaks

replace = msgspec.structs.replace


@breaks("Q1")
class DoubleStart(MemoryStore):
    """A run that was just claimed is given to another owner that asks at the same time."""

    def __init__(self):
        super().__init__()
        self._again = {}

    async def claim(self, owner, limit, pipelines, now, *classes):
        claims = list(await super().claim(owner, limit, pipelines, now, *classes))
        for claim in claims:
            if claim.fresh and not claim.record.priority and not claim.record.cancel_requested:
                self._again[claim.record.id] = owner
        for run_id, first in list(self._again.items()):
            run = self._runs[run_id]
            if not claims and owner != first and run.owner == first:
                del self._again[run_id]
                run.move(ownership.release(run.ownership))
                claims.append(run.claim(owner, now))
        return claims


@breaks("Q2")
class EarlyExpiry(MemoryStore):
    """An owner loses its runs while its lease runs."""

    def expire(self, now, *, blames=True):
        return super().expire(now + 2, blames=blames)


@breaks("Q2")
class StingyRetirement(MemoryStore):
    """Of what a retired owner held, one run is free."""

    def _forget(self, owner, left_by, **how):
        held = [run for run in self._runs.values() if run.owner == owner]
        count = super()._forget(owner, left_by, **how)
        for run in held[1:]:
            run.record = replace(run.record, status="running")
        return count


@breaks("Q2")
class GreedyRetirement(MemoryStore):
    """A retirement frees the runs of others."""

    def _forget(self, owner, left_by, **how):
        count = super()._forget(owner, left_by, **how)
        for run in self._runs.values():
            if run.owner is not None and count > 2:
                run.move(ownership.release(run.ownership))
        return count


class _Queue(MemoryStore):
    """Its queue has a bug."""

    queue = MemoryQueue

    def __init__(self):
        super().__init__()
        self._queue = self.queue()


class _Flat(MemoryQueue):
    def comes(self, record):
        super().comes(replace(record, priority=0))

    def leaves(self, record):
        super().leaves(replace(record, priority=0))


@breaks("Q3")
class NoPriority(_Queue):
    """Urgent runs wait their turn."""

    queue = _Flat


class _Upside(MemoryQueue):
    def chosen(self, held, limit, *asked):
        levels = self._levels.items()
        priorities = {run_id: of[1] for of, level in levels for ids in level.ids.values() for run_id in ids}
        ids = super().chosen(held, len(priorities) + len(self._died), *asked)
        return sorted(ids, key=lambda run_id: (priorities.get(run_id, 0), run_id), reverse=True)[:limit]


@breaks("Q3")
class YoungestFirst(_Queue):
    """The run that has waited longest keeps waiting."""

    queue = _Upside


class _OneTenant(MemoryQueue):
    def comes(self, record):
        super().comes(replace(record, tenant=""))

    def leaves(self, record):
        super().leaves(replace(record, tenant=""))


@breaks("Q19")
class FirstComeFirstServed(_Queue):
    """A run waits for all earlier ones of other tenants."""

    queue = _OneTenant


class _Forgetful(MemoryQueue):
    def chosen(self, *asked):
        for level in self._levels.values():
            for tenant in level.tags:
                level.charge(tenant, 0.0)
        return super().chosen(*asked)


@breaks("Q19")
class FairInOneClaim(_Queue):
    """The next claim knows nothing of what tenants were given by the one before."""

    queue = _Forgetful


class _Indebted(MemoryQueue):
    def comes(self, record):
        level = self._levels[record.pipeline, record.priority]
        before = level.tags.get(record.tenant, 0.0)
        super().comes(record)
        level.charge(record.tenant, before)


@breaks("Q19")
class NewcomersFirst(_Queue):
    """A tenant that comes is given as much as the others were since ever, before they get more."""

    queue = _Indebted


class _LinesApart(MemoryQueue):
    def chosen(self, held, limit, pipelines, *asked):
        for pipeline in pipelines:
            if ids := super().chosen(held, limit, [pipeline], *asked):
                return ids
        return []


@breaks("Q19")
class PipelineByPipeline(_Queue):
    """Each pipeline is fair by itself, and the first one goes first."""

    queue = _LinesApart


class _Strict(MemoryQueue):
    def chosen(self, held, limit, pipelines, classes, now):
        return super().chosen(held, limit, pipelines, classes, 0.0)


@breaks("Q19")
class NoShare(_Queue):
    """A class that is overdue waits for the higher ones all the same."""

    queue = _Strict


class _Penniless(MemoryQueue):
    def chosen(self, *asked):
        self._earned = {}
        return super().chosen(*asked)


@breaks("Q19")
class CreditLost(_Queue):
    """What an overdue class has earned in one claim is lost in the next."""

    queue = _Penniless


class _Impatient(MemoryQueue):
    def chosen(self, held, limit, pipelines, classes, now):
        return super().chosen(held, limit, pipelines, classes, now + 1e6)


@breaks("Q19")
class NeverPatient(_Queue):
    """Every class is overdue at once."""

    queue = _Impatient


@breaks("Q3")
class NoLimit(MemoryStore):
    """An owner gets more than it has room for."""

    async def claim(self, owner, limit, pipelines, now, *classes):
        return await super().claim(owner, limit + 1, pipelines, now, *classes)


@breaks("Q3")
class AnyPipeline(MemoryStore):
    """An owner gets runs that it cannot execute."""

    async def claim(self, owner, limit, pipelines, now, *classes):
        return await super().claim(owner, limit, {run.record.pipeline for run in self._runs.values()}, now, *classes)


@breaks("Q3")
class StaleClaim(MemoryStore):
    """A claim shows the run as it was before."""

    async def claim(self, owner, limit, pipelines, now, *classes):
        claims = await super().claim(owner, limit, pipelines, now, *classes)
        return [Claim(replace(claim.record, path="fast"), claim.lease, claim.fresh) for claim in claims]


@breaks("Q4")
class CancelUnheard(MemoryStore):
    """The owner is not told with its renewal."""

    def renew(self, owner, expires_at):
        return super().renew(owner, expires_at)[0], []


@breaks("Q4")
class CancelForAll(MemoryStore):
    """Every process is notified, owner or not."""

    def renew(self, owner, expires_at):
        known, _ = super().renew(owner, expires_at)
        return known, [
            run.record.id for run in self._runs.values() if run.record.cancel_requested and not run.record.finished
        ]


@breaks("Q6")
class StaleOwner(MemoryStore):
    """What an owner says later is not noted."""

    async def register(self, owner):
        self._owners.setdefault(owner.id, owner)


@breaks("Q18")
class ForgetfulOwner(MemoryStore):
    """What an owner says about itself is lost when it registers again."""

    async def register(self, owner):
        self._owners[owner.id] = owner


@breaks("Q6")
class UnforgottenOwner(MemoryStore):
    """An owner that was retired is known still."""

    async def retire(self, owner):
        known = self._owners.get(owner)
        count = await super().retire(owner)
        if known is not None:
            self._owners[owner] = known
        return count


@breaks("Q6")
class SelfDeclaredOwner(MemoryStore):
    """Any process that renews counts as known."""

    def renew(self, owner, expires_at):
        return True, super().renew(owner, expires_at)[1]


@breaks("Q7")
class ReleaseUnseen(MemoryStore):
    """A run that was released looks as if it was running."""

    async def get(self, run_id):
        record = await super().get(run_id)
        begun = record is not None and record.status == "queued" and record.path == "fast"
        return replace(record, status="running") if begun else record


@breaks("Q8")
class SignalsBackwards(MemoryStore):
    """The last signal is read first."""

    async def signals(self, run_id):
        return (await super().signals(run_id))[::-1]


@breaks("Q8")
class SignalsAfterTheEnd(MemoryStore):
    """A run that has ended takes signals."""

    async def send_signal(self, run_id, name, value, at, key=None):
        run = self._runs.get(run_id)
        if run is not None and run.record.finished and key is None and run.signals == []:
            return run.record
        return await super().send_signal(run_id, name, value, at, key)


@breaks("Q8")
class OneSizeForAll(MemoryStore):
    """The signals of all runs together are bounded."""

    async def send_signal(self, run_id, name, value, at, key=None):
        others = [run for run in self._runs.values() if run.record.id != run_id]
        record = self._runs[run_id].record if run_id in self._runs else None
        if record is not None and not record.finished:
            size = sum(len(kept) for run in others for _, kept in run.signals) + len(value)
            ownership.signal(self._runs[run_id].ownership, run_id, 0, size)
        return await super().send_signal(run_id, name, value, at, key)


@breaks("Q12")
class ForgetsKeys(MemoryStore):
    """What is sent again is another signal."""

    async def send_signal(self, run_id, name, value, at, key=None):
        return await super().send_signal(run_id, name, value, at)


@breaks("Q12")
class KeyEndsWithTheRun(MemoryStore):
    """A sender that missed the acceptance of its signal learns that the run has ended."""

    async def send_signal(self, run_id, name, value, at, key=None):
        run = self._runs.get(run_id)
        if run is not None and run.record.finished:
            key = None
        return await super().send_signal(run_id, name, value, at, key)


@breaks("Q12")
class KeysOfAllRuns(MemoryStore):
    """A key that one run knows is known to all."""

    async def send_signal(self, run_id, name, value, at, key=None):
        if any(key in run.signal_keys for run in self._runs.values() if run.record.id != run_id):
            return await self.get(run_id)
        return await super().send_signal(run_id, name, value, at, key)


@breaks("Q12")
class KeyOutlivesTheData(MemoryStore):
    """A key is known when the run's data is gone."""

    async def purge(self, now, only=None):
        keys = {run_id: run.signal_keys for run_id, run in self._runs.items()}
        count = await super().purge(now, only)
        for run_id, run in self._runs.items():
            if keys[run_id]:
                run.signal_keys, run.signals = keys[run_id], [("go", b"1")]
        return count


@breaks("Q10")
class ClaimsTheNext(MemoryStore):
    """Who asks for a run gets the most urgent one."""

    async def claim_one(self, owner, run_id, now):
        queued = [run.record for run in self._runs.values() if run.record.status == "queued" and run.record.priority]
        if run_id in self._runs and self._runs[run_id].record.status == "queued" and queued:
            run_id = max(queued, key=lambda record: record.priority).id
        return await super().claim_one(owner, run_id, now)


@breaks("Q11")
class CountsTheRunning(MemoryStore):
    """Runs that are executing are said to wait."""

    async def queued(self):
        return dict(Counter(run.record.tenant for run in self._runs.values() if not run.record.finished))


@breaks("Q11")
class CountsTogether(MemoryStore):
    """What waits is said to be one tenant's."""

    async def queued(self):
        found = await super().queued()
        return {"": sum(found.values())} if found else {}


@breaks("Q11")
class CountsOnlyNewOnes(MemoryStore):
    """A run that comes back to the queue is not counted."""

    async def queued(self):
        waiting = [run.record for run in self._runs.values() if run.record.status == "queued"]
        return dict(Counter(record.tenant for record in waiting if record.started_at is None))


@breaks("Q20")
class OneClassOfQueue(MemoryStore):
    """What waits is said to be of one class."""

    async def queued_by_class(self):
        found = await super().queued_by_class()
        return {"batch": sum(found.values())} if found else {}


@breaks("Q20")
class DeadNotCounted(MemoryStore):
    """A run whose process died is not counted."""

    async def queued_by_class(self):
        waiting = [run.record for run in self._runs.values() if run.record.status == "queued"]
        return dict(Counter(record.sla for record in waiting if not record.deaths))


@breaks("Q15")
class ImmortalProcesses(MemoryStore):
    """Nobody counts deaths."""

    def _forget(self, owner, left_by, *, blames=True):
        return super()._forget(owner, left_by, blames=False)


@breaks("Q15")
class DeadlyGoodbye(MemoryStore):
    """A process that leaves is said to have died when it is retired."""

    async def retire(self, owner):
        if owner in self._owners:
            self._owners[owner] = replace(self._owners[owner], leaving=False)
        return await super().retire(owner)


@breaks("Q15")
class DeadlySlowGoodbye(MemoryStore):
    """A process that leaves is said to have died when its lease runs out."""

    def expire(self, now, *, blames=True):
        for owner in self._owners.values():
            self._owners[owner.id] = replace(owner, leaving=False)
        return super().expire(now, blames=blames)


@breaks("Q15")
class HarmlessSilence(MemoryStore):
    """A step that holds the interpreter is executed without end."""

    def expire(self, now, *, blames=True):
        return super().expire(now, blames=False)


@breaks("Q15")
class BlamesAll(MemoryStore):
    """A run counts deaths for which something else is to blame."""

    def expire(self, now, *, blames=True):
        return super().expire(now)


@breaks("Q15")
class SilenceIsForgotten(MemoryStore):
    """Nobody can tell silence from other deaths."""

    def _forget(self, owner, left_by, *, blames=True):
        return super()._forget(owner, "death" if left_by == "silence" else left_by, blames=blames)


@breaks("Q15")
class EverybodyLeft(MemoryStore):
    """Every process that a run had is said to have been told to stop."""

    async def claim(self, *asked):
        claims = await super().claim(*asked)
        for claim in claims:
            self._runs[claim.record.id].record.left_by = claim.record.left_by = "exit"
        return claims


@breaks("Q15")
class AlwaysAlone(MemoryStore):
    """Runs that died together are said to have died alone."""

    def _forget(self, owner, left_by, **how):
        held = [run for run in self._runs.values() if run.owner == owner]
        count = super()._forget(owner, left_by, **how)
        for run in held:
            run.record = replace(run.record, deaths_alone=run.record.deaths)
        return count


@breaks("Q15")
class NothingForgotten(MemoryStore):
    """A run that survived stays suspect."""

    def log(self, lease):
        log = super().log(lease)
        log.survived = lambda: None
        return log


@breaks("Q15")
class AnythingWillDo(MemoryStore):
    """Deaths are forgotten as soon as anything is written."""

    def write(self, lease, entry, event):
        super().write(lease, entry, event)
        if entry is not None and lease.run_id in self._runs:
            self._runs[lease.run_id].record.deaths = 0


class _Company(MemoryStore):
    """Changes among how many a run with deaths is executed next."""

    def company(self, record):
        raise NotImplementedError

    def _forget(self, owner, left_by, **how):
        held = [run for run in self._runs.values() if run.owner == owner]
        count = super()._forget(owner, left_by, **how)
        for run in held:
            if run.record.deaths >= SUSPECT_DEATHS:
                run.record = replace(run.record, company=self.company(run.record))
                self._queue.leaves(run.record)
                self._queue.comes(run.record)
        return count


@breaks("Q16")
class SuspectsTogether(_Company):
    """Those that kill are executed beside those that are killed."""

    def company(self, record):
        return UNBOUNDED


@breaks("Q16")
class NeverHalved(_Company):
    """Those that died together are executed together again."""

    def company(self, record):
        return record.company * 2


@breaks("Q16")
class OneByOne(_Company):
    """Suspects are executed one at a time, however many there are."""

    def company(self, record):
        return 1


@breaks("Q16")
class SuspectsFirst(MemoryStore):
    """Nobody else is executed beside a suspected run."""

    async def claim(self, owner, limit, pipelines, now, *classes):
        held = [run for run in self._runs.values() if run.owner == owner]
        if any(run.record.deaths >= SUSPECT_DEATHS for run in held):
            return []
        return await super().claim(owner, limit, pipelines, now, *classes)


@breaks("Q16")
class SuspectsOnly(MemoryStore):
    """Runs without deaths are not seen behind those that have any."""

    async def claim(self, owner, limit, pipelines, now, *classes):
        claims = await super().claim(owner, limit, pipelines, now, *classes)
        queued = [run for run in self._runs.values() if run.record.status == "queued"]
        return claims[:1] if len(claims) == limit == 2 and any(run.record.deaths for run in queued) else claims


class _Harmless(MemoryQueue):
    def comes(self, record):
        super().comes(replace(record, deaths=0) if record.deaths < SUSPECT_DEATHS else record)


@breaks("Q16")
class NotAlone(_Queue):
    """A suspected run is executed beside one whose owner died once."""

    queue = _Harmless


class _Leisurely(MemoryQueue):
    def comes(self, record):
        super().comes(replace(record, priority=0) if record.deaths >= SUSPECT_DEATHS else record)


@breaks("Q16")
class UrgencyForgotten(_Queue):
    """Of suspects the oldest is given first, however urgent others are."""

    queue = _Leisurely
