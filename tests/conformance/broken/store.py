"""Stores with one bug each: the one in memory, with something taken away or done wrong."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from offramp.core import ownership
from offramp.core.events import Frame
from offramp.core.run import Outcome
from offramp.core.stats import LONG
from offramp.core.waits import change_in, kinds_in
from offramp.ports.commit import Commit
from offramp.ports.store import Batch, Created
from offramp.stores.memory import MemoryRunLog, MemoryStore
from tests.conformance.broken.marks import breaks

replace = msgspec.structs.replace


class HoldingLog(MemoryRunLog):
    """Keeps entries back, to write them in another order or at another time."""

    def append(self, entry, event, *, durable=False):
        self._store.hold(self.lease, entry, event)

    def durable(self):
        self._store.flush(self.lease)
        return super().durable()

    def finish(self, outcome, event, at):
        self._store.flush(self.lease)
        return super().finish(outcome, event, at)


@breaks("S1")
class Reordering(MemoryStore):
    """Of two entries the second is written first."""

    def __init__(self):
        super().__init__()
        self._held = {}

    def log(self, lease):
        return HoldingLog(self, lease)

    def hold(self, lease, entry, event):
        before = self._held.pop(lease, None)
        if event is None and before is None:
            self._held[lease] = entry
            return
        self.write(lease, entry, event)
        if before is not None:
            self.write(lease, before, None)

    def flush(self, lease):
        if lease in self._held:
            self.write(lease, self._held.pop(lease), None)


@breaks("S1")
class TornWrite(MemoryStore):
    """An event is visible before the entry that it announces."""

    def __init__(self):
        super().__init__()
        self._late = {}

    def log(self, lease):
        return HoldingLog(self, lease)

    def hold(self, lease, entry, event):
        if entry is None or event is None:
            self.write(lease, entry, event)
            return
        self.write(lease, None, event)
        self._late.setdefault(lease, []).append(entry)
        asyncio.get_running_loop().call_later(0.005, self.flush, lease)

    def flush(self, lease):
        for entry in self._late.pop(lease, []):
            self.write(lease, entry, None)


@breaks("S1")
class LostTail(MemoryStore):
    """What the owner before had written last is gone after the change of hands."""

    async def journal(self, run_id):
        entries = await super().journal(run_id)
        return entries[1:] if entries and self._runs[run_id].token > 1 else entries


class Unfenced(MemoryStore):
    """Accepts from anybody what `ops` names, as long as the run has not ended and is somebody's, or queued."""

    ops = ()

    def open_to_all(self, op, lease):
        run = self._runs.get(lease.run_id)
        return op in self.ops and run is not None and not run.record.finished and run.parked_until is None

    def acting_as_owner(self, lease, call):
        """Do what another process asked for in the owner's name."""
        run = self._runs[lease.run_id]
        owner, token = run.owner, run.token
        run.owner, run.token = lease.owner, lease.token
        try:
            return call()
        finally:
            if run.owner == lease.owner:
                run.owner = owner
            run.token = token


@breaks("S3")
class UnfencedAppend(Unfenced):
    """A lost owner goes on writing."""

    ops = ("append",)

    def write(self, lease, entry, event):
        write = super().write
        if self.open_to_all("append", lease):
            self.acting_as_owner(lease, lambda: write(lease, entry, event))
        else:
            write(lease, entry, event)


class _LogThatReassures(MemoryRunLog):
    def durable(self):
        if self._store.open_to_all("durable", self.lease):
            commit = Commit()
            commit.resolve()
            return commit
        return super().durable()


@breaks("S3")
class UnfencedSync(Unfenced):
    """An owner that lost its lease learns that its writes are there."""

    ops = ("durable",)

    def log(self, lease):
        return _LogThatReassures(self, lease)


class _LogWithoutFence(MemoryRunLog):
    def finish(self, outcome, event, at):
        finish = super().finish
        if self._store.open_to_all("finish", self.lease):
            return self._store.acting_as_owner(self.lease, lambda: finish(outcome, event, at))
        return finish(outcome, event, at)


