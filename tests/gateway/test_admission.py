"""Under pressure the lowest classes go deep first, then wait for a place in order, then get 503."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import datetime

import pytest

from offramp import SLA, App
from tests.gateway.keyed import KEYS, SSE, callers, gateway_of
from tests.support import Signal, eventually

CLASSES = [
    SLA("top", priority=20, budget=30.0),
    SLA("vip", priority=10, budget=30.0),
    SLA("normal", budget=30.0),
    SLA("small", budget=30.0, concurrency=2),
    SLA("hasty", budget=0.3),
    SLA("batch", budget=0, queue_limit=3),
    SLA("urgent", priority=10, budget=0),
]


class Gated:
    """An app whose runs wait until the test lets them go, each by its word."""

    def __init__(self):
        self.app = App("gated", classes=CLASSES)
        self.signals = {}

        @self.app.step
        async def wait(word: str) -> str:
            await self.of(word).wait()
            return word

        @self.app.pipeline(sla="normal")
        async def hold(word: str) -> str:
            return await wait(word)

    def of(self, word):
        return self.signals.setdefault(word, Signal())

    def let_go(self, *words):
        for word in words or list(self.signals):
            self.of(word).set()


@pytest.fixture
def gated():
    gated = Gated()
    yield gated
    gated.let_go()


def full_gateway(gated, folder, **settings):
    """One without a worker, and with room for one run in the queue."""
    return gateway_of(
        gated.app, folder, **({"keys": "", "role": "gateway", "queue_runs": 1, "fast_runs": 2} | settings)
    )


def asked(caller, word, sla="normal", **headers):
    return caller.post("/v1/pipelines/hold/runs", json={"input": {"word": word}, "class": sla}, headers=headers)


@contextlib.asynccontextmanager
async def streamed(caller, word, sla="normal"):
    """The stream of a run, from its first event on: the run, as that shows it."""
    body = {"input": {"word": word}, "class": sla, "follow": True}
    async with caller.stream("POST", "/v1/pipelines/hold/runs", json=body, headers=SSE) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        lines = answer.aiter_lines()
        async for line in lines:
            if line.startswith("data:"):
                yield json.loads(line[5:])
                break
        async for _ in lines:
            pass


async def waiting(caller):
    """How many requests wait for a place, by the metrics."""
    text = (await caller.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("offramp_admission_waiting{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


async def begins_to_wait(caller, count):
    async def so_many():
        return await waiting(caller) == count

    await eventually(so_many)


def is_overloaded(answer):
    assert answer.json()["type"] == "urn:offramp:error:overloaded", answer.text
    return answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1


def names_no_figure(answer):
    return answer.status_code == 503 and not any(each.isdigit() for each in answer.json()["detail"])


async def test_a_class_has_no_more_runs_on_the_fast_path_than_its_concurrency(gated, tmp_path):
    async with callers(gateway_of(gated.app, tmp_path, ""), "ops") as (ops,):
        async with streamed(ops, "a", "small") as first, streamed(ops, "b", "small"):
            assert first["path"] == "fast"
            third = await asked(ops, "c", "small")
            assert (third.status_code, third.json()["path"], third.json()["route"]["by"]) == (202, "deep", "load")
            assert "2 runs on this gateway's fast path, its concurrency" in third.json()["route"]["reasons"][-1]
            async with streamed(ops, "d", "normal") as other:
                assert other["path"] == "fast"
                gated.let_go("a", "b", "c", "d")
        gated.let_go("e")
        assert (await asked(ops, "e", "small")).json()["path"] == "fast"


async def test_the_lowest_class_goes_deep_first(gated, tmp_path):
    async with callers(gateway_of(gated.app, tmp_path, "", fast_runs=2), "ops") as (ops,):
        low = asyncio.create_task(asked(ops, "low"))
        high = asyncio.create_task(asked(ops, "high", "vip"))
        await eventually(lambda: {"low", "high"} <= gated.signals.keys())
        async with streamed(ops, "vip", "vip") as run:
            assert run["path"] == "fast"
            displaced = (await low).json()
            assert (displaced["path"], displaced["demotion"]["reason"]) == ("deep", "overload")
            assert "gave way to one of a higher class" in displaced["demotion"]["reasons"][0]
            late = (await asked(ops, "late")).json()
            assert (late["path"], late["route"]["by"]) == ("deep", "load")
            assert "its runs are of higher classes" in late["route"]["reasons"][-1]
            gated.let_go("vip", "high", "low", "late")
        assert (await high).json()["path"] == "fast"


@contextlib.asynccontextmanager
async def filled(gated, caller, places=2):
    """The fast path is full of runs of the highest class, `top0`, `top1` and so on, and so is the queue."""
    words = [f"top{number}" for number in range(places)]
    held = [asyncio.create_task(asked(caller, word, "top")) for word in words]
    await eventually(lambda: set(words) <= gated.signals.keys())
    assert (await asked(caller, "queued")).status_code == 202
    yield
    gated.let_go(*words)
    assert [answer.status_code for answer in await asyncio.gather(*held)] == [200] * places


async def test_what_finds_no_room_in_the_queue_waits_for_a_place_the_highest_class_first(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path), "ops") as (ops,), filled(gated, ops):
        normal = asyncio.create_task(asked(ops, "normal"))
        await begins_to_wait(ops, 1)

        async def vip():
            async with streamed(ops, "vip", "vip") as run:
                assert not normal.done()
                assert run["path"] == "fast"
                assert "waited" in run["route"]["reasons"][-1]
                gated.let_go("vip", "normal")

        high = asyncio.create_task(vip())
        await begins_to_wait(ops, 2)
        gated.let_go("top0")
        await high
        served = await normal
        assert (served.status_code, served.json()["path"], served.json()["route"]["by"]) == (200, "fast", "load")
        assert await waiting(ops) == 0


async def test_what_waits_goes_to_the_queue_in_its_order_once_that_has_room(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path, fast_runs=3), "ops") as (ops,), filled(gated, ops, 3):
        waits = []
        for word in ("first", "second"):
            waits.append(asyncio.create_task(asked(ops, word)))
            await begins_to_wait(ops, len(waits))
        [queued] = (await ops.get("/v1/runs?status=queued")).json()["runs"]
        assert (await ops.post(f"/v1/runs/{queued['id']}/cancel")).status_code == 202
        late = asyncio.create_task(asked(ops, "late"))
        first = await waits[0]
        assert (first.status_code, first.json()["path"], first.json()["route"]["by"]) == (202, "deep", "load")
        await begins_to_wait(ops, 2)
        assert [each.done() for each in (waits[1], late)] == [False, False], "a later request does not overtake"
        assert (await ops.post(f"/v1/runs/{first.json()['id']}/cancel")).status_code == 202
        assert (await waits[1]).status_code == 202
        gated.let_go("late")
        gated.let_go("top0", "top1", "top2")
        assert (await late).json()["path"] == "fast"


async def test_where_as_many_wait_as_may_the_lowest_class_is_sent_away(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path), "ops") as (ops,), filled(gated, ops):
        earlier = asyncio.create_task(asked(ops, "earlier"))
        await begins_to_wait(ops, 1)
        later = asyncio.create_task(asked(ops, "later"))
        await begins_to_wait(ops, 2)
        assert is_overloaded(await asked(ops, "no"))
        vip = asyncio.create_task(asked(ops, "vip", "vip"))
        sent_away = await later
        assert is_overloaded(sent_away)
        assert "higher classes" in sent_away.json()["detail"]
        gated.let_go("top0", "top1", "earlier", "vip")
        assert [(await each).status_code for each in (vip, earlier)] == [200, 200]


async def test_a_request_waits_no_longer_than_its_budget_or_its_client(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path), "ops") as (ops,), filled(gated, ops):
        assert is_overloaded(await asked(ops, "x", Prefer="respond-async"))
        hasty = await asked(ops, "x", "hasty")
        assert is_overloaded(hasty)
        assert "no place on the fast path was free within 0.3 s" in hasty.json()["detail"]
        assert is_overloaded(await asked(ops, "x", Prefer="wait=1"))
        metrics = (await ops.get("/metrics")).text
        assert 'offramp_admission_refused_total{class="hasty",reason="overloaded"} 1.0' in metrics
        assert 'offramp_admission_wait_seconds_count{class="hasty"} 1.0' in metrics


async def test_a_client_that_leaves_while_it_waits_leaves_its_place_to_the_next(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path), "ops") as (ops,):
        async with filled(gated, ops):
            leaver = asyncio.create_task(asked(ops, "leaver", "vip"))
            await begins_to_wait(ops, 1)
            stays = asyncio.create_task(asked(ops, "stays"))
            await begins_to_wait(ops, 2)
            leaver.cancel()
            await begins_to_wait(ops, 1)
            gated.let_go("top0", "stays")
            assert (await stays).json()["path"] == "fast"
        gated.let_go("again")
        again = await asyncio.gather(*(asked(ops, "again") for _ in range(2)))
        assert [answer.json()["path"] for answer in again] == ["fast", "fast"], "no place is lost"
        assert "leaver" not in gated.signals, "its run was never started"


async def test_the_wait_for_a_place_is_part_of_the_budget(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path), "ops") as (ops,), filled(gated, ops):
        began = asyncio.get_running_loop().time()
        late = asyncio.create_task(
            ops.post("/v1/pipelines/hold/runs", json={"input": {"word": "late"}, "class": "normal", "budget": 3})
        )
        await begins_to_wait(ops, 1)
        await asyncio.sleep(1.0)
        gated.let_go("top0")
        run = (await late).json()
        took_s = asyncio.get_running_loop().time() - began
        assert (run["path"], run["demotion"]["reason"]) == ("deep", "budget")
        in_all_ms = run["demotion"]["elapsed_ms"]
        assert 3000 <= in_all_ms <= took_s * 1000, "what its client waited"
        detail = (await ops.get(f"/v1/runs/{run['id']}")).json()
        accepted, left = (datetime.fromisoformat(at) for at in (detail["created_at"], detail["demotion"]["at"]))
        assert (left - accepted).total_seconds() * 1000 == pytest.approx(in_all_ms, abs=100)


async def test_no_run_gives_way_to_a_request_that_is_refused_or_attaches(gated, tmp_path):
    gateway = gateway_of(gated.app, tmp_path, "", fast_runs=2, tenant_runs=4)
    async with callers(gateway, "ops") as (ops,):
        key = {"Idempotency-Key": "k"}
        first = await asked(ops, "first", "vip", Prefer="respond-async", **key)
        held = [asyncio.create_task(asked(ops, word)) for word in ("a", "b")]
        await eventually(lambda: {"first", "a", "b"} <= gated.signals.keys())
        again = await asked(ops, "first", "vip", **key)
        assert again.json()["id"] == first.json()["id"]
        assert (await asked(ops, "fourth", "vip", Prefer="respond-async")).status_code == 202
        refused = await asked(ops, "fifth", "vip")
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:offramp:error:tenant-limit")
        gated.let_go("a", "b", "first", "fourth")
        assert [answer.json()["path"] for answer in await asyncio.gather(*held)] == ["fast", "fast"]


async def test_a_drain_answers_those_that_wait(gated, tmp_path):
    gateway = full_gateway(gated, tmp_path)
    async with callers(gateway, "ops") as (ops,):
        held = [asyncio.create_task(asked(ops, word, "top")) for word in ("top0", "top1")]
        await eventually(lambda: {"top0", "top1"} <= gated.signals.keys())
        assert (await asked(ops, "queued")).status_code == 202
        late = [asyncio.create_task(asked(ops, "late", "vip")), asyncio.create_task(asked(ops, "late", **SSE))]
        await begins_to_wait(ops, 2)
        await gateway.drain()
        for answer in await asyncio.gather(*late):
            assert is_overloaded(answer)
            assert "stopping" in answer.json()["detail"]
        assert {answer.status_code for answer in await asyncio.gather(*held)} == {202}, "these are demoted"


async def test_one_tenant_leaves_the_next_room_to_wait(gated, tmp_path):
    gateway = full_gateway(gated, tmp_path, fast_runs=4, queue_runs=2, keys=KEYS)
    async with callers(gateway, "ann", "bob", "ops") as (ann, bob, ops):
        held = [asyncio.create_task(asked(ann, f"a{number}", "small")) for number in range(2)]
        await eventually(lambda: {"a0", "a1"} <= gated.signals.keys())
        for each in (ann, ops):
            assert (await asked(each, "queued", Prefer="respond-async")).status_code == 202
        waits = [asyncio.create_task(asked(bob, "b", "small")) for _ in range(2)]
        await begins_to_wait(ops, 2)
        refused = await asked(bob, "b", "small")
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:offramp:error:tenant-busy")
        gated.let_go("a0", "a1", "b")
        assert [answer.status_code for answer in await asyncio.gather(*held, *waits)] == [200] * 4


async def test_a_place_goes_to_no_tenant_that_has_its_share(gated, tmp_path):
    cat = "cat-0123456789abcdef"
    keys = f"{KEYS},gamma/cat:{cat}"
    gateway = full_gateway(gated, tmp_path, fast_runs=4, queue_runs=2, keys=keys, tenant_share=0.75)
    async with callers(gateway, "ann", "bob", "ops") as (ann, bob, ops):
        held = {name: asyncio.create_task(asked(ops, name, "top")) for name in ("o0", "o1", "o2")}
        held["c0"] = asyncio.create_task(asked(ops, "c0", "top", Authorization=f"Bearer {cat}"))
        await eventually(lambda: held.keys() <= gated.signals.keys())
        for each in (ann, ops):
            assert (await asked(each, "queued", "urgent")).status_code == 202
        waits = []
        for caller, word, sla in ((bob, "b0", "vip"), (bob, "b1", "vip"), (ann, "a0", "normal")):
            waits.append(asyncio.create_task(asked(caller, word, sla)))
            await begins_to_wait(ops, len(waits))
        gated.let_go("o0")
        await eventually(lambda: "b0" in gated.signals)
        gated.let_go("o1")
        await eventually(lambda: len(gated.signals) == 6)
        assert "a0" in gated.signals, "bob has his share of what the others leave free"
        gated.let_go()
        await eventually(lambda: "b1" in gated.signals)
        gated.let_go()
        answers = await asyncio.gather(*held.values(), *waits)
        assert [answer.status_code for answer in answers] == [200] * 7


async def test_requests_that_wait_for_places_of_their_class_keep_no_other_off_the_fast_path(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path, fast_runs=4), "ops") as (ops,):
        held = [asyncio.create_task(asked(ops, f"a{number}", "small")) for number in range(2)]
        await eventually(lambda: {"a0", "a1"} <= gated.signals.keys())
        assert (await asked(ops, "queued", "urgent")).status_code == 202
        waits = [asyncio.create_task(asked(ops, "b", "small")) for _ in range(2)]
        await begins_to_wait(ops, 2)
        refused = await asked(ops, "b", "small")
        assert is_overloaded(refused), "as many of a class wait as it has places"
        assert names_no_figure(refused)
        async with streamed(ops, "normal") as other:
            assert other["path"] == "fast"
            gated.let_go("a0", "a1", "b", "normal")
        assert [answer.status_code for answer in await asyncio.gather(*held, *waits)] == [200] * 4


async def test_a_request_that_is_sent_again_attaches_though_nothing_has_room(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path), "ops") as (ops,):
        key = {"Idempotency-Key": "k"}
        queued = asyncio.create_task(asked(ops, "queued", Prefer="respond-async", **key))
        first = (await queued).json()["id"]
        held = [asyncio.create_task(asked(ops, word, "top")) for word in ("top0", "top1")]
        await eventually(lambda: {"top0", "top1"} <= gated.signals.keys())
        assert (await asked(ops, "queued", Prefer="respond-async", **key)).json()["id"] == first
        gated.let_go("top0", "top1")
        await asyncio.gather(*held)


async def test_a_class_has_no_more_runs_in_the_queue_than_its_limit_in_all_gateways_and_after_a_restart(
    gated, tmp_path
):
    one, two, later = (full_gateway(gated, tmp_path, queue_runs=50) for _ in range(3))
    async with callers(one, "ops") as (here,), callers(two, "ops") as (there,):
        ids = [(await asked(here, "w", "batch")).json()["id"] for _ in range(3)]
        for caller in (there, here):
            refused = await asked(caller, "w", "batch")
            assert is_overloaded(refused)
            assert "class 'batch' wait for a worker as its queue_limit allows" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) == 60, "nothing has left the queue yet"
            assert (await asked(caller, "w", "urgent")).status_code == 202, "other classes have room"
        assert (await here.post(f"/v1/runs/{ids[0]}/cancel")).status_code == 202
        await here.get(f"/v1/runs/{ids[0]}/events")
        assert (await here.post(f"/v1/runs/{ids[0]}/retry")).status_code == 202
        assert is_overloaded(await here.post(f"/v1/runs/{ids[0]}/retry")), "a retry of a run waits like any other"
        row = next(row for row in (await here.get("/v1/stats?class=batch")).json()["stats"])
        assert (row["queue"]["length"], row["queue"]["limit"]) == (3, 3)
    async with callers(later, "ops") as (after,):
        assert is_overloaded(await asked(after, "w", "batch"))
        answers = await asyncio.gather(*(asked(after, "w", "batch") for _ in range(5)))
        assert all(is_overloaded(answer) for answer in answers)


async def test_a_tenant_learns_nothing_of_the_runs_of_others_from_a_queue(gated, tmp_path, monkeypatch):
    gateway = full_gateway(gated, tmp_path, queue_runs=4, fast_runs=1, keys=KEYS, tenant_share=1.0)
    async with callers(gateway, "ann", "bob", "ops") as (ann, bob, ops):

        async def rates():
            return {"batch": 0.25, "urgent": 0.25}

        monkeypatch.setattr(gateway.service.live.stats, "queue_rates", rates)
        for each in (ann, bob, bob):
            assert (await asked(each, "w", "batch")).status_code == 202
        shown = [(await each.get("/v1/stats?class=batch")).json()["stats"][0]["queue"] for each in (ann, ops)]
        assert [(queue["length"], queue["limit"], queue["longest_wait_s"]) for queue in shown] == [
            (1, 3, None),
            (3, 3, 180.0),
        ]
        refused = await asked(ann, "w", "batch")
        assert is_overloaded(refused)
        assert names_no_figure(refused)
        assert refused.headers["retry-after"] == "15", "3 runs / 0.25 a second, rounded up"
        assert (await asked(bob, "w", "urgent")).status_code == 202
        assert names_no_figure(await asked(ann, "w", "urgent", Prefer="respond-async"))


async def test_requests_at_once_do_not_pass_a_queue_limit_together(gated, tmp_path):
    async with callers(full_gateway(gated, tmp_path, queue_runs=50), "ops") as (ops,):
        answers = await asyncio.gather(*(asked(ops, "w", "batch") for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [503] * 17
