"""Engines with one bug each: the embedded one, over a store in memory that several members share."""

from __future__ import annotations

import asyncio
from collections import Counter

from offramp.core.seed import NO_SEED
from offramp.core.shares import Tenancy
from offramp.engines.leased.queue_bound import QueueBound
from offramp.errors import Overloaded
from offramp.ports.engine import Handoff
from offramp.ports.store import Claim, Lease, Parked
from offramp.stores.memory import MemoryStore
from tests.conformance.adapters import EVERYTHING, TAKEOVER_S, Embedded, EmbeddedSite, Memory
from tests.conformance.broken import rules
from tests.conformance.broken.leases import SignalsBackwards
from tests.conformance.broken.marks import breaks
from tests.conformance.broken.sqlite import Passing


class Seat(Passing):
    """One member at a store in memory; outlives it, as a process's data outlives the process."""

    def __init__(self, inner, losses):
        super().__init__(inner)
        self._losses = losses
        self.store = self.leases = self

    def on_lost(self, callback):
        self._losses.append(callback)

    def die(self, owner):
        died = getattr(self._inner, "died", None)
        if died is not None:
            died(owner)

    async def close(self):
        pass


class SharedMemory(Memory):
    """A store in memory for several members in one process: quick, and enough to plant a bug in."""

    name = "shared memory"
    capabilities = EVERYTHING

    async def open(self):
        made, losses = self._make(), []
        made.on_lost(lambda lease: [callback(lease) for callback in losses])
        return Seat(made, losses)

    async def reopen(self, instance):
        return Seat(instance._inner, instance._losses)


class Broken(Embedded):
    """`make` makes the store, `wrap` puts something around the engine, `plants` is a bug in a rule of ownership."""

    make = MemoryStore
    plants = None

    def __init__(self):
        super().__init__(SharedMemory(self.make), self.wrap)

    def wrap(self, engine, host):
        return engine


class Sound(Broken):
    """No bug: the vehicle itself passes."""


class _StartsAgain(Passing):
    def __init__(self, inner, host):
        super().__init__(inner)
        self._host = host

    async def start(self, record, accepted, idempotency, seed=NO_SEED):
        created = await self._inner.start(record, accepted, idempotency, seed)
        if created.existing == record.id:
            self._host.execute(Claim(record, Lease(record.id, self._host.owner, 1), True))
        return created


@breaks("N1")
class DoubleStart(Broken):
    """A run that is started again is executed again."""

    def wrap(self, engine, host):
        return _StartsAgain(engine, host)


class _ForgetsKeys(Passing):
    async def start(self, record, accepted, idempotency, seed=NO_SEED):
        return await self._inner.start(record, accepted, None, seed)


@breaks("N1")
class ForgottenKey(Broken):
    """A request that is repeated with its key makes a second run."""

    def wrap(self, engine, host):
        return _ForgetsKeys(engine)


class _LosesNewRuns(MemoryStore):
    def died(self, owner):
        for run in self._runs.values():
            if run.owner == owner and run.token == 1 and not run.entries:
                run.record.pipeline = "nobody's"


@breaks("N1")
class EarlyAcceptance(Broken):
    """A run is acknowledged before it is durable."""

    make = _LosesNewRuns


class _GivesTwice(MemoryStore):
    async def claim(self, owner, limit, pipelines, now, *classes):
        claims = await super().claim(owner, limit, pipelines, now, *classes)
        return [*claims, *(claims if len(claims) > 1 else ())]


@breaks("N1")
class GivenTwice(Broken):
    """A run is given out twice when several are."""

    make = _GivesTwice


class _AdoptsNothing(Passing):
    async def adopt(self, handoff):
        pass


@breaks("N2")
class AdoptionIgnored(Broken):
    """A demoted run stays the fast path's."""

    def wrap(self, engine, host):
        return _AdoptsNothing(engine)


class _LosesJournals(MemoryStore):
    def died(self, owner):
        for run in self._runs.values():
            if run.owner == owner and run.record.demotion is not None and run.record.started_at is not None:
                run.entries = [entry for entry in run.entries if run.frames[1:]]


@breaks("N2")
class AdoptionBeforeTheJournal(Broken):
    """An adopted run's last steps are lost with its process."""

    make = _LosesJournals


class _AdoptsOnce(Passing):
    async def adopt(self, handoff):
        record = await self._inner._store.get(handoff.lease.run_id)
        if record.demotion is not None:
            handoff = Handoff(handoff.lease, type(record.demotion)("drain", 0.0, 0.0, 0.0), [])
        await self._inner.adopt(handoff)


@breaks("N2")
class SecondAdoption(Broken):
    """Adopting again is another demotion."""

    def wrap(self, engine, host):
        return _AdoptsOnce(engine)