@breaks("S3")
class UnfencedFinish(Unfenced):
    """A lost owner ends the run of another."""

    ops = ("finish",)

    def log(self, lease):
        return _LogWithoutFence(self, lease)


@breaks("S3")
class UnfencedAdopt(Unfenced):
    """Anybody demotes a run."""

    ops = ("adopt",)

    def adopt(self, lease, demotion):
        adopt = super().adopt
        if self.open_to_all("adopt", lease):
            return self.acting_as_owner(lease, lambda: adopt(lease, demotion))
        return adopt(lease, demotion)


@breaks("S3")
class UnfencedRelease(MemoryStore):
    """A lost owner gives the run of another away."""

    async def release(self, lease, parked=None):
        run = self._runs[lease.run_id]
        if run.record.status == "running" and run.parked_until is None and not run.held(lease):
            run.move(ownership.release(run.ownership))
            return
        await super().release(lease, parked)


@breaks("S3")
class SilentLoss(MemoryStore):
    """No process learns that a lease is gone."""

    def on_lost(self, callback):
        pass


@breaks("S3")
class LateLoss(MemoryStore):
    """The caller of a refused write learns of it first."""

    def on_lost(self, callback):
        super().on_lost(lambda lease: asyncio.get_running_loop().call_later(0.005, callback, lease))


@breaks("S4")
class Gap(MemoryStore):
    """An event that comes with an entry takes two numbers."""

    def write(self, lease, entry, event):
        self._step = 2 if entry is not None and event is not None and event.type == "step.delta" else 1
        super().write(lease, entry, event)

    def _append(self, run, event):
        super()._append(run, event)
        if getattr(self, "_step", 1) == 2:
            run.frames[-1] = Frame(run.frames[-1].seq + 1, run.frames[-1].data)


@breaks("S4")
class Renumbering(MemoryStore):
    """Each owner counts on from where it thinks the log is."""

    async def events(self, run_id, after, *, skip_deltas=False):
        found = await super().events(run_id, after, skip_deltas=skip_deltas)
        moved = run_id in self._runs and self._runs[run_id].token > 2
        return [Frame(made.seq + 1, made.data) if moved else made for made in found]


@breaks("S4")
class Rewriting(MemoryStore):
    """Events that were read already change when more of them are synced."""

    def __init__(self):
        super().__init__()
        self._syncs = {}

    def change(self, lease, function, **given):
        run = self._runs.get(lease.run_id)
        self._syncs[lease] = self._syncs.get(lease, 0) + 1
        if self._syncs[lease] > 3 and run is not None and len(run.frames) > 1 and run.frames[1].type == "step.started":
            run.frames[1] = Frame(run.frames[1].seq, run.frames[1].data + b" ")
        return super().change(lease, function, **given)


class _LogThatGoesOn(MemoryRunLog):
    def append(self, entry, event, *, durable=False):
        run = self._store._runs[self.lease.run_id]
        if run.record.finished:
            run.entries += [entry] if entry else []
            if event:
                self._store._append(run, event)
        else:
            super().append(entry, event)


@breaks("S5")
class EndlessLog(MemoryStore):
    """The terminal event is not the last one."""

    def log(self, lease):
        return _LogThatGoesOn(self, lease)


class _LogThatEndsTwice(MemoryRunLog):
    def finish(self, outcome, event, at):
        run = self._store._runs[self.lease.run_id]
        if run.record.finished and run.token == self.lease.token:
            run.owner = self.lease.owner
        return super().finish(outcome, event, at)


@breaks("S5")
class TwoOutcomes(MemoryStore):
    """A run can end a second time."""

    def log(self, lease):
        return _LogThatEndsTwice(self, lease)


class _LogWithoutOutcome(MemoryRunLog):
    def finish(self, outcome, event, at):
        return super().finish(outcome, event, at + 0.5)


