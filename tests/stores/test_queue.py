"""Every store gives its queued runs out in the same order: that of the store in memory, which asks the pure rule."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest

from offramp.conformance.sample import NOW, PIPELINE, accepted, record_of
from offramp.core.sla import SLA
from offramp.stores.memory.queue import MemoryQueue
from offramp.stores.sqlite import Database, queue
from tests import valkey
from tests.conformance.adapters import MEMORY, SQLITE
from tests.conformance.on_redis import REDIS
from tests.stores.test_rules import Walk
from tests.support import Files

MOVES = 250
CLASSES = {
    sla.name: sla
    for sla in (
        SLA("high", priority=2, patience=30, share=0.3),
        SLA("middle", patience=10, share=0.2),
        SLA("beside", patience=40, share=0.4),
        SLA("low", priority=-3, patience=0, share=0.1),
    )
}
PIPELINES = [PIPELINE, "other"]
SERVERLESS = pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))
SHARED = pytest.mark.parametrize(
    "harness", [pytest.param(SQLITE, id="sqlite"), pytest.param(REDIS, id="redis", marks=SERVERLESS)]
)


class Crowd(Walk):
    """Many runs of tenants, classes and pipelines, at two stores."""

    async def create(self):
        draw = self.random
        name = draw.choice(["high", "middle", "middle", "beside", "low", "undeclared"])
        priority = CLASSES[name].priority if name in CLASSES else draw.choice([-3, 0, 7])
        self.count += 1
        record = record_of(
            self.count,
            status="queued",
            tenant=draw.choice(["a", "b", "c", "d e", ""]),
            sla=name,
            priority=priority,
            pipeline=draw.choice(PIPELINES),
        )
        for at in self.stores:
            await at.store.create(record, accepted(record), owner=None, durable=True)[0]
        self.ids.append(record.id)

    async def claim(self):
        limit, member = self.random.choice([1, 1, 2, 3, 7]), self.random.choice(["a", "b", "c"])
        pipelines = self.random.choice([PIPELINES, PIPELINES, PIPELINES[:1], [*PIPELINES, "third"]])
        now = NOW + self.random.choice([0, self.count, self.count + 20])
        self.keep(await self.both(lambda at: at.leases.claim(member, limit, pipelines, now, CLASSES)))

    async def move(self):
        often, seldom = (
            [self.claim, self.create, self.create],
            [self.claim_one, self.release, self.retire, self.survive],
        )
        made = self.random.choice(often * 4 + seldom)
        if self.leases or made in {self.claim, self.create, self.claim_one, self.retire}:
            await made()
        return made.__name__


@SHARED
@pytest.mark.parametrize("seed", range(4))
async def test_a_store_takes_queued_runs_in_the_order_of_the_rule(harness, seed):
    rule, store = await MEMORY.open(), await harness.open()
    walk, made = Crowd(seed, rule, store), ["create"] * 30
    try:
        for _ in made:
            await walk.create()
        while len(made) < MOVES:
            made.append(await walk.move())
        counts, stored = [await at.leases.queued() for at in (rule, store)]
        assert counts == stored
        for _ in range(sum(counts.values())):
            await walk.claim()
    except AssertionError as error:
        error.add_note(f"after {len(made)} moves, the last ones {made[-8:]}")
        raise
    finally:
        await store.close()
        await rule.close()


@SERVERLESS
@pytest.mark.parametrize("kinds", [(), ("l", "lv", "n", "nc", "q1", "tags")], ids=["takes", "queues and takes"])
async def test_a_queue_that_an_older_process_on_redis_has_changed_is_whole_again(kinds):
    """It keeps no lines: of the runs that it queues there are none, and the run that it takes stays in one."""
    opened = await REDIS.open()
    try:
        crowd = Crowd(0, opened)
        for _ in range(12):
            await crowd.create()
        tag = opened.address.tag
        with valkey.server().client() as client:
            for kind in kinds:
                for key in list(client.scan_iter(f"{tag}{kind}:*")):
                    client.delete(key)
            [taken] = client.zrange(f"{tag}q:{PIPELINE}", 0, 0)
            client.zrem(f"{tag}q:{PIPELINE}", taken)
            client.hset(f"{tag}r:{taken.decode()}", "status", "running")
        assert sorted(await _drained(opened)) == sorted(set(crowd.ids) - {taken.decode()})
        await crowd.create()
        assert await _drained(opened) == crowd.ids[-1:]
    finally:
        await opened.close()


async def test_what_was_given_to_tenants_is_forgotten_once_it_decides_nothing(tmp_path):
    files = Files(tmp_path)

    async def queued(number, tenant):
        record = record_of(number, status="queued", tenant=tenant)
        await files.store.create(record, accepted(record), owner=None, durable=True)[0]

    def lines():
        return files.query("SELECT tenant FROM lines ORDER BY tenant")

    try:
        for number in range(6):
            await queued(number, f"t{number % 3}")
        for _ in range(4):
            await files.leases.claim("a", 1, [PIPELINE], NOW)
        await files.store.sweep(NOW)
        assert lines() == [("t0",), ("t1",), ("t2",)], "t0 has been given one run more than the others"
        for _ in range(2):
            await files.leases.claim("a", 1, [PIPELINE], NOW)
        while await files.store.sweep(NOW):
            pass
        assert lines() == []
    finally:
        await files.close()


def test_the_store_in_memory_forgets_tenants_that_have_nothing_queued():
    held = MemoryQueue()
    held.comes(record_of(0, status="queued", tenant="stays"))
    tracemalloc.start()
    try:
        for number in range(2_000):
            record = record_of(number + 1, status="queued", tenant=f"t{number}")
            held.comes(record)
            held.leaves(record)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


class Tenant(str):
    """Its comparisons are counted."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Tenant.compared += 1
        return str.__eq__(self, other)


