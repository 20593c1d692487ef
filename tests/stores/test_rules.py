"""SQLite's statements and the scripts of Redis do with each run what the table of ownership decides.

A sequence of moves is made at the store in memory, which asks the table for every one, and at the other store. Both
have to answer alike, and to show the same runs after each move.
"""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from offramp.conformance.sample import DONE, NOW, PIPELINE, accepted, completed, entry, owner, record_of, started
from offramp.core.ownership import ASSIGNED_GRACE_S, ENGINE
from offramp.errors import IdempotencyMismatch, LeaseLost, RunConflict
from offramp.ports.listing import RunFilter
from offramp.ports.store import Parked
from tests import valkey
from tests.conformance.adapters import MEMORY, SQLITE
from tests.conformance.on_redis import REDIS

OPEN_RUNS_MAX = 5
MOVES = 400
MEMBERS = ["a", "b"]
REFUSALS = (LeaseLost, RunConflict, IdempotencyMismatch)


def claimed(claims):
    """Claims without their tokens, which may differ: Redis' grow with the time of day."""
    return [(claim.record, claim.lease.owner, claim.fresh) for claim in claims if claim is not None]


class Walk:
    """Moves of few runs, drawn from a seed, at two stores."""

    def __init__(self, seed, *stores):
        self.random = random.Random(seed)
        self.stores = stores
        self.now = NOW
        self.count = 0
        self.ids = []
        self.running = []
        self.leases = []
        """Each as it is at either store."""
        self.steps = []

    async def both(self, call, *arguments):
        """What both stores answer; an argument that is a pair of leases is one for each."""
        answers = []
        for place, at in enumerate(self.stores):
            given = [each[place] if type(each) is tuple else each for each in arguments]
            try:
                answers.append(await call(at, *given))
            except REFUSALS as refused:
                answers.append(type(refused))
        return answers

    async def alike(self, call, *arguments):
        answers = await self.both(call, *arguments)
        assert answers[0] == answers[1]
        return answers[0]

    def keep(self, answers):
        """Compare the claims of both stores, and keep their leases."""
        assert claimed(answers[0]) == claimed(answers[1])
        pairs = [(ours.lease, theirs.lease) for ours, theirs in zip(*answers, strict=True) if ours is not None]
        self.leases += [pair for pair in pairs if pair not in self.leases]

    def any_lease(self):
        """Mostly the newest of a run that is running, so a current one."""
        newest = {lease[0].run_id: lease for lease in self.leases}
        running = [newest[run_id] for run_id in self.running if run_id in newest]
        return self.random.choice(running if running and self.random.random() < 0.8 else self.leases)

    async def create(self):
        self.count += 1
        deadline_at = self.now + self.random.choice([10.5, 60.5]) if self.random.random() < 0.6 else None
        record = record_of(self.count, status="queued", created_at=self.now, deadline_at=deadline_at)
        for at in self.stores:
            await at.store.create(record, accepted(record), owner=None, durable=True)[0]
        self.ids.append(record.id)

    async def claim(self):
        answers = await self.both(
            lambda at, member, limit: at.leases.claim(member, limit, [PIPELINE], self.now),
            self.random.choice(MEMBERS),
            self.random.choice([1, 1, 2, 3]),
        )
        self.keep(answers)

    async def claim_one(self):
        run_id, member = self.random.choice(self.ids), self.random.choice(MEMBERS)
        answers = await self.both(lambda at: at.leases.claim_one(member, run_id, self.now))
        self.keep([[answer] for answer in answers])

    async def assign_to_engine(self):
        run_id = self.random.choice(self.ids)
        self.keep([[answer] for answer in await self.both(lambda at: at.leases.assign_to_engine(run_id, self.now))])

    async def release(self):
        await self.alike(lambda at, lease: at.leases.release(lease), self.any_lease())

    async def park(self):
        lease = self.any_lease()
        sent = len(await self.stores[0].store.signals(lease[0].run_id))
        until = self.random.choice([math.inf, self.now + 3.5, self.now + 20.5])
        parked = Parked(until, sent - (self.random.random() < 0.2))
        await self.alike(lambda at, lease: at.leases.release(lease, parked), lease)

    async def signal(self):
        run_id, name = self.random.choice(self.ids), self.random.choice(["go", "stop"])
        key = self.random.choice([None, None, "k"])
        await self.alike(lambda at: at.leases.send_signal(run_id, name, b"1", self.now, key))

    async def cancel(self):
        run_id = self.random.choice(self.ids)
        await self.alike(lambda at: at.leases.request_cancel(run_id))

    async def acknowledge(self):
        run_id = self.random.choice(await self.stores[0].leases.pending_notices() or self.ids)
        await self.alike(lambda at: at.leases.acknowledge_notice(run_id))

    async def finish(self):
        await self.alike(lambda at, lease: at.store.log(lease).finish(DONE, completed(), self.now), self.any_lease())

    async def survive(self):
        async def call(at, lease):
            log = at.store.log(lease)
            log.survived()
            await log.durable()

        await self.alike(call, self.any_lease())

    async def append(self):
        self.count += 1
        made = entry(self.count)

        async def call(at, lease):
            log = at.store.log(lease)
            log.append(made, started(0))
            await log.durable()

        await self.alike(call, self.random.choice(self.steps[-4:]) if self.steps else self.any_lease())

    async def take_step(self):
        assigned = [lease for lease in self.leases[-8:] if lease[0].owner == ENGINE]
        if not assigned:
            return
        lease, step = self.random.choice(assigned), self.random.choice(["s", "t"])
        answers = await self.both(lambda at, lease: at.leases.take_step(lease, step), lease)
        if answers[0] is LeaseLost or answers[1] is LeaseLost:
            assert answers[0] is answers[1]
            return
        assert (answers[0].lease.turn, answers[0].finished) == (answers[1].lease.turn, answers[1].finished)
        self.steps += [tuple(each.of_step(step) for each in lease), tuple(answer.lease for answer in answers)]

    async def register(self):
        leaving = self.random.random() < 0.3
        said = msgspec.structs.replace(owner(self.random.choice(MEMBERS), self.now + 5.5), leaving=leaving)
        await self.alike(lambda at: at.leases.register(said))

    async def retire(self):
        member = self.random.choice(MEMBERS)
        await self.alike(lambda at: at.leases.retire(member))

    async def expire(self):
        blames = self.random.random() < 0.7
        ours, theirs = (sorted(at.leases.expire(self.now, blames=blames)) for at in self.stores)
        assert ours == theirs

    async def wait(self):
        self.now += self.random.choice([1, 3, 10, ASSIGNED_GRACE_S])

    async def see(self):
        """What both stores show of all runs."""
        page = await self.alike(lambda at: at.store.runs(RunFilter(limit=100)))
        for ask in (lambda at: at.leases.overdue(self.now), lambda at: at.leases.pending_notices()):
            ours, theirs = await self.both(ask)
            assert set(ours) == set(theirs)
        self.ids = [record.id for record in page.runs[: OPEN_RUNS_MAX + 2]]
        self.running = [record.id for record in page.runs if record.status == "running"]
        return len([record for record in page.runs if not record.finished])

    async def see_logs(self):
        """What both stores have written of all runs."""
        for run_id in [record.id for record in (await self.stores[0].store.runs(RunFilter(limit=100))).runs]:
            await self.alike(lambda at, run_id=run_id: at.store.journal(run_id))
            await self.alike(lambda at, run_id=run_id: at.store.signals(run_id))
            await self.alike(lambda at, run_id=run_id: at.store.events(run_id, 0))

    async def move(self):
        often = [self.claim, self.claim_one, self.assign_to_engine, self.park, self.signal, self.wait]
        seldom = [self.release, self.cancel, self.acknowledge, self.finish, self.survive, self.append, self.take_step]
        rarely = [self.register, self.retire, self.expire]
        made = self.random.choice(often * 4 + seldom * 3 + rarely * 2)
        if self.leases or made in {self.claim, self.claim_one, self.assign_to_engine, self.signal, self.wait, *rarely}:
            await made()
        return made.__name__


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "harness",
    [
        pytest.param(SQLITE, id="sqlite"),
        pytest.param(
            REDIS, id="redis", marks=pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))
        ),
    ],
)
async def test_a_store_does_what_the_table_decides(harness, seed):
    table, store = await MEMORY.open(), await harness.open()
    walk, made = Walk(seed, table, store), []
    try:
        for _ in range(MOVES):
            if len(walk.ids) < OPEN_RUNS_MAX or await walk.see() < OPEN_RUNS_MAX:
                await walk.create()
            made.append(await walk.move())
            await walk.see()
        await walk.see_logs()
    except AssertionError as error:
        error.add_note(f"after {len(made)} moves, the last ones {made[-8:]}")
        raise
    finally:
        await store.close()
        await table.close()