@breaks("S5")
class WrongEnd(MemoryStore):
    """The outcome is not the one that was given."""

    def log(self, lease):
        return _LogWithoutOutcome(self, lease)


@breaks("S6")
class ForgottenId(MemoryStore):
    """A run that is created again begins anew."""

    def create(self, record, event, **options):
        if options["durable"]:
            self._runs.pop(record.id, None)
        return super().create(record, event, **options)


@breaks("S6")
class ForgottenKey(MemoryStore):
    """An idempotency key does not hold a second request back."""

    def create(self, record, event, *, idempotency=None, **options):
        before = None if idempotency is None else self._keys.get((record.tenant, idempotency.key))
        if before and before[0] == idempotency and self._runs[before[1]].record.created_at == record.created_at:
            idempotency = None
        return super().create(record, event, idempotency=idempotency, **options)


@breaks("S6")
class SharedKeys(MemoryStore):
    """An idempotency key is everybody's."""

    def create(self, record, event, *, idempotency=None, **options):
        for (_, key), (kept, run_id) in self._keys.items():
            if idempotency is not None and key == idempotency.key and kept == idempotency and record.tenant:
                commit = Commit()
                commit.resolve(Created(run_id))
                return commit, None
        return super().create(record, event, idempotency=idempotency, **options)


@breaks("S20")
class WithoutEntries(MemoryStore):
    """A run that is created with entries has none."""

    def create(self, record, event, *, entries=(), **options):
        return super().create(record, event, **options)


@breaks("S20")
class EntriesAgain(MemoryStore):
    """A run that is created again has the entries of both."""

    def create(self, record, event, *, entries=(), **options):
        known = self._runs.get(record.id)
        if known is not None:
            known.entries += entries
        return super().create(record, event, entries=entries, **options)


@breaks("S20")
class WithoutSignals(MemoryStore):
    """A run that is created with signals has none."""

    def create(self, record, event, *, signals=(), **options):
        return super().create(record, event, **options)


@breaks("S21")
class UnnamedRetries(MemoryStore):
    """A run does not name its retries."""

    def create(self, record, event, **options):
        made = super().create(record, event, **options)
        if record.retry_of in self._runs:
            self._runs[record.retry_of].record.retried_as = []
        return made


@breaks("S20")
class EntriesBackwards(MemoryStore):
    """The last entry that a run is created with comes first."""

    def create(self, record, event, *, entries=(), **options):
        return super().create(record, event, entries=entries[::-1], **options)


@breaks("S20")
class SeededAsStarted(MemoryStore):
    """A run that is created with entries has started, though it waits."""

    def create(self, record, event, *, entries=(), **options):
        record.started_at = record.created_at if entries else record.started_at
        return super().create(record, event, entries=entries, **options)


@breaks("S20")
class SeededAsFresh(MemoryStore):
    """A run that is created with entries is claimed as if it had none."""

    async def claim(self, owner, limit, pipelines, now, *classes):
        claims = await super().claim(owner, limit, pipelines, now, *classes)
        return [claim._replace(fresh=claim.fresh or self._is_seeded(claim.record.id)) for claim in claims]

    def _is_seeded(self, run_id):
        run = self._runs[run_id]
        return bool(run.entries) and len(run.frames) == 1 and run.token == 2


@breaks("S7")
class SwallowedEvent(MemoryStore):
    """Listeners do not hear of every event."""

    def listen(self, listener):
        super().listen(lambda batches: [listener([batch]) for batch in batches if batch.first % 5])


@breaks("S7")
class RepeatedEvent(MemoryStore):
    """Listeners hear of an event twice."""

    def listen(self, listener):
        super().listen(lambda batches: [listener(batches) for _ in range(1 + (batches[0].first == 3))])


