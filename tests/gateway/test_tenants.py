from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import statistics
import threading
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from offramp.stores.sqlite import store
from offramp.stores.sqlite.database import READERS
from offramp.stores.sqlite.listing import page
from tests.gateway.keyed import KEYS, SECRETS, SSE, Held, bearer, callers, gateway_of
from tests.gateway.wire import types_of
from tests.support import GUARD_S

UNKNOWN = "run_01D78XYFJ1PRM1WPBCBT3VHMNV"
ASYNC = {"Prefer": "respond-async"}


def runs(pipeline):
    return f"/v1/pipelines/{pipeline}/runs"


def body(word="w"):
    return {"input": {"word": word}}


@pytest.fixture
def held():
    held = Held()
    yield held
    held.let_go.set()


@pytest.fixture
def gateway(held, tmp_path):
    return gateway_of(held.app, tmp_path)


async def test_nobody_reads_another_tenants_run(held, gateway):
    async with callers(gateway, "ann", "bob") as (ann, bob):
        answer = await ann.post(runs("hold"), json=body("private"), headers=ASYNC)
        assert answer.status_code == 202
        run = answer.json()["id"]
        requests = [
            ("GET", f"/v1/runs/{run}"),
            ("GET", f"/v1/runs/{run}/events"),
            ("HEAD", f"/v1/runs/{run}/events"),
            ("GET", f"/v1/runs/{run}/result"),
            ("POST", f"/v1/runs/{run}/cancel"),
        ]
        for method, path in requests:
            seen = await bob.request(method, path)
            unknown = await bob.request(method, path.replace(run, UNKNOWN))
            assert seen.status_code == unknown.status_code == 404, path
            assert seen.text.replace(run, UNKNOWN) == unknown.text
            alike = [dict(each.headers) | {"date": ""} for each in (seen, unknown)]
            assert alike[0] == alike[1]
        for each in (run, UNKNOWN):
            address = str(bob.base_url).replace("http://", "ws://") + f"/v1/runs/{each}/ws"
            with pytest.raises(InvalidStatus) as caught:
                async with connect(address, additional_headers=bearer("bob")):
                    pass
            assert caught.value.response.status_code == 404
        # It was not cancelled, and its owner sees it.
        held.let_go.set()
        assert types_of((await ann.get(f"/v1/runs/{run}/events")).content)[-1] == "run.completed"
        assert (await ann.get(f"/v1/runs/{run}/result")).json() == "private"
        assert (await bob.get(f"/v1/runs/{run}/result")).status_code == 404


async def test_lists_hold_ones_own_runs(gateway):
    async with callers(gateway, "ann", "bob", "ops") as (ann, bob, ops):
        ids = {}
        for name, caller in (("ann", ann), ("bob", bob), ("ops", ops)):
            given = body() | {"session_id": "shared"}
            ids[name] = [(await caller.post(runs("echo"), json=given)).json()["id"] for _ in range(2)]
        for name, caller in (("ann", ann), ("bob", bob), ("ops", ops)):
            for query in ({}, {"session_id": "shared"}, {"pipeline": "echo"}, {"after": "run_" + "Z" * 26}):
                listed = (await caller.get("/v1/runs", params=query)).json()
                assert {each["id"] for each in listed["runs"]} == set(ids[name]), query
        # Another's run as the place in a list tells nothing but its time, which its id holds anyway.
        page = (await bob.get("/v1/runs", params={"after": ids["ann"][0]})).json()
        assert {each["id"] for each in page["runs"]} <= set(ids["bob"])


async def test_an_idempotency_key_is_the_tenants_own(gateway):
    key = {"Idempotency-Key": "order-17"}
    async with callers(gateway, "ann", "bob") as (ann, bob):
        first = (await ann.post(runs("echo"), json=body("a"), headers=key)).json()
        again = (await ann.post(runs("echo"), json=body("a"), headers=key)).json()
        other = await bob.post(runs("echo"), json=body("b"), headers=key)
        assert again["id"] == first["id"]
        assert other.status_code == 200
        assert other.json()["result"] == "b"
        assert (await ann.post(runs("echo"), json=body("b"), headers=key)).status_code == 422


async def test_two_keys_of_one_tenant_share_its_runs(held, tmp_path):
    gateway = gateway_of(held.app, tmp_path, f"acme/ann:{SECRETS['ann']},acme/bob:{SECRETS['bob']}")
    async with callers(gateway, "ann", "bob") as (ann, bob):
        run = (await ann.post(runs("echo"), json=body())).json()["id"]
        assert (await bob.get(f"/v1/runs/{run}")).status_code == 200