def test_a_run_that_comes_to_the_store_in_memory_is_not_compared_with_all_that_wait():
    held = MemoryQueue()
    for number in range(300):
        held.comes(record_of(number, status="queued", tenant=Tenant(f"t{number}")))
    assert Tenant.compared < 300 * 30


WAITING = 3_000


@pytest.mark.parametrize("what", ["comes", "look", "claim", "claim of two classes"])
def test_what_a_queue_costs_does_not_grow_with_the_lines_of_other_pipelines(tmp_path, what):
    database = Database(tmp_path)

    def do(connection):
        if what == "comes":
            connection.execute("INSERT INTO comes VALUES ('mine', 0, 'new', 'low', 'run_1')")
        elif what == "look":
            queue.may_claim(connection, ["third"], NOW)
        else:
            queue.chosen(connection, "a", 2, ["mine", "third"], CLASSES, NOW)

    try:
        connection = database.connect()
        lines = [("mine", 0, f"t{n}", "low", 5.0, f"run_{n}", 1) for n in range(5)]
        if what == "claim of two classes":
            lines.append(("mine", 2, "t0", "high", 5.0, "run_9", 1))
        connection.executemany(LINE, lines)
        alone = _steps(connection, do)
        names = ("low", "high")
        connection.executemany(LINE, [("other", 0, f"t{n}", names[n % 2], 1.0, f"run_{n}", 1) for n in range(WAITING)])
        assert _steps(connection, do) < alone + WAITING / 10
    finally:
        database.close()


def test_a_process_with_many_pipelines_claims_from_each(tmp_path):
    """More than SQLite joins queries."""
    database = Database(tmp_path)
    pipelines = [f"p{n}" for n in range(501)]
    try:
        connection = database.connect()
        connection.executemany(LINE, [(name, 0, name, "low", 0.0, f"run_{name}", 1) for name in pipelines])
        taken = queue.chosen(connection, "a", 501, pipelines, CLASSES, NOW)
        assert sorted(taken) == sorted(f"run_{name}" for name in pipelines)
    finally:
        database.close()


def test_looking_for_lines_to_forget_is_linear(tmp_path):
    database = Database(tmp_path)
    try:
        connection = database.connect()
        for pipeline, tag, runs in (("mine", 5.0, 0), ("other", 1.0, 1)):
            connection.executemany(
                LINE, [(pipeline, 0, f"t{n}", "low", tag, f"run_{n}", runs) for n in range(WAITING // 10)]
            )
        connection.execute(LINE, ("mine", 0, "waits", "low", 2.0, "run_1", 1))
        assert _steps(connection, lambda at: at.execute(queue.ANY_IDLE).fetchall()) < 100 * WAITING / 10
    finally:
        database.close()


LINE = "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?)"


def _steps(connection, do):
    """The instructions that the database executes; it takes back what they change."""
    counted = itertools.count()
    connection.execute("BEGIN")
    connection.set_progress_handler(lambda: next(counted) < 0, 1)
    do(connection)
    connection.set_progress_handler(None, 1)
    connection.execute("ROLLBACK")
    return next(counted)


async def _drained(at):
    """The ids of all that is queued."""
    claims = await at.leases.claim("a", 100, PIPELINES, NOW, CLASSES)
    return [claim.record.id for claim in claims]