@breaks("S7")
class EarlyEvent(MemoryStore):
    """Listeners learn about an event before it can be read."""

    def _append(self, run, event):
        listeners, self._listeners = self._listeners, []
        held = list(run.frames)
        super()._append(run, event)
        whole, run.frames = run.frames, held
        self._listeners = listeners
        self._tell(run, whole[-1])
        run.frames = whole

    def _tell(self, run, made):
        for listener in self._listeners:
            listener([Batch(run.record.id, made.seq, [made.data])])


@breaks("S8")
class ForgottenField(MemoryStore):
    """Part of a record is not stored."""

    async def get(self, run_id):
        record = await super().get(run_id)
        return record and replace(record, metadata={})


class _LogThatShortens(MemoryRunLog):
    def finish(self, outcome, event, at):
        failure = outcome.error and replace(outcome.error, causes=[])
        return super().finish(Outcome(outcome.status, outcome.result, failure), event, at)


@breaks("S8")
class ShortenedFailure(MemoryStore):
    """A failure loses what caused it."""

    def log(self, lease):
        return _LogThatShortens(self, lease)


@breaks("S8")
class StrictReader(MemoryStore):
    """An unknown run is an error to some readers."""

    async def signals(self, run_id):
        return list(self._runs[run_id].signals)


@breaks("S9")
class IgnoredAdoption(MemoryStore):
    """Adoption is acknowledged and forgotten."""

    def adopt(self, lease, demotion):
        return self.change(lease, lambda _run: None)


@breaks("S9")
class AdoptionThatLetsGo(MemoryStore):
    """An adopted run is for anybody to take at once."""

    def adopt(self, lease, demotion):
        commit = super().adopt(lease, demotion)
        if self._runs[lease.run_id].held(lease):
            run = self._runs[lease.run_id]
            run.move(ownership.release(run.ownership))
        return commit


@breaks("S9")
class AdoptionTwice(MemoryStore):
    """The second adoption is another demotion."""

    def adopt(self, lease, demotion):
        if self._runs[lease.run_id].record.demotion is not None:
            demotion = replace(demotion, at=demotion.at + 1)
        return super().adopt(lease, demotion)


@breaks("S10")
class DeafToCursors(MemoryStore):
    """A reader in the middle of a log misses an event."""

    async def events(self, run_id, after, *, skip_deltas=False):
        found = await super().events(run_id, after, skip_deltas=skip_deltas)
        return found[1:] if after == 4 and found and found[0].type == "step.started" else found


@breaks("S10")
class UnskippedDeltas(MemoryStore):
    """Deltas come though they were to be skipped."""

    async def events(self, run_id, after, *, skip_deltas=False):
        return await super().events(run_id, after)


@breaks("S10")
class SkippedNumbers(MemoryStore):
    """Without deltas, the rest is numbered anew."""

    async def events(self, run_id, after, *, skip_deltas=False):
        found = await super().events(run_id, after, skip_deltas=skip_deltas)
        if not skip_deltas:
            return found
        return [Frame(after + place, made.data) for place, made in enumerate(found, 1)]


@breaks("S10")
class UnboundedRead(MemoryStore):
    """A long log comes in one piece."""

    async def events(self, run_id, after, *, skip_deltas=False):
        frames = self._runs[run_id].frames[after:] if run_id in self._runs else []
        return [made for made in frames if not (skip_deltas and made.type == "step.delta")]


@breaks("S10")
class LinesAreEvents(MemoryStore):
    """An event with a line break in its text is two."""

    async def events(self, run_id, after, *, skip_deltas=False):
        found = await super().events(run_id, after, skip_deltas=skip_deltas)
        return [Frame(made.seq, part) for made in found for part in made.data.replace(b"\\n", b"\n").split(b"\n")]


@breaks("S11")
class AnyBodyWillDo(MemoryStore):
    """A key is accepted with any body."""

    def create(self, record, event, *, idempotency=None, **options):
        before = None if idempotency is None else self._keys.get((record.tenant, idempotency.key))
        if before and before[0].expires_at > record.created_at:
            idempotency = before[0]
        return super().create(record, event, idempotency=idempotency, **options)


