"""A service whose processes share nothing but a store on Redis: each has a data folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import msgspec
import pytest

import offramp
from offramp import App
from offramp.cli.engines import data_place, load_settings
from offramp.cli.secrets import for_worker
from offramp.cli.serve import worker_command
from offramp.core.sla import SLA
from offramp.errors import InputError, StoreError
from offramp.paths import stats
from offramp.paths.submission import Submission
from offramp.ports.listing import RunFilter
from offramp.stores.redis import writer
from tests.paths import victim
from tests.paths.test_recovery import executed, in_step_two, process, reasons
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
            return (await worker.process.store.get(run)).demotion is not None

        await eventually(is_demoted)
        gate.set()
        frames = await frames_of(gateway, run)
        assert_one_log(frames)
        assert [frame.type for frame in frames].count("run.resumed") == 1
        assert (await worker.document(run))["result"] is not None
    assert steps == ["first", "second", "third"]
    assert not list(tmp_path.rglob("*.db")), "there is a database nobody looks into"


async def test_a_run_whose_worker_was_stopped_says_why_it_goes_on_elsewhere(server, tmp_path):
    store = server.url()
    async with member(victim.app, tmp_path, "gateway", store=store, lease=0.5, poll=0.1) as gateway:
        with process(tmp_path, "worker", "frozen", lease_s=2, store=store) as frozen:
            run = (await gateway.submit(Submission(pipeline="five"))).record.id
            await in_step_two(gateway, run)
            frozen.send_signal(signal.SIGSTOP)
            with process(tmp_path, "worker", "second", store=store):
                await eventually(lambda: len(executed(tmp_path)) == 4)
                (tmp_path / "go").touch()
                frames = await frames_of(gateway, run)
    assert_one_log(frames)
    assert reasons(frames) == ["silence"]


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


async def test_a_gateway_is_not_ready_while_redis_takes_no_writes_and_is_again_when_it_does(
    app, gate, a_server, tmp_path, monkeypatch
):
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.02)
    monkeypatch.setattr(writer, "MEMORY_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(stats, "WRITE_EVERY_S", 0.05)
    gate.set()
    server = a_server("--maxmemory", "16mb", "--maxmemory-policy", "noeviction", "--appendonly", "no")
    async with machines(app, tmp_path, server.url()) as (gateway, worker):

        async def is_ready():
            return (await gateway.ready())[0] and worker.readiness.takes_runs()[0]

        await eventually(is_ready)
        with server.client() as client:
            client.config_set("maxmemory", "1mb")
            await eventually(lambda: gateway.readiness.trouble() is not None)
            ready, reason = await gateway.ready()
            assert not ready
            assert "full" in reason
            with pytest.raises(StoreError, match="full"):
                await gateway.submit(Submission(pipeline="leaves", input=b"{}"))
            await eventually(lambda: not worker.readiness.takes_runs()[0])
            client.config_set("maxmemory", "16mb")
        await eventually(is_ready)
        run = (await gateway.submit(Submission(pipeline="leaves"))).record.id
        assert (await frames_of(gateway, run))[-1].type == "run.completed"
        assert [listed["id"] for listed in (await gateway.list(RunFilter()))[0]] == [run]


async def test_what_a_run_waits_for_is_known_on_every_machine(server, tmp_path):
    app = App("asks", classes=[SLA("deep", budget=0)])

    @app.pipeline(sla="deep")
    async def ask() -> bool:
        return await offramp.signal("go", ask="Go?", schema=bool)

    async with machines(app, tmp_path, server.url()) as (gateway, worker):
        run = (await gateway.submit(Submission(pipeline="ask"))).record.id

        async def is_parked():
            record = await gateway.process.store.get(run)
            return record.left_by == "wait" and record.waits

        await eventually(is_parked)
        for service in (gateway, worker):
            [document], _ = await service.list(RunFilter(waiting=True))
            assert [(wait["name"], bytes(wait["ask"])) for wait in document["waiting_for"]] == [("go", b'"Go?"')]
            assert await service.process.store.waiting() == {("ask", "signal"): 1}
            with pytest.raises(InputError):
                await service.signal(run, "go", b"1")
        sent = await gateway.signal(run, "go", b"true")
        assert sent == (sent.record, True)
        await frames_of(gateway, run)
        assert await worker.list(RunFilter(waiting=True)) == ([], None)
