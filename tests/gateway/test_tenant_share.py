"""A tenant's share of queue, fast path and streams: past it 429, while the next tenant is served."""

from __future__ import annotations

import asyncio

import pytest

from offramp.gateway.slots import Streams
from tests.gateway.keyed import SSE, Held, callers, gateway_of
from tests.gateway.wire import types_of
from tests.support import eventually

ASYNC = {"Prefer": "respond-async"}
QUEUE = 8
FAST = 4


def runs(pipeline):
    return f"/v1/pipelines/{pipeline}/runs"


def body(word="w"):
    return {"input": {"word": word}}


def is_busy(answer, least_s, most_s):
    """Whether it is refused with a time to retry within these seconds."""
    return (
        answer.status_code,
        answer.headers.get("content-type"),
        answer.json()["type"],
        least_s <= int(answer.headers["retry-after"]) <= most_s,
        "OFFRAMP_TENANT_SHARE" in answer.json()["detail"],
    ) == (429, "application/problem+json", "urn:offramp:error:tenant-busy", True, True)


async def asked(caller, times, pipeline="later", **headers):
    """The statuses of so many requests for a deep run, one after the other."""
    return [(await caller.post(runs(pipeline), json=body(), headers=ASYNC | headers)).status_code for _ in range(times)]


@pytest.fixture
def held():
    held = Held()
    yield held
    held.let_go.set()


class TestQueue:
    @pytest.fixture
    def gateway(self, held, tmp_path):
        """One without a worker: what is deep waits."""
        return gateway_of(held.app, tmp_path, role="gateway", queue_runs=QUEUE)

    async def test_one_tenant_leaves_room_for_the_next(self, gateway):
        async with callers(gateway, "ann", "bob", "ops") as (ann, bob, ops):
            assert await asked(ann, 5) == [202] * 4 + [429]
            assert is_busy(await ann.post(runs("later"), json=body(), headers=ASYNC), 60, 60), "nothing left the queue"
            assert await asked(bob, 3) == [202] * 2 + [429]
            assert await asked(ops, 2) == [202, 429]

    async def test_room_comes_back_with_the_end_of_a_run(self, gateway):
        async with callers(gateway, "ann") as (ann,):
            first = (await ann.post(runs("later"), json=body(), headers=ASYNC)).json()["id"]
            assert await asked(ann, 4) == [202] * 3 + [429]
            await ann.post(f"/v1/runs/{first}/cancel")
            assert types_of((await ann.get(f"/v1/runs/{first}/events")).content)[-1] == "run.cancelled"
            assert await asked(ann, 2) == [202, 429]

    async def test_requests_at_once_do_not_slip_through_together(self, gateway):
        async with callers(gateway, "ann", "bob") as (ann, bob):
            answers = await asyncio.gather(*(asked(ann, 3) for _ in range(20)))
            statuses = [status for each in answers for status in each]
            assert sorted(statuses) == [202] * 4 + [429] * 56
            assert await asked(bob, 1) == [202]

    async def test_a_request_that_is_sent_again_attaches_though_the_share_is_full(self, gateway):
        key = ASYNC | {"Idempotency-Key": "k"}
        async with callers(gateway, "ann") as (ann,):
            first = (await ann.post(runs("later"), json=body(), headers=key)).json()["id"]
            assert await asked(ann, 4) == [202] * 3 + [429]
            again = await ann.post(runs("later"), json=body(), headers=key)
            assert (again.status_code, again.json()["id"]) == (202, first)
            assert (await ann.post(runs("later"), json=body("other"), headers=key)).status_code == 422
            assert await asked(ann, 1, **{"Idempotency-Key": "l"}) == [429]

    async def test_gateways_share_one_queue(self, held, tmp_path):
        one, two = (gateway_of(held.app, tmp_path, role="gateway", queue_runs=QUEUE) for _ in range(2))
        async with callers(one, "ann") as (here,), callers(two, "ann", "bob") as (there, bob):
            assert await asked(here, 4) == [202] * 4
            assert await asked(there, 1) == [429]
            assert await asked(bob, 3) == [202] * 2 + [429]
        async with callers(one, "ann") as (ann,):
            assert await asked(ann, 1) == [429], "a restart begins with what waits"

    async def test_what_was_demoted_past_the_share_is_the_tenants_own_matter(self, held, tmp_path):
        """Demoted runs come into the queue whether they fit or not; another tenant has its room all the same."""
        gateway = gateway_of(held.app, tmp_path, role="gateway", queue_runs=QUEUE, fast_runs=100)
        async with callers(gateway, "ann", "bob") as (ann, bob):
            given = body() | {"budget": 0.2}
            demoted = await asyncio.gather(*(ann.post(runs("hold_and_say"), json=given) for _ in range(2 * QUEUE)))
            assert [answer.status_code for answer in demoted] == [202] * 2 * QUEUE
            held.let_go.set()  # they leave at their next step

            async def all_wait():
                listed = (await ann.get("/v1/runs", params={"status": "queued"})).json()["runs"]
                return len(listed) == 2 * QUEUE

            await eventually(all_wait)
            assert await asked(bob, 3) == [202] * 2 + [429]
            assert await asked(ann, 1) == [429]

    async def test_the_share_is_a_setting(self, held, tmp_path):
        gateway = gateway_of(held.app, tmp_path, role="gateway", queue_runs=QUEUE, tenant_share=1)
        async with callers(gateway, "ann", "bob") as (ann, bob):
            assert await asked(ann, QUEUE + 1) == [202] * QUEUE + [503]
            assert await asked(bob, 1) == [503]

    async def test_without_keys_one_client_may_fill_it(self, held, tmp_path):
        gateway = gateway_of(held.app, tmp_path, "", role="gateway", queue_runs=QUEUE)
        async with callers(gateway, "ops") as (anybody,):
            assert await asked(anybody, QUEUE + 1) == [202] * QUEUE + [503]