@breaks("S11")
class EternalKey(MemoryStore):
    """A key is never free again."""

    def create(self, record, event, *, idempotency=None, **options):
        before = None if idempotency is None else self._keys.get((record.tenant, idempotency.key))
        if before:
            self._keys[record.tenant, idempotency.key] = replace(before[0], expires_at=1e12), before[1]
        return super().create(record, event, idempotency=idempotency, **options)


@breaks("S11")
class ShortKey(MemoryStore):
    """A key is forgotten before it expires."""

    def create(self, record, event, *, idempotency=None, **options):
        if idempotency is not None:
            idempotency = replace(idempotency, expires_at=idempotency.expires_at - 5)
        return super().create(record, event, idempotency=idempotency, **options)


@breaks("S12")
class OldestFirst(MemoryStore):
    """A listing begins at the wrong end."""

    async def runs(self, wanted):
        page = await super().runs(wanted)
        return page._replace(runs=page.runs[::-1])


@breaks("S12")
class RepeatedPage(MemoryStore):
    """A page begins with the last run of the page before."""

    async def runs(self, wanted):
        after = wanted.after and wanted.after[:-1] + chr(ord(wanted.after[-1]) + 1)
        return await super().runs(replace(wanted, after=after))


@breaks("S12")
class IgnoredFilter(MemoryStore):
    """A listing shows other pipelines than asked for."""

    async def runs(self, wanted):
        return await super().runs(replace(wanted, pipeline=None))


@breaks("S12")
class OpenTenants(MemoryStore):
    """A listing shows everybody's runs."""

    async def runs(self, wanted):
        return await super().runs(replace(wanted, tenant=None))


@breaks("S12")
class ClosedTenants(MemoryStore):
    """Not even the operator sees everybody's runs."""

    async def runs(self, wanted):
        return await super().runs(replace(wanted, tenant=wanted.tenant or ""))


@breaks("S12")
class HeavyListing(MemoryStore):
    """A page grows with the results in it."""

    async def runs(self, wanted):
        page = await super().runs(wanted)
        return page._replace(runs=[await self.get(record.id) for record in page.runs])


@breaks("S12")
class LostPage(MemoryStore):
    """A listing ends where its first page does."""

    async def runs(self, wanted):
        return (await super().runs(wanted))._replace(after=None)


@breaks("S12")
class EitherFilter(MemoryStore):
    """Of two filters only one counts."""

    async def runs(self, wanted):
        return await super().runs(replace(wanted, pipeline=None if wanted.session_id else wanted.pipeline))


@breaks("S23")
class WaitsForEver(MemoryStore):
    """A run that has ended is still said to wait."""

    def _append(self, run, event):
        super()._append(run, event)
        run.note_end = lambda: None


@breaks("S23")
class WaitsCounted(MemoryStore):
    """A start of a wait that is written twice needs two ends."""

    def _append(self, run, event):
        change = change_in(event)
        starts = run.__dict__.setdefault("starts", [])
        if change is not None and change.begins:
            starts.append(change.key)
        elif change is not None:
            starts.remove(change.key)
            if change.key in starts:
                event = msgspec.structs.replace(event, type="step.delta")
        super()._append(run, event)


@breaks("S23")
class AnyWait(MemoryStore):
    """Runs that do not wait are listed among those that do."""

    async def runs(self, wanted):
        return await super().runs(replace(wanted, waiting=False))


@breaks("S23")
class OneKindOfWait(MemoryStore):
    """A run that waits for both kinds is counted for one."""

    async def waiting(self):
        runs = [run.record for run in self._runs.values() if run.record.waits]
        return Counter((run.pipeline, kinds_in(run.waits)[0]) for run in runs)


@breaks("S13")
class NoPurge(MemoryStore):
    """Nothing is ever removed."""

    async def purge(self, now, only=None):
        return 0