async def test_runs_from_before_there_were_keys_are_the_default_tenants(held, tmp_path):
    async with callers(gateway_of(held.app, tmp_path, ""), "ann") as (anybody,):
        run = (await anybody.post(runs("echo"), json=body())).json()["id"]
    async with callers(gateway_of(held.app, tmp_path), "ann", "ops") as (ann, ops):
        assert (await ops.get(f"/v1/runs/{run}")).status_code == 200
        assert (await ann.get(f"/v1/runs/{run}")).status_code == 404


async def test_another_tenants_run_takes_no_longer_than_none(held, tmp_path):
    """A large result would take milliseconds to read; a coarse bound, but the read is a hundred times above it."""
    gateway = gateway_of(held.app, tmp_path, max_body_bytes=8 << 20)
    async with callers(gateway, "ann", "bob") as (ann, _):
        answer = await ann.post(runs("echo"), json=body("x" * (250 << 10)))
        run = answer.json()["id"]
        store = gateway.service.process.store

        taken = {run: [], UNKNOWN: []}
        for _ in range(60):
            for run_id, seconds in taken.items():  # in turn: whatever else the machine does, it does to both
                began = time.perf_counter()
                assert await store.get(run_id, "beta") is None
                seconds.append(time.perf_counter() - began)
        other, unknown = map(statistics.median, taken.values())
        assert other < unknown * 5 + 0.002


class TestOpenRuns:
    LIMIT = 3

    @pytest.fixture
    def gateway(self, held, tmp_path):
        return gateway_of(held.app, tmp_path, tenant_runs=self.LIMIT)

    async def fill(self, caller):
        ids = []
        for pipeline in ("hold", "later", "later")[: self.LIMIT]:
            answer = await caller.post(runs(pipeline), json=body(), headers=ASYNC)
            assert answer.status_code == 202
            ids.append(answer.json()["id"])
        return ids

    async def test_the_edge_and_room_again_when_one_has_ended(self, held, gateway):
        async with callers(gateway, "ann", "bob") as (ann, bob):
            first, *_ = await self.fill(ann)
            for headers in ({}, ASYNC, SSE):
                refused = await ann.post(runs("echo"), json=body(), headers=headers)
                assert refused.status_code == 429
                assert 1 <= int(refused.headers["retry-after"]) <= 30 / self.LIMIT, "by its budget, one of these ends"
                assert refused.json()["type"] == "urn:offramp:error:tenant-limit"
                assert "OFFRAMP_TENANT_RUNS" in refused.json()["detail"]
            assert (await bob.post(runs("echo"), json=body())).status_code == 200
            await ann.post(f"/v1/runs/{first}/cancel")
            assert types_of((await ann.get(f"/v1/runs/{first}/events")).content)[-1] == "run.cancelled"
            # One has ended, so there is room for one: again and again, as each ends before the next begins.
            for _ in range(5):
                assert (await ann.post(runs("echo"), json=body())).status_code == 200
            assert (await ann.post(runs("hold"), json=body(), headers=ASYNC)).status_code == 202
            assert (await ann.post(runs("echo"), json=body())).status_code == 429
            assert (await ann.get("/v1/runs")).json()["runs"][0]["status"] == "running"

    async def test_requests_at_once_do_not_slip_through_together(self, gateway):
        async with callers(gateway, "ann") as (ann,):
            asked = [ann.post(runs("hold"), json=body(), headers=ASYNC) for _ in range(30)]
            statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
        assert sorted(statuses) == [202] * self.LIMIT + [429] * (30 - self.LIMIT)

    async def test_what_was_open_before_a_restart_counts_after_it(self, held, tmp_path):
        async with callers(gateway_of(held.app, tmp_path, tenant_runs=self.LIMIT), "ann") as (ann,):
            await self.fill(ann)
        async with callers(gateway_of(held.app, tmp_path, tenant_runs=self.LIMIT), "ann", "bob") as (ann, bob):
            assert (await ann.post(runs("echo"), json=body())).status_code == 429
            assert (await bob.post(runs("echo"), json=body())).status_code == 200

    async def test_what_other_gateways_took_counts(self, held, tmp_path):
        one, two = (gateway_of(held.app, tmp_path, tenant_runs=self.LIMIT) for _ in range(2))
        async with callers(one, "ann") as (here,), callers(two, "ann") as (there,):
            await self.fill(here)
            assert (await there.post(runs("echo"), json=body())).status_code == 429

    async def test_a_request_that_is_sent_again_attaches_even_at_the_bound(self, held, gateway):
        key = ASYNC | {"Idempotency-Key": "k"}
        async with callers(gateway, "ann") as (ann,):
            first = (await ann.post(runs("hold"), json=body(), headers=key)).json()["id"]
            for _ in range(self.LIMIT - 1):
                await ann.post(runs("hold"), json=body(), headers=ASYNC)
            for _ in range(3):
                again = await ann.post(runs("hold"), json=body(), headers=key)
                assert (again.status_code, again.json()["id"]) == (202, first)
            fresh = await ann.post(runs("hold"), json=body(), headers=ASYNC | {"Idempotency-Key": "other"})
            assert fresh.status_code == 429

    async def test_what_attached_or_was_refused_takes_no_room(self, gateway):
        key = ASYNC | {"Idempotency-Key": "k"}
        async with callers(gateway, "ann") as (ann,):
            for _ in range(10):
                assert (await ann.post(runs("hold"), json=body(), headers=key)).status_code == 202
                assert (await ann.post(runs("hold"), json=body("other"), headers=key)).status_code == 422
            for _ in range(self.LIMIT - 1):
                assert (await ann.post(runs("hold"), json=body(), headers=ASYNC)).status_code == 202