class _LetsGo(Passing):
    async def adopt(self, handoff):
        await self._inner.adopt(handoff)
        clock, leases = self._inner._clock, self._inner.leases
        loop = asyncio.get_running_loop()
        tasks = []

        def let_go():
            run = leases._leases._inner._runs[handoff.lease.run_id]
            if run.held(handoff.lease):
                tasks.append(loop.create_task(self._inner.release(handoff.lease)))

        clock.call_at(clock.monotonic() + TAKEOVER_S / 2, let_go)


@breaks("N3")
class ImpatientAdoption(Broken):
    """A step in flight is executed elsewhere too, if it takes long."""

    def wrap(self, engine, host):
        return _LetsGo(engine)


class _RecoversFromScratch(MemoryStore):
    def died(self, owner):
        for run in self._runs.values():
            if run.owner == owner and run.record.demotion is None:
                run.entries = []


@breaks("N4")
class RecoveryFromScratch(Broken):
    """What a dead process had finished is done again."""

    make = _RecoversFromScratch


class _ReleasesWithoutJournal(MemoryStore):
    async def release(self, lease, parked=None):
        await super().release(lease, parked)
        run = self._runs[lease.run_id]
        if parked is None and run.record.demotion is None:
            run.entries = []


@breaks("N4")
class ReleaseFromScratch(Broken):
    """What was finished before a release is done again."""

    make = _ReleasesWithoutJournal


@breaks("N5")
class CancelForgotten(Broken):
    """A wish to cancel is acknowledged and forgotten."""

    plants = rules.cancel_ignored

    def wrap(self, engine, host):
        return _CancelsOnPaper(engine)


class _CancelsOnPaper(Passing):
    async def cancel(self, run_id):
        return await self._inner._store.get(run_id)


class _CancelsHere(Passing):
    async def cancel(self, run_id):
        record = await self._inner._store.get(run_id)
        if record is not None and not record.finished:
            self._inner._host.cancel(run_id)
        return record


@breaks("N5")
class CancelsHereOnly(Broken):
    """Only what executes in the same process is cancelled."""

    def wrap(self, engine, host):
        return _CancelsHere(engine)


class _BuriesNobody(MemoryStore):
    async def retire(self, owner):
        known = self._owners.get(owner)
        return await super().retire(owner) if known is None or known.ready is False else 0


@breaks("N6")
class NoBurial(Broken):
    """Who is known to be dead is waited for."""

    make = _BuriesNobody


@breaks("N7")
class LostWhileParking(Broken):
    """A signal that comes while a run is being parked is lost."""

    plants = rules.signal_lost_at_parking


@breaks("N7")
class SleepsThroughSignals(Broken):
    """A parked run is not woken by its signal."""

    plants = rules.deaf_while_parked


@breaks("N7")
class SignalsReversed(Broken):
    """Of two signals of a name the second is received first."""

    make = SignalsBackwards


class _SendsTwice(Passing):
    async def signal(self, run_id, name, value, key=None):
        await self._inner.signal(run_id, name, value)
        return await self._inner.signal(run_id, name, value)


class _DropsKeys(Passing):
    async def signal(self, run_id, name, value, key=None):
        return await self._inner.signal(run_id, name, value)


@breaks("N7")
class SignalAgain(Broken):
    """A signal that is sent again with its key is another one."""

    def wrap(self, engine, host):
        return _DropsKeys(engine)


@breaks("N7")
class SignalTwice(Broken):
    """A signal is received twice."""

    def wrap(self, engine, host):
        return _SendsTwice(engine)


class _Dozes(MemoryStore):
    async def release(self, lease, parked=None):
        deadline = self._runs[lease.run_id].record.deadline_at
        if parked is not None and deadline is None:
            parked = Parked(1_700_000_000.0 + TAKEOVER_S / 2, parked.signals_seen)
        await super().release(lease, parked)


@breaks("N7")
class RestlessParking(Broken):
    """A parked run is executed now and then."""

    make = _Dozes


class _LosesSignals(MemoryStore):
    def died(self, owner):
        for run in self._runs.values():
            run.signals = []


@breaks("N7")
class SignalBeforeTheDisk(Broken):
    """A signal that was taken dies with its process."""

    make = _LosesSignals


class _ForgetsFences(MemoryStore):
    def write(self, lease, entry, event):
        run = self._runs.get(lease.run_id)
        if run is not None and not run.record.finished and run.record.demotion is None and not run.held(lease):
            run.entries += [entry] if entry else []
            return
        super().write(lease, entry, event)


@breaks("N8")
class ForgottenFence(Broken):
    """A process that lost a run writes on."""

    make = _ForgetsFences


class _Unwired(EmbeddedSite):
    @staticmethod
    def wire(store, host):
        pass