@breaks("S13")
class EarlyPurge(MemoryStore):
    """Data goes before its time."""

    async def purge(self, now, only=None):
        return await super().purge(now + 50, only)


@breaks("S13")
class GreedyPurge(MemoryStore):
    """Data of runs that have not ended goes too."""

    async def purge(self, now, only=None):
        for run in self._runs.values():
            if not run.record.finished and now > run.record.created_at + 1e8:
                run.entries = []
        return await super().purge(now, only)


@breaks("S13")
class CarelessPurge(MemoryStore):
    """What is due goes, named or not."""

    async def purge(self, now, only=None):
        return await super().purge(now)


@breaks("S13")
class RemainingSignals(MemoryStore):
    """Signals outlive their run."""

    async def purge(self, now, only=None):
        kept = {run_id: run.signals for run_id, run in self._runs.items()}
        count = await super().purge(now, only)
        for run_id, signals in kept.items():
            self._runs[run_id].signals = signals
        return count


@breaks("S13")
class RemainingFacts(MemoryStore):
    """What was known of the input outlives the run."""

    async def purge(self, now, only=None):
        kept = {run_id: run.record.seen for run_id, run in self._runs.items()}
        count = await super().purge(now, only)
        for run_id, run in self._runs.items():
            run.record = replace(run.record, seen=kept[run_id])
        return count


@breaks("S13")
class RemainingInput(MemoryStore):
    """What a user sent outlives its run."""

    async def purge(self, now, only=None):
        kept = {run_id: run.record.input for run_id, run in self._runs.items()}
        count = await super().purge(now, only)
        for run_id, run in self._runs.items():
            run.record = replace(run.record, input=kept[run_id])
        return count


@breaks("S13")
class GreedySweep(MemoryStore):
    """Keys go before their time."""

    async def sweep(self, now):
        return await super().sweep(now + 1_000)


@breaks("S19")
class SharedDuty(MemoryStore):
    """A duty is given to all that ask."""

    async def take_duty(self, duty, owner, now, until):
        return True


@breaks("S19")
class DutyForLife(MemoryStore):
    """A duty stays with its first owner."""

    async def take_duty(self, duty, owner, now, until):
        return await super().take_duty(duty, owner, now, max(until, now + 1e9))


@breaks("S19")
class OneDuty(MemoryStore):
    """Who has a duty keeps all others from the rest."""

    async def take_duty(self, duty, owner, now, until):
        return await super().take_duty("all", owner, now, until)


@breaks("S14")
class NeverClosed(MemoryStore):
    """A closed store acknowledges what nobody writes any more."""

    async def close(self):
        pass


@breaks("S15")
class OverlooksEnds(MemoryStore):
    """A reader that has everything is not told that the run has ended."""

    async def ahead(self, positions):
        return [run_id for run_id in await super().ahead(positions) if not self._runs[run_id].record.finished]


@breaks("S15")
class WakesEverybody(MemoryStore):
    """Every reader looks, each time."""

    async def ahead(self, positions):
        return list(positions)


@breaks("S18")
class AlwaysInTrouble(MemoryStore):
    """It says that nothing can be written, and writes."""

    def trouble(self):
        return "the store is full"


@breaks("S18")
class TroubledByLostLeases(MemoryStore):
    """What another process owns counts as what cannot be written."""

    _refusals = 0

    def _refusal(self, lease, run):
        error = super()._refusal(lease, run)
        self._refusals += error is not None
        return error

    def trouble(self):
        return "writes are refused" if self._refusals else None


@breaks("S22")
class SecretOfEachCaller(MemoryStore):
    """A secret is not kept."""

    async def secret(self, offered):
        return offered


@breaks("S22")
class ConstantSecret(MemoryStore):
    """A secret that every user of the library knows."""

    async def secret(self, offered):
        return bytes(len(offered))