class TestFastPath:
    @pytest.fixture
    def gateway(self, held, tmp_path):
        return gateway_of(held.app, tmp_path, fast_runs=FAST)

    async def started(self, caller, **headers):
        """The stream of a run that waits on the fast path, or the answer that refuses it."""
        stream = caller.stream("POST", runs("hold"), json=body(), headers=SSE | headers)
        answer = await stream.__aenter__()
        if answer.status_code != 200:
            await answer.aread()
        return stream, answer

    async def test_one_tenant_leaves_room_for_the_next(self, held, gateway):
        async with callers(gateway, "ann", "bob") as (ann, bob):
            opened = [await self.started(ann) for _ in range(3)]
            assert [answer.status_code for _, answer in opened] == [200, 200, 429]
            assert is_busy(opened[-1][1], 15, 30), "its first run leaves with its budget of 30 s"
            assert is_busy(await ann.post(runs("echo"), json=body()), 1, 30), "as JSON, too"
            assert (await bob.post(runs("echo"), json=body())).json()["path"] == "fast"
            assert await asked(ann, 1) == [202], "the deep path is another matter"
            held.let_go.set()
            for stream, _ in opened:
                await stream.__aexit__(None, None, None)

    async def test_room_comes_back_with_the_end_of_a_run(self, gateway):
        async with callers(gateway, "ann") as (ann,):
            for _ in range(3 * FAST):
                assert (await ann.post(runs("echo"), json=body())).status_code == 200
            for word in ("a", "b", "a", "b", "a", "b"):  # what attaches, is refused or fails gives its place back
                key = {"Idempotency-Key": "k"}
                status = (await ann.post(runs("echo"), json=body(word), headers=key)).status_code
                assert status == (200 if word == "a" else 422)

    @pytest.mark.parametrize("keyed", [False, True])
    async def test_requests_at_once_do_not_slip_through_together(self, held, gateway, keyed):
        """With an Idempotency-Key a run begins when the store has it: its place is kept meanwhile."""
        async with callers(gateway, "ann", "bob") as (ann, bob):
            keys = [{"Idempotency-Key": f"k{number}"} if keyed else {} for number in range(12)]
            opened = await asyncio.gather(*(self.started(ann, **key) for key in keys))
            assert sorted(answer.status_code for _, answer in opened) == [200] * 2 + [429] * 10
            assert (await bob.post(runs("echo"), json=body())).status_code == 200
            held.let_go.set()
            for stream, _ in opened:
                await stream.__aexit__(None, None, None)

    async def test_a_request_that_is_sent_again_attaches_though_the_share_is_full(self, held, gateway):
        async with callers(gateway, "ann") as (ann,):
            opened = [await self.started(ann, **{"Idempotency-Key": f"k{number}"}) for number in range(2)]
            again = await self.started(ann, **{"Idempotency-Key": "k0"})
            assert again[1].status_code == 200
            assert (await ann.post(runs("echo"), json=body())).status_code == 429
            held.let_go.set()
            for stream, _ in [*opened, again]:
                await stream.__aexit__(None, None, None)

    async def test_without_keys_one_client_may_fill_it(self, held, tmp_path):
        async with callers(gateway_of(held.app, tmp_path, "", fast_runs=FAST), "ops") as (anybody,):
            opened = [await self.started(anybody) for _ in range(FAST)]
            assert [answer.status_code for _, answer in opened] == [200] * FAST
            held.let_go.set()
            for stream, _ in opened:
                await stream.__aexit__(None, None, None)


class TestStreams:
    async def test_one_tenant_leaves_room_for_the_next(self, held, tmp_path):
        gateway = gateway_of(held.app, tmp_path, role="gateway")
        gateway.access.streams = Streams(4)
        async with callers(gateway, "ann", "bob") as (ann, bob):
            run = {
                caller: (await caller.post(runs("later"), json=body(), headers=ASYNC)).json() for caller in (ann, bob)
            }
            streams = []
            for caller, status in ((ann, 200), (ann, 200), (ann, 429), (bob, 200), (bob, 429)):
                stream = caller.stream("GET", run[caller]["links"]["events"])
                answer = await stream.__aenter__()
                streams.append(stream)
                assert answer.status_code == status
                if status == 429:
                    await answer.aread()
                    assert is_busy(answer, 5, 5)
            await ann.post(f"/v1/runs/{run[ann]['id']}/cancel")  # which ends its streams
            for stream in streams:
                await stream.__aexit__(None, None, None)

    async def test_without_keys_one_client_may_open_all(self, held, tmp_path):
        gateway = gateway_of(held.app, tmp_path, "", role="gateway")
        gateway.access.streams = Streams(2)
        async with callers(gateway, "ops") as (anybody,):
            run = (await anybody.post(runs("later"), json=body(), headers=ASYNC)).json()
            events = run["links"]["events"]
            async with anybody.stream("GET", events) as one, anybody.stream("GET", events) as two:
                assert (one.status_code, two.status_code) == (200, 200)
                assert (await anybody.get(events)).status_code == 503
