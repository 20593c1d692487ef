"""A service whose processes share nothing but a store on Redis: each has a data folder of its own."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from offramp import App
from offramp.cli.engines import data_place, load_settings
from offramp.cli.secrets import for_worker
from offramp.cli.serve import worker_command
from offramp.core.sla import SLA
from offramp.errors import StoreError
from offramp.paths.submission import Submission
from offramp.ports.listing import RunFilter
from offramp.stores.redis import writer
from tests.support import Signal, assert_one_log, eventually, frames_of, member


@pytest.fixture
def gate():
    return Signal()


@pytest.fixture
def steps():
    """What was executed, in order."""
    return []


@pytest.fixture
def app(gate, steps):
    made = App("desk", classes=[SLA("tight", budget=0.05)])

    @made.step
    async def first() -> int:
        steps.append("first")
        return 1

    @made.step
    async def second(number: int) -> int:
        steps.append("second")
        await gate.wait()
        return number + 1

    @made.step
    async def third(number: int) -> int:
        steps.append("third")
        return number + 1

    @made.pipeline(sla="tight")
    async def leaves() -> int:
        return await third(await second(await first()))

    return made


@contextlib.asynccontextmanager
async def machines(app, folder, url):
    """A gateway and a worker, on two machines as far as they can see."""
    for name in ("one", "two"):
        (folder / name).mkdir()
    async with (
        member(app, folder / "one", "gateway", store=url) as gateway,
        member(app, folder / "two", "worker", store=url) as worker,
    ):
        yield gateway, worker


async def test_a_demoted_run_goes_on_on_another_machine(app, gate, steps, server, tmp_path):
    async with machines(app, tmp_path, server.url()) as (gateway, worker):
        run = (await gateway.submit(Submission(pipeline="leaves"))).record.id

        async def is_demoted():
            return (await worker._process.store.get(run)).demotion is not None

        await eventually(is_demoted)
        gate.set()
        frames = await frames_of(gateway, run)
        assert_one_log(frames)
        assert [frame.type for frame in frames].count("run.resumed") == 1
        assert (await worker.document(run))["result"] is not None
    assert steps == ["first", "second", "third"]
    assert not list(tmp_path.rglob("*.db")), "there is a database nobody looks into"


async def test_while_redis_is_away_requests_are_refused_and_accepted_runs_wait(
    app, gate, steps, a_server, tmp_path, monkeypatch
):
    monkeypatch.setattr(writer, "PATIENCE_S", 0.1)
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.02)
    server = a_server()
    async with machines(app, tmp_path, server.url()) as (gateway, _):
        run = (await gateway.submit(Submission(pipeline="leaves"))).record.id
        await eventually(lambda: "second" in steps)
        await asyncio.to_thread(server.kill)
        with pytest.raises(StoreError) as raised:
            await gateway.submit(Submission(pipeline="leaves"))
        assert raised.value.status == 503
        gate.set()
        await asyncio.to_thread(server.start)
        frames = await frames_of(gateway, run)
        assert_one_log(frames)
        assert [frame.type for frame in frames].count("step.completed") == 3
        assert [listed["id"] for listed in (await gateway.list(RunFilter()))[0]] == [run]


def test_a_worker_is_told_of_the_store_where_nobody_else_sees_it(server, monkeypatch):
    monkeypatch.setenv("OFFRAMP_STORE", "redis://me:secret@db:7000/1?prefix=desk")
    settings = load_settings(data="data")
    assert "secret" not in " ".join(worker_command("desk:app", settings))
    assert msgspec.json.decode(for_worker(settings))["store"] == settings.store
    assert data_place(settings) == "redis://db:7000/1"