@breaks("S16")
class AlwaysSummed(MemoryStore):
    """Cells before the first one of the range are summed, too."""

    async def summed_cells(self, width, first, last, tenant=""):
        return await super().summed_cells(width, 0, last, tenant)


@breaks("S16")
class OneClass(MemoryStore):
    """Classes are counted together."""

    async def summed_cells(self, width, first, last, tenant=""):
        found = await super().summed_cells(width, first, last, tenant)
        total = Counter()
        for counts in found.values():
            total.update(counts)
        return {key: dict(total) for key in found}


@breaks("S16")
class ShortMemory(MemoryStore):
    """The cells of a range are kept for a day."""

    async def add_cells(self, cells):
        await super().add_cells(cells)
        newest = max((cell.number for cell in cells if cell.width == LONG), default=0)
        for key in [key for key in self._cells._counts if key[0] == LONG and key[1] <= newest - 6]:
            del self._cells._counts[key]


@breaks("S16")
class CountedTwice(MemoryStore):
    """A tenant's counts are added to those of all, which have them already."""

    async def add_cells(self, cells):
        await super().add_cells([*cells, *(each._replace(tenant="") for each in cells if each.tenant)])


@breaks("S16")
class LastCellCounts(MemoryStore):
    """Counts of a cell take the place of those before."""

    async def add_cells(self, cells):
        for cell in cells:
            key = cell.width, cell.number, cell.tenant, cell.pipeline, cell.sla
            self._cells._counts.pop(key, None)
        await super().add_cells(cells)


@breaks("S16")
class NewestCellLeftOut(MemoryStore):
    """The last number that was asked for is not summed."""

    async def summed_cells(self, width, first, last, tenant=""):
        return await super().summed_cells(width, first, last - 1, tenant)


@breaks("S16")
class OneTenantOfCells(MemoryStore):
    """Every tenant sees the cells of all."""

    async def summed_cells(self, width, first, last, tenant=""):
        return await super().summed_cells(width, first, last)


@breaks("S17")
class EndedIsUnfinished(MemoryStore):
    """Runs that have ended are among those that have not."""

    async def unfinished(self, limit):
        return [run.head for run in self._runs.values()][:limit]


@breaks("S17")
class ParkedIsFinished(MemoryStore):
    """Parked runs are left out."""

    async def unfinished(self, limit):
        parked = {run.record.id for run in self._runs.values() if run.parked_until is not None}
        return [head for head in await super().unfinished(limit) if head.id not in parked]


@breaks("S24")
class NewestFirst(MemoryStore):
    """New runs are found in the wrong order."""

    async def ids_after(self, run_id, limit):
        return (await super().ids_after(run_id, limit))[::-1]


@breaks("S24")
class HeadsOfAll(MemoryStore):
    """The heads of all runs are found."""

    async def heads(self, ids):
        return [run.head for run in self._runs.values()]


@breaks("S27")
class OpenOnThePath(MemoryStore):
    """A run of a key counts as open only while a process executes it."""

    async def runs_of_key(self, key, after, limit):
        found = await super().runs_of_key(key, after, limit)
        owned = sum(run.record.api_key == key and run.owner is not None for run in self._runs.values())
        return found._replace(open=owned)


@breaks("S27")
class OldestOfKey(MemoryStore):
    """The oldest ids of a key, not the newest."""

    async def runs_of_key(self, key, after, limit):
        found = await super().runs_of_key(key, after, 1_000_000)
        return found._replace(ids=found.ids[:limit])


@breaks("S27")
class EndedOfKey(MemoryStore):
    """A run that has ended was never started."""

    async def runs_of_key(self, key, after, limit):
        found = await super().runs_of_key(key, after, limit)
        return found._replace(ids=[each for each in found.ids if not self._runs[each].record.finished])


@breaks("S27")
class KeysTogether(MemoryStore):
    """The runs of every key."""

    async def runs_of_key(self, key, after, limit):
        for run in self._runs.values():
            run.record.api_key = key
        return await super().runs_of_key(key, after, limit)
