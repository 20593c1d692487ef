"""Two processes at one store do what comes to mind; it has to do with each run what the tables of core/ decide.

Of one run's moves alone, tests/stores/test_rules.py makes longer sequences.

Times of the test are whole seconds, what it waits for is due half a second later: nothing is due exactly now.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from offramp.conformance.sample import (
    DEMOTION,
    DONE,
    NOW,
    PIPELINE,
    accepted,
    completed,
    entry,
    owner,
    record_of,
    started,
)
from offramp.conformance.store_stage import frames_of
from offramp.core import events, ownership
from offramp.core.claims import NO_SUSPICION
from offramp.core.ownership import Ownership
from offramp.core.run import Outcome
from offramp.errors import LeaseLost
from offramp.ports.store import Idempotency, Lease, Parked
from tests import valkey
from tests.conformance.adapters import MEMORY, SQLITE
from tests.conformance.model import Model, ModelRun
from tests.conformance.on_redis import REDIS
from tests.support import eventually

MEMBERS = ["a", "b"]
ENDS = {"completed": (DONE, completed()), "cancelled": (Outcome("cancelled"), None)}

members = st.sampled_from(MEMBERS)
number = st.integers(0, 200)
soon_s = st.integers(0, 12)
later_s = st.sampled_from([0, 1, 9, 12])


def at(list_, place):
    return list_[place % len(list_)]


class Processes(RuleBasedStateMachine):
    """Two processes, one store."""

    harness = MEMORY

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model(NOW)
        self.leases: list[Lease] = []
        self.published = defaultdict(list)
        self.count = 0
        self.touched = None

    def do(self, coroutine):
        return self.runner.run(coroutine)

    @initialize()
    def open(self):
        self.first = self.do(self.harness.open())
        shared = "shared" in self.harness.capabilities
        self.second = self.do(self.harness.reopen(self.first)) if shared else self.first
        self.at = dict(zip(MEMBERS, [self.first, self.second], strict=True))
        for instance in {id(self.first): self.first, id(self.second): self.second}.values():
            instance.store.listen(self.hear)
        # Something to begin with: what needs three things to come together would seldom happen otherwise.
        for member in MEMBERS:
            self.register(member)
            self.create(member, None, True, 0)
            self.create(member, None, False, 1)

    def hear(self, batches):
        for batch in batches:
            self.published[batch.run_id] += [(batch.first + place, data) for place, data in enumerate(batch.frames)]

    # Runs.

    @rule(member=members, key=st.sampled_from([None, "k", "l"]), leased=st.booleans(), priority=st.integers(0, 2))
    def create(self, member, key, leased, priority):
        self.count += 1
        queued = {} if leased else {"status": "queued"}
        record = record_of(
            self.count,
            priority=priority,
            created_at=self.model.now,
            deadline_at=self.model.now + 20.5 if self.count % 3 == 0 else None,
            retention_s=10.5,
            tenant="acme" if key is None and self.count % 2 else "",  # keys are a tenant's own
            **queued,
        )
        until = self.model.now + 15.5
        holder = member if leased else None
        commit, log = self.at[member].store.create(
            record,
            accepted(record),
            owner=holder,
            durable=True,
            idempotency=None if key is None else Idempotency(key, "body", until),
        )
        state = Ownership(
            record.status, holder, path=record.path, started_at=record.started_at, deadline_at=record.deadline_at
        )
        run = ModelRun(record.id, priority, 10.5, record.tenant, state)
        existing = self.model.create(run, key, until)
        assert self.do(_result(commit)).existing == existing
        if existing is None:
            self.touched = record.id
            if log is not None:
                self.leases.append(log.lease)

    @precondition(lambda self: self.model.runs)
    @rule(member=members, place=number)
    def create_again(self, member, place):
        run = at(list(self.model.runs.values()), place)
        record = record_of(int(run.id[-1] == "0"), id=run.id)
        commit, _ = self.at[member].store.create(record, accepted(record), owner=None, durable=True)
        assert self.do(_result(commit)).existing == run.id
        self.touched = run.id

    # Through a lease, current or not.

    def lease(self, place):
        """Three times of four one that is current, if there is any."""
        current = [lease for lease in self.leases if self.model.runs[lease.run_id].holds(lease)]
        return at(current if current and place % 4 else self.leases, place // 4)

    def write(self, place, call):
        """What a holder of a lease asks for: done if the lease is the current one, else refused."""
        lease = self.lease(place)
        run = self.model.runs[lease.run_id]
        self.touched = run.id
        try:
            self.do(call(self.at[lease.owner], lease))
        except LeaseLost:
            assert not run.holds(lease), f"{lease} is the current lease, but was refused"
            return None
        assert run.holds(lease), f"{lease} is not the current lease, but was accepted"
        return lease

    @precondition(lambda self: self.leases)
    @rule(place=number, size=st.integers(1, 3))
    def append(self, place, size):
        self.count += 1
        made = [entry(1_000 * self.count + step) for step in range(size)]

        async def call(instance, lease):
            log = instance.store.log(lease)
            for step, one in enumerate(made):
                log.append(one, started(step))
            await log.durable()

        lease = self.write(place, call)
        if lease is not None:
            run = self.model.runs[lease.run_id]
            run.entries += made
            run.events += ["step.started"] * size

    @precondition(lambda self: self.leases)
    @rule(place=number)
    def survive(self, place):
        async def call(instance, lease):
            log = instance.store.log(lease)
            log.survived()
            await log.durable()

        lease = self.write(place, call)
        if lease is not None:
            self.model.runs[lease.run_id].suspicion = NO_SUSPICION

    @precondition(lambda self: self.leases)
    @rule(place=number, status=st.sampled_from(["completed", "cancelled"]))
    def finish(self, place, status):
        outcome, event = ENDS[status]
        event = event or events.draft(events.RunCancelled({}), "2026-01-01T00:00:00Z")
        lease = self.write(place, lambda at, lease: _result(at.store.log(lease).finish(outcome, event, self.model.now)))
        if lease is not None:
            self.model.finish(lease, status)

    @precondition(lambda self: self.leases)
    @rule(place=number)
    def adopt(self, place):
        lease = self.write(place, lambda at, lease: _result(at.store.adopt(lease, DEMOTION)))
        if lease is not None:
            run = self.model.runs[lease.run_id]
            run.state, run.demoted = run.state._replace(path="deep"), True

    @precondition(lambda self: self.leases)
    @rule(place=number)
    def release(self, place):
        lease = self.write(place, lambda at, lease: at.leases.release(lease))
        if lease is not None:
            run = self.model.runs[lease.run_id]
            run.state = ownership.release(run.state)

    @precondition(lambda self: self.leases)
    @rule(place=number, wait_s=st.one_of(st.none(), soon_s), missed=st.integers(0, 1))
    def park(self, place, wait_s, missed):
        until = math.inf if wait_s is None else self.model.now + wait_s + 0.5
        seen = max(0, len(self.model.runs[self.lease(place).run_id].signals) - missed)
        lease = self.write(place, lambda at, lease: at.leases.release(lease, Parked(until, seen)))
        if lease is not None:
            self.model.park(lease, until, seen)

    # Leases.

    def given(self, claim, run, state, *, fresh):
        """A claim is what the table decided, though its token may have grown by more."""
        assert (claim.record.id, claim.lease.owner, claim.fresh) == (run.id, state.owner, fresh)
        before = [lease.token for lease in self.leases if lease.run_id == run.id]
        assert claim.lease.token > max(before, default=1), f"{claim.lease} after tokens {before}"
        run.state = state._replace(token=claim.lease.token)
        self.leases.append(claim.lease)
        self.touched = run.id

    def claimed(self, claim, run, member):
        state = ownership.claim(run.state, member, self.model.now)
        assert (claim is not None) is (state is not None)
        if claim is not None:
            self.given(claim, run, state, fresh=ownership.is_fresh(run.state))

    @rule(member=members, limit=st.integers(1, 3), later_s=later_s)
    def claim(self, member, limit, later_s):
        self.model.now += later_s
        claims = self.do(self.at[member].leases.claim(member, limit, [PIPELINE], self.model.now))
        due = self.model.due(member, limit)
        taken = [self.model.runs[claim.record.id] for claim in claims]
        # Whose turn it is among tenants is left to tests/stores/test_queue.py.
        assert [run.priority for run in taken] == [run.priority for run in due]
        for claim, run in zip(claims, taken, strict=True):
            self.claimed(claim, run, member)

    @precondition(lambda self: self.model.runs)
    @rule(member=members, place=number)
    def claim_one(self, member, place):
        run = at(list(self.model.runs.values()), place)
        self.claimed(self.do(self.at[member].leases.claim_one(member, run.id, self.model.now)), run, member)

    @precondition(lambda self: self.model.runs)
    @rule(
        member=members,
        place=number,
        name=st.sampled_from(["go", "stop"]),
        again=st.booleans(),
        key=st.sampled_from([None, "a", "b"]),
    )
    def signal(self, member, place, name, again, key):
        run = at(list(self.model.runs.values()), place)
        value = run.signals[0][1] if again and run.signals else str(len(run.signals)).encode()
        self.touched = run.id
        error = self.model.signal(run, name, value, key)
        sending = self.at[member].leases.send_signal(run.id, name, value, self.model.now, key)
        if error is not None:
            with pytest.raises(error):
                self.do(sending)
        else:
            assert self.do(sending).status == run.state.status

    @precondition(lambda self: self.model.runs)
    @rule(member=members, place=number)
    def cancel(self, member, place):
        run = at(list(self.model.runs.values()), place)
        record = self.do(self.at[member].leases.request_cancel(run.id))
        run.state = ownership.cancel(run.state)
        assert (record.cancel_requested, record.status) == (run.state.cancel_requested, run.state.status)
        self.touched = run.id

    @rule(member=members, leaving=st.sampled_from([False, False, True]))
    def register(self, member, leaving=False):
        said = msgspec.structs.replace(owner(member, self.model.now + 10.5), leaving=leaving)
        self.do(self.at[member].leases.register(said))
        self.model.owners[member] = self.model.now + 10.5
        (self.model.leaving.add if leaving else self.model.leaving.discard)(member)

    @rule(member=members)
    def renew(self, member):
        known, cancels = self.at[member].leases.renew(member, self.model.now + 10.5)
        assert known is (member in self.model.owners)
        assert sorted(cancels) == self.model.cancels(member)
        if known:
            self.model.owners[member] = self.model.now + 10.5

    @rule(member=members, later_s=later_s, blames=st.booleans())
    def expire(self, member, later_s, blames):
        self.model.now += later_s
        expired = self.at[member].leases.expire(self.model.now, blames=blames)
        assert sorted(expired) == sorted(self.model.expire(blames))

    @rule(member=members, other=members)
    def retire(self, member, other):
        assert self.do(self.at[member].leases.retire(other)) == self.model.retire(other)

    @rule(member=members)
    def overdue(self, member):
        assert set(self.do(self.at[member].leases.overdue(self.model.now))) == self.model.overdue()

    @rule(member=members, later_s=later_s)
    def purge(self, member, later_s):
        self.model.now += later_s
        assert self.do(self.at[member].store.purge(self.model.now)) == self.model.purge()

    # What always holds.

    @invariant()
    def everybody_sees_what_was_done(self):
        if self.touched is None:
            return
        run, self.touched = self.model.runs[self.touched], None
        for instance in (self.first, self.second):
            self.do(self.check(instance, run))

    async def check(self, instance, run):
        record = await instance.store.get(run.id)
        assert record == ownership.shown(record, run.state)
        assert (record.demotion is not None, record.finished_at, record.purged) == (
            run.demoted,
            run.finished_at,
            run.purged,
        )
        assert record.suspicion == run.suspicion
        assert await instance.store.journal(run.id) == run.entries
        assert await instance.store.signals(run.id) == run.signals
        frames = await frames_of(instance.store, run)
        assert [frame.type for frame in frames] == run.events
        assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
        ends = [frame.seq for frame in frames if frame.type in events.TERMINAL]
        assert ends == ([len(frames)] if run.finished and not run.purged else [])

    async def check_all(self):
        for instance in (self.first, self.second):
            for run in self.model.runs.values():
                await self.check(instance, run)
            assert set(await instance.leases.overdue(self.model.now)) == self.model.overdue()
            waiting = Counter(run.tenant for run in self.model.runs.values() if run.state.status == "queued")
            assert await instance.leases.queued() == waiting
            assert {known.id for known in await instance.leases.owners()} == set(self.model.owners)
        for run in self.model.runs.values():
            if not run.purged:
                whole = [(frame.seq, frame.data) for frame in await frames_of(self.first.store, run)]
                await eventually(lambda whole=whole, run=run: len(self.published[run.id]) >= len(whole))
                assert sorted(self.published[run.id]) == whole

    def teardown(self):
        try:
            if hasattr(self, "first"):
                try:
                    self.do(self.check_all())
                finally:
                    if self.second is not self.first:
                        self.do(self.second.close())
                    self.do(self.first.close())
        finally:
            self.runner.close()


async def _result(commit):
    return await commit


class SharedProcesses(Processes):
    """The same at a database, with two processes that really are two."""

    harness = SQLITE


class RedisProcesses(Processes):
    """The same at a server."""

    harness = REDIS


needs_valkey = pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))


@pytest.mark.parametrize(
    ("machine", "examples", "steps"),
    [
        (Processes, 60, 40),
        (SharedProcesses, 20, 30),
        pytest.param(RedisProcesses, 30, 40, marks=needs_valkey),
    ],
)
def test_the_store_is_what_the_model_says(machine, examples, steps):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