async def test_the_reads_of_one_tenant_leave_threads_to_the_others(gateway, monkeypatch):
    let_go, begun = threading.Event(), threading.Semaphore(0)

    def slow(connection, wanted):
        if wanted.tenant == "acme":
            begun.release()
            assert let_go.wait(GUARD_S)
        return page(connection, wanted)

    monkeypatch.setattr(store, "page", slow)
    async with callers(gateway, "ann", "bob") as (ann, bob), asyncio.TaskGroup() as group:
        lists = [group.create_task(ann.get("/v1/runs")) for _ in range(10)]
        for _ in range(READERS // 2):
            assert await asyncio.to_thread(begun.acquire, timeout=GUARD_S)
        try:
            async with asyncio.timeout(GUARD_S):
                assert (await bob.get("/v1/runs")).json()["runs"] == []
                answer = await bob.post(runs("echo"), json=body(), headers={"Accept": "application/json"})
                assert answer.json()["result"] == "w"
            assert not begun.acquire(blocking=False), "one tenant holds more than its share"
            assert not any(task.done() for task in lists)
        finally:
            let_go.set()
    assert [task.result().status_code for task in lists] == [200] * 10


async def test_no_secret_is_kept_or_told(held, tmp_path, caplog):
    """Whatever a caller sends in these headers is in no log, no answer and no file."""
    wrong, idempotency, cookie = "wrong-wrong-0123456789", "idem-0123456789-private", "cookie-0123456789-private"
    known = [SECRETS["ann"], wrong, idempotency, cookie]
    gateway = gateway_of(held.app, tmp_path)
    caplog.set_level(logging.DEBUG)
    told = []
    async with callers(gateway, "ann") as (ann,):
        private = {"Idempotency-Key": idempotency, "Cookie": f"session={cookie}", "X-Api-Key": cookie}
        for path in (runs("echo"), runs("hold"), runs("nothing")):
            for more in ({}, {"Authorization": f"Bearer {wrong}"}, {"Authorization": f"Basic {wrong}"}):
                given = private | ASYNC | more
                for content in (json.dumps(body()), "{", json.dumps({"input": {"word": 1}})):
                    sent = given | {"Content-Type": "application/json"}
                    told.append(await ann.post(path, content=content, headers=sent))
        paths = ("/v1/runs", "/metrics", "/openapi.json", "/v1/runs/run_x", "/nowhere", f"/v1/runs/{UNKNOWN}")
        told += [await ann.get(path, headers=private) for path in paths]
        run = next(answer.json()["id"] for answer in told if answer.status_code == 202)
        held.let_go.set()
        told += [await ann.get(f"/v1/runs/{run}"), await ann.get(f"/v1/runs/{run}/events")]
        address = str(ann.base_url).replace("http://", "ws://") + f"/v1/runs/{run}/ws"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address, additional_headers={"Authorization": f"Bearer {wrong}"}):
                pass
        told.append(caught.value.response)
    answers = b"".join(
        (answer.content if hasattr(answer, "content") else answer.body or b"") + str(answer.headers).encode()
        for answer in told
    )
    # What this test's own clients log of themselves does not count.
    ours = [record for record in caplog.records if record.name.startswith(("offramp", "uvicorn", "asyncio"))]
    logged = "".join(f"{record.getMessage()} {record.exc_text or ''}" for record in ours).encode()
    with sqlite3.connect(tmp_path / "data" / "offramp.db") as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in connection.execute(f"SELECT * FROM {table}")]
        values = [value for row in rows for value in row if isinstance(value, str | bytes)]
        dumped = b"\n".join(value.encode() if isinstance(value, str) else value for value in values)
    connection.close()
    files = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file())
    assert answers
    assert b"run.completed" in dumped
    for secret in known:
        for name, place in (("answers", answers), ("logs", logged), ("database", dumped), ("files", files)):
            assert secret.encode() not in place, (name, secret)


def test_the_keys_of_these_tests_are_three():
    assert KEYS.count(",") == 2
