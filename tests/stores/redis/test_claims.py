"""What a claim on Redis costs, and how it mends a queue that a process of an older version has changed."""

from __future__ import annotations

import pytest

from offramp.conformance.sample import NOW, PIPELINE, accepted, record_of
from offramp.core.sla import SLA
from offramp.stores.redis.scripts import MENDED_MAX
from tests import valkey
from tests.conformance.on_redis import REDIS

pytestmark = pytest.mark.skipif(valkey.missing() is not None, reason=str(valkey.missing()))


async def test_a_claim_on_redis_mends_a_bounded_part_of_a_queue_that_an_older_process_has_changed():
    opened = await REDIS.open()
    try:
        ids = await _queue(opened, range(MENDED_MAX + 50), lambda number: {"tenant": f"t{number % 7}"})
        tag = opened.address.tag
        with valkey.server().client() as client:

            def lines():
                return list(client.scan_iter(f"{tag}l:*", count=1000))

            def forget_lines():
                for kind in ("l", "lv", "n", "nc", "tags"):
                    for key in list(client.scan_iter(f"{tag}{kind}:*", count=1000)):
                        client.delete(key)

            forget_lines()
            [first] = await opened.leases.claim("a", 1, [PIPELINE], NOW)
            assert sum(map(client.zcard, lines())) == MENDED_MAX - 1
            rest = [claim for _ in range(4) for claim in await opened.leases.claim("a", 100, [PIPELINE], NOW)]
            assert sorted(claim.record.id for claim in [first, *rest]) == ids
            # Runs that it takes stay in their lines until it is their turn; until then no claim looks for more.
            taken = await _queue(opened, range(1000, 1003), lambda number: {"tenant": f"u{number}", "priority": -1})
            client.zrem(f"{tag}q:{PIPELINE}", *taken)
            for name in taken:
                client.hset(f"{tag}r:{name}", "status", "running")
            others = await _queue(opened, range(1003, 1006), lambda _: {})
            assert [each.record.id for each in await opened.leases.claim("a", 1, [PIPELINE], NOW)] == others[:1]
            assert client.hexists(f"{tag}mends", PIPELINE)
            assert [each.record.id for each in await opened.leases.claim("a", 9, [PIPELINE], NOW)] == others[1:]
            assert await opened.leases.claim("a", 9, [PIPELINE], NOW) == []
            assert not lines()
            assert not client.hexists(f"{tag}mends", PIPELINE)
    finally:
        await opened.close()


async def test_a_claim_on_redis_among_many_pipelines_and_classes_costs_less_than_to_queue_them():
    opened = await REDIS.open()
    many = {f"c{number}": SLA(f"c{number}", patience=0) for number in range(5)}
    pipelines = [f"p{number}" for number in range(5)]
    try:
        with valkey.server().client() as client:

            def spent_us():
                return client.info("commandstats")["cmdstat_evalsha"]["usec"]

            before = spent_us()
            await _queue(
                opened,
                range(800),
                lambda number: {
                    "pipeline": pipelines[number % 5],
                    "sla": f"c{number // 5 % 5}",
                    "tenant": f"t{number // 25}",
                },
            )
            queued, claims = spent_us() - before, []
            for _ in range(4):
                before = spent_us()
                assert len(await opened.leases.claim("a", 50, pipelines, NOW + 10_000, many)) == 50
                claims.append(spent_us() - before)
        assert min(claims) < queued / 3, "it does not look at all lines for each run that it takes"
    finally:
        await opened.close()


async def _queue(at, numbers, fields):
    """Queue a run for each number; their ids."""
    records = [record_of(number, status="queued", **fields(number)) for number in numbers]
    created = [at.store.create(record, accepted(record), owner=None, durable=False)[0] for record in records]
    for each in created:
        await each
    return [record.id for record in records]
