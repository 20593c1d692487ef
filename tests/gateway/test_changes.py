"""`GET /v1/changes` of real services: over HTTP, for tenants, in other processes."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from openai._streaming import SSEDecoder

from tests.gateway.keyed import Held, callers, gateway_of
from tests.support import GUARD_S


class Reader:
    """Reads the stream in a task; `until` waits for what it has read."""

    def __init__(self, client, query="", last_id=None):
        self._client, self._query = client, query
        self._headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self.read = []
        self._more, self.opened = asyncio.Event(), asyncio.Event()

    async def __aenter__(self):
        self._task = asyncio.create_task(self._read())
        async with asyncio.timeout(GUARD_S):
            await self.opened.wait()
        return self

    async def __aexit__(self, *_error):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _read(self):
        async with self._client.stream("GET", f"/v1/changes?{self._query}", headers=self._headers) as answer:
            assert answer.status_code == 200
            self.opened.set()
            async for event in SSEDecoder().aiter_bytes(answer.aiter_bytes()):
                self.read.append(event)
                self._more.set()

    async def until(self, fits):
        """The changes up to the first that fits."""
        async with asyncio.timeout(GUARD_S):
            while True:
                for place, event in enumerate(self.read):
                    if fits(event):
                        return self.read[: place + 1]
                self._more.clear()
                await self._more.wait()

    async def until_ended(self, run):
        """What was reported of a run up to its end."""

        def is_end(event):
            told = json.loads(event.data)
            return told.get("run_id") == run and told["status"] not in {"queued", "running"}

        told = [json.loads(event.data) for event in await self.until(is_end) if event.event == "run.changed"]
        return [(each["status"], each["path"]) for each in told if each["run_id"] == run]


def body(**more):
    return {"input": {"word": "a"}, **more}


async def started(client, pipeline, **more):
    answer = await client.post(f"/v1/pipelines/{pipeline}/runs", json=body(**more), headers={"Prefer": "respond-async"})
    return answer.json()["id"]


@pytest.mark.parametrize("query", ["pipeline=nothing", "class=nothing", "session_id=" + "x" * 201, "q=x"])
async def test_an_unknown_filter_is_refused(client, query):
    assert (await client.get(f"/v1/changes?{query}")).status_code == 422


async def test_each_path_and_the_end_of_a_run_are_reported_as_it_is_demoted(tmp_path):
    held = Held()
    async with callers(gateway_of(held.app, tmp_path), "ops") as (ops,), Reader(ops) as reader:
        answer = await ops.post("/v1/pipelines/hold/runs", json=body(budget=0.1, session_id="s"))
        document = answer.json()
        held.let_go.set()
        seen = await reader.until_ended(document["id"])
        assert list(dict.fromkeys(path for _, path in seen)) == ["fast", "deep"]
        assert seen[-1] == ("completed", "deep")
        told = json.loads(reader.read[0].data)
        assert told.keys() == {"run_id", "status", "path", "pipeline", "class", "at"}
        assert (told["pipeline"], told["class"]) == ("hold", "interactive")
        assert reader.read[0].retry == 1000


async def test_filters_and_tenants_choose_the_runs(tmp_path):
    held = Held()
    held.let_go.set()
    async with contextlib.AsyncExitStack() as stack:
        ann, bob, ops = await stack.enter_async_context(callers(gateway_of(held.app, tmp_path), "ann", "bob", "ops"))
        queries = [(ann, ""), (bob, ""), (ops, ""), (ops, "pipeline=echo"), (ops, "class=batch"), (ops, "session_id=s")]
        readers = [await stack.enter_async_context(Reader(client, query)) for client, query in queries]
        runs = {
            "echo": await started(ann, "echo"),
            "batch": await started(bob, "later"),
            "session": await started(ops, "hold", session_id="s"),
        }
        for run in runs.values():
            await readers[2].until_ended(run)
        wanted = [{"echo"}, {"batch"}, set(runs), {"echo"}, {"batch"}, {"session"}]
        for reader, names in zip(readers, wanted, strict=True):
            for name in names:
                await reader.until_ended(runs[name])
            assert {json.loads(event.data)["run_id"] for event in reader.read} == {runs[name] for name in names}


async def test_a_reader_that_comes_back_gets_what_it_missed_or_a_reset(tmp_path):
    held = Held()
    held.let_go.set()
    async with callers(gateway_of(held.app, tmp_path), "ops") as (ops,):
        async with Reader(ops) as reader:
            first = await started(ops, "echo")
            await reader.until_ended(first)
            last_id = reader.read[-1].id
        missed = await started(ops, "echo")
        async with Reader(ops, last_id=last_id) as reader:
            assert (await reader.until_ended(missed))[-1] == ("completed", "deep")
            assert all(json.loads(event.data)["run_id"] == missed for event in reader.read)
        async with Reader(ops, query=f"lastEventId={last_id}") as reader:
            await reader.until_ended(missed)
    # Another process has another log.
    async with callers(gateway_of(held.app, tmp_path), "ops") as (ops,), Reader(ops, last_id=last_id) as reader:
        (reset,) = await reader.until(lambda event: event.event == "reset")
        assert json.loads(reset.data) == {}
        later = await started(ops, "echo")
        await reader.until_ended(later)
        assert reader.read[1].id.rpartition("-")[0] == reset.id.rpartition("-")[0]


async def test_runs_that_other_processes_execute_are_reported(tmp_path):
    held = Held()
    held.let_go.set()
    gateway = gateway_of(held.app, tmp_path, role="gateway")
    worker = gateway_of(held.app, tmp_path, role="worker")
    async with callers(gateway, "ops") as (ops,), callers(worker, "ops"), Reader(ops) as reader:
        run = await started(ops, "later")
        assert (await reader.until_ended(run))[-1] == ("completed", "deep")


async def test_the_stream_ends_when_the_gateway_stops(tmp_path):
    gateway = gateway_of(Held().app, tmp_path)
    async with callers(gateway, "ops") as (ops,), Reader(ops) as reader, asyncio.timeout(GUARD_S):
        await gateway.drain()
        await reader._task