@breaks("N8")
class UntoldHost(Broken):
    """Nobody tells a host that it lost a run."""

    site = _Unwired


class _NeverOverdue(MemoryStore):
    async def overdue(self, now):
        return []


@breaks("N9")
class NoDeadline(Broken):
    """A run that no process executes waits forever."""

    make = _NeverOverdue


class _EarlyOverdue(MemoryStore):
    async def overdue(self, now):
        return await super().overdue(now + TAKEOVER_S)


@breaks("N9")
class EarlyEnd(Broken):
    """A run that no process executes is given up before its deadline."""

    make = _EarlyOverdue


class _AlwaysReady(Passing):
    async def ready(self):
        return True


@breaks("N10")
class AlwaysReady(Broken):
    """Ready, whatever processes exist."""

    def wrap(self, engine, host):
        return _AlwaysReady(engine)


class _NeverReady(Passing):
    async def ready(self):
        return False


@breaks("N10")
class NeverReady(Broken):
    """Not ready, whatever processes exist."""

    def wrap(self, engine, host):
        return _NeverReady(engine)


class _TakesMore(Passing):
    def __init__(self, inner):
        super().__init__(inner)

        async def room(*_):
            pass

        inner._require_room = room


@breaks("N11")
class NoBound(Broken):
    """Any number of runs may wait."""

    def wrap(self, engine, host):
        return _TakesMore(engine)


class _KeepsRefused(Passing):
    async def start(self, record, accepted, idempotency, seed=NO_SEED):
        try:
            return await self._inner.start(record, accepted, idempotency, seed)
        except Overloaded:
            self._inner._store.create(record, accepted, owner=None, durable=True)
            raise


@breaks("N11")
class RefusedButKept(Broken):
    """A run that was refused is executed."""

    def wrap(self, engine, host):
        return _KeepsRefused(engine)


@breaks("N11")
class NoLimits(Broken):
    """A class may fill the queue."""

    def wrap(self, engine, host):
        member = engine.seat.member
        engine.queue = QueueBound(engine.leases, engine._clock, member.queue_max, member.tenancy)
        return engine


@breaks("N11")
class OneLimitForAll(Broken):
    """A class's limit is full of what others queued."""

    def wrap(self, engine, host):
        take = engine.queue.take
        engine.queue.take = lambda tenant, _sla: take(tenant, "scarce")
        return engine


@breaks("N12")
class NoShares(Broken):
    """A tenant may fill the queue."""

    def wrap(self, engine, host):
        member = engine.seat.member
        engine.queue = QueueBound(engine.leases, engine._clock, member.queue_max, Tenancy(), member.queue_limits)
        return engine


@breaks("N12")
class OneShareForAll(Broken):
    """A tenant's share is full of what others queued."""

    def wrap(self, engine, host):
        take = engine.queue.take
        engine.queue.take = lambda _tenant, sla: take("acme", sla)
        return engine


class _TakesForEver(Passing):
    def takes(self):
        return True


@breaks("N13")
class TakesForEver(Broken):
    """A process says that it takes runs after it has left."""

    def wrap(self, engine, host):
        return _TakesForEver(engine)


class _RetiresNobody(Passing):
    async def retire(self, owner):
        return 0


@breaks("N14")
class RetiresNobody(Broken):
    """What a dead process held waits until its lease is over, though an operator says that it is dead."""

    def wrap(self, engine, host):
        return _RetiresNobody(engine)


class _NeverLooks(Passing):
    def has_room(self):
        pass


@breaks("N15")
class NeverLooks(Broken):
    """A run that waits is found by the next poll alone."""

    def wrap(self, engine, host):
        return _NeverLooks(engine)


class _CountsNoQueue(Passing):
    async def backlog(self):
        return 0


@breaks("N18")
class CountsNoQueue(Broken):
    """No run waits, however many do."""

    def wrap(self, engine, host):
        return _CountsNoQueue(engine)


class _SaysThatItShares(Passing):
    sharing = object()


@breaks("N16")
class SaysThatItShares(Broken):
    """An engine has a capability that its harness does not declare."""

    def wrap(self, engine, host):
        return _SaysThatItShares(engine)


class _OnceFull(MemoryStore):
    def __init__(self):
        super().__init__()
        self._most = Counter()

    async def queued(self):
        self._most |= Counter(await super().queued())
        return dict(self._most)


@breaks("N11")
class FullForEver(Broken):
    """A queue that was full once stays full."""

    make = _OnceFull


class _ForgetsSeeds(Passing):
    async def start(self, record, accepted, idempotency, seed=NO_SEED):
        return await self._inner.start(record, accepted, idempotency)


@breaks("N17")
class WithoutSeed(Broken):
    """A run that is started with a seed begins with nothing."""

    def wrap(self, engine, host):
        return _ForgetsSeeds(engine)
