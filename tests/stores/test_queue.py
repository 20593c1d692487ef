"""Every store gives its queued runs out in the same order: that of the store in memory, which asks the pure rule."""

from __future__ import annotations

import pytest

from offramp.conformance.sample import NOW, PIPELINE, accepted, record_of
from offramp.core.sla import SLA
from tests import valkey
from tests.conformance.adapters import MEMORY, SQLITE
from tests.conformance.on_redis import REDIS
from tests.stores.test_rules import Walk

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
