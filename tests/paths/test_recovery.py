"""Runs of a killed process continue in another one: real processes, really killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from offramp.core import events
from offramp.core.ending import CLEANUP, STRUCK
from offramp.paths.submission import Submission
from tests.paths import victim
from tests.support import GUARD_S, assert_one_log, eventually, frames_of, member

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def process(folder, role, owner, *pipelines, lease_s=60, store=""):
    """A process of the service that can be killed; it submits these pipelines itself.

    A process given up here has died, unless its lease is shorter: a live one may be late by a second.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.paths.victim", role, owner, *pipelines],
        cwd=ROOT,
        env=os.environ
        | {"OFFRAMP_TEST_FOLDER": str(folder), "OFFRAMP_TEST_LEASE_S": str(lease_s), "OFFRAMP_TEST_STORE": store},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = child.stdout.readline().split()
        assert said[:1] == ["ready"]
        child.runs = said[1:]
        yield child
    finally:
        child.kill()
        child.wait(GUARD_S)
        child.stdout.close()


def executed(folder):
    file = Path(folder) / "executed"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


async def in_step_two(service, run, executions=3):
    """Step 2 is executing, and the two before it, which are written behind, have reached the file."""
    await eventually(lambda: len(executed(service.settings.data)) == executions)

    async def recorded():
        return len(await service.process.store.journal(run)) == 2

    await eventually(recorded)


async def kill(child):
    child.send_signal(signal.SIGKILL)
    await asyncio.to_thread(child.wait, GUARD_S)


async def test_a_killed_workers_run_is_completed_by_another_without_repeating_finished_steps(tmp_path):
    async with member(victim.app, tmp_path, "gateway", owner="gateway", lease=0.5, poll=0.1) as gateway:
        with process(tmp_path, "worker", "first") as first:
            run = (await gateway.submit(Submission(pipeline="five"))).record.id
            reader = asyncio.ensure_future(frames_of(gateway, run))
            await in_step_two(gateway, run)
            await kill(first)
        (tmp_path / "go").touch()
        with process(tmp_path, "worker", "second") as second:
            frames = await reader
            record = await gateway.get(run)
            seconds = str(second.pid)
        whole = await frames_of(gateway, run)
        document = await gateway.document(run)
    assert frames == whole
    assert_one_log(whole)
    assert (record.status, record.result) == ("completed", b"[0,1,2,3,4]")
    done = executed(tmp_path)
    assert Counter(line[1] for line in done) == Counter({"0": 1, "1": 1, "2": 2, "3": 1, "4": 1})
    assert {line[2] for line in done} == {"1"}
    assert [line[4] for line in done[3:]] == [seconds] * 3
    [key] = {line[3] for line in done if line[1] == "2"}
    assert key.startswith(run)
    names = [frame.type for frame in whole]
    assert names.count("run.resumed") == 1
    assert names.count("step.completed") == 5
    [retrying] = [events.decode(frame.data) for frame in whole if frame.type == "step.retrying"]
    assert (retrying.data["error"]["code"], retrying.data["attempt"], retrying.data["delay_ms"]) == (
        "interrupted",
        1,
        0,
    )
    resumed = next(events.decode(frame.data) for frame in whole if frame.type == "run.resumed")
    assert resumed.data == {"worker": "second", "replayed_steps": 2, "reason": "death"}
    assert [step["attempts"] for step in document["steps"]] == [1] * 5


async def test_a_run_survives_several_deaths(tmp_path):
    async with member(victim.app, tmp_path, "gateway", owner="gateway", lease=0.5, poll=0.1) as gateway:
        run = (await gateway.submit(Submission(pipeline="five"))).record.id
        for death in range(2):
            with process(tmp_path, "worker", f"w{death}") as child:
                await in_step_two(gateway, run, 3 + death)
                await kill(child)
            # The supervisor of a process reports its death at once.
            assert await gateway.retire(f"w{death}") in {0, 1}
        (tmp_path / "go").touch()
        with process(tmp_path, "worker", "last"):
            frames = await frames_of(gateway, run)
        record = await gateway.get(run)
    assert_one_log(frames)
    assert record.result == b"[0,1,2,3,4]"
    assert Counter(line[1] for line in executed(tmp_path)) == Counter({"0": 1, "1": 1, "2": 3, "3": 1, "4": 1})
    assert {line[2] for line in executed(tmp_path)} == {"1"}


def reasons(frames):
    """Why the run went on elsewhere, each time."""
    seen = [events.decode(frame.data) for frame in frames]
    return [event.data["reason"] for event in seen if event.type == "run.resumed"]


async def test_a_killed_gateways_fast_run_is_completed_by_a_worker(tmp_path):
    async with member(victim.app, tmp_path, "gateway", owner="onlooker", lease=0.5, poll=0.1) as onlooker:
        with process(tmp_path, "gateway", "doomed", "fast_five") as doomed:
            [run] = doomed.runs
            await in_step_two(onlooker, run)
            assert (await onlooker.get(run)).path == "fast"
            await kill(doomed)
        (tmp_path / "go").touch()
        with process(tmp_path, "worker", "rescue"):
            frames = await frames_of(onlooker, run)
        record = await onlooker.get(run)
    assert_one_log(frames)
    assert (record.status, record.path, record.demotion, record.result) == ("completed", "deep", None, b"[0,1,2,3,4]")
    assert Counter(line[1] for line in executed(tmp_path)) == Counter({"0": 1, "1": 1, "2": 2, "3": 1, "4": 1})


async def test_an_effect_that_may_have_happened_is_not_repeated(tmp_path):
    async with member(victim.app, tmp_path, "gateway", owner="gateway", lease=0.5, poll=0.1) as gateway:
        with process(tmp_path, "worker", "first") as first:
            run = (await gateway.submit(Submission(pipeline="paying"))).record.id
            await eventually(lambda: executed(tmp_path))
            await kill(first)
        (tmp_path / "go").touch()
        with process(tmp_path, "worker", "second"):
            frames = await frames_of(gateway, run)
        record = await gateway.get(run)
        document = await gateway.document(run)
    assert executed(tmp_path) == [["pay", "5"]]
    assert (record.status, record.error.code) == ("failed", "effect-unknown")
    assert "idempotency key" in record.error.message
    assert_one_log(frames)
    assert [(step["name"], step["status"]) for step in document["steps"]] == [("pay", "failed")]
    assert record.error.step == "pay"


async def test_a_frozen_process_that_wakes_up_cannot_write_any_more(tmp_path):
    async with member(victim.app, tmp_path, "gateway", owner="gateway", lease=0.5, poll=0.1) as gateway:
        with process(tmp_path, "worker", "frozen", lease_s=2) as frozen:
            run = (await gateway.submit(Submission(pipeline="five"))).record.id
            await in_step_two(gateway, run)
            frozen.send_signal(signal.SIGSTOP)
            with process(tmp_path, "worker", "second"):
                await eventually(lambda: len(executed(tmp_path)) == 4)  # step 2 again, at the second
                (tmp_path / "go").touch()
                frozen.send_signal(signal.SIGCONT)
                frames = await frames_of(gateway, run)

                async def known_again():
                    owners = await gateway.engine.leases.owners()
                    return "frozen" in {owner.id for owner in owners}

                await eventually(known_again)
        assert await frames_of(gateway, run) == frames
        record = await gateway.get(run)
    assert_one_log(frames)
    assert reasons(frames) == ["silence"]
    assert record.result == b"[0,1,2,3,4]"
    finished = [events.decode(frame.data).data["key"] for frame in frames if frame.type == "step.completed"]
    assert len(finished) == len(set(finished)) == 5


async def test_nothing_waits_for_the_lease_when_the_death_is_known(tmp_path):
    async with member(victim.app, tmp_path, "gateway", owner="gateway", lease=600) as gateway:
        with process(tmp_path, "worker", "first") as first:
            run = (await gateway.submit(Submission(pipeline="five"))).record.id
            await in_step_two(gateway, run)
            await kill(first)
            (tmp_path / "go").touch()
            assert await gateway.retire("first") == 1
        with process(tmp_path, "worker", "second"):
            frames = await frames_of(gateway, run)
    assert frames[-1].type == "run.completed"
    assert reasons(frames) == ["death"]


@pytest.mark.parametrize("crash", ["before adoption", "after adoption", "after the event"])
async def test_a_crash_anywhere_in_a_demotion_leaves_one_live_run_and_no_lost_entry(tmp_path, crash, monkeypatch):
    from offramp import App
    from tests.support import Signal

    app, hold, calls = App("crash"), Signal(), Counter()

    @app.step
    async def first() -> str:
        calls["first"] += 1
        return "first"

    @app.step
    async def gate() -> str:
        calls["gate"] += 1
        await hold.wait()
        return "gate"

    @app.pipeline(budget=0.1)
    async def pipe() -> list[str]:
        return [await first(), await gate()]

    reached = Signal()
    async with member(app, tmp_path, "worker", owner="worker") as worker:
        async with member(app, tmp_path, "gateway", owner="gateway", drain_timeout=0) as gateway:
            engine = gateway.engine
            adopt = engine.adopt

            async def stuck():
                reached.set()
                await asyncio.get_running_loop().create_future()

            async def adopted(handoff):
                if crash == "before adoption":
                    await stuck()
                await adopt(handoff)
                if crash == "after adoption":
                    await stuck()

            monkeypatch.setattr(engine, "adopt", adopted)
            run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
            if crash == "after the event":
                async for part in gateway.follow(run):
                    if part[-1].type == "run.demoted":
                        break
            else:
                await reached.wait()
            # The process is dead for the others from here on; nothing it still writes counts.
            await worker.retire("gateway")
            hold.set()
            frames = await frames_of(worker, run)
        record = await worker.get(run)
        journal = await worker.process.store.journal(run)
    assert_one_log(frames)
    assert msgspec.json.decode(record.result) == ["first", "gate"]
    assert [entry.name for entry in journal] == ["first", "gate"]
    assert calls["first"] == 1
    assert calls["gate"] in {1, 2}
    assert (record.demotion is None) == (crash == "before adoption")
    assert record.path == "deep"


@pytest.mark.parametrize(
    ("pipeline", "end"), [("tidies", "cancelled"), ("tidies_late", "expired"), ("tidies_fast", "cancelled")]
)
async def test_a_cleanup_whose_process_is_killed_goes_on_where_it_was(tmp_path, pipeline, end):
    role = "gateway" if pipeline == "tidies_fast" else "worker"
    async with member(victim.app, tmp_path, "gateway", owner="g", lease=0.5, poll=0.1) as gateway:
        with process(tmp_path, role, "first", pipeline, lease_s=2) as first:
            [run] = first.runs

            async def recorded(*names):
                return [entry.name for entry in await gateway.process.store.journal(run)] == list(names)

            await eventually(lambda: recorded("work", "work"))
            if end == "cancelled":
                await gateway.cancel(run)
            struck = ("work", "work", STRUCK, CLEANUP, "tidy")
            await eventually(lambda: recorded(*struck))
            await eventually(lambda: ["tidy", "1"] in executed(tmp_path))
            await kill(first)
        (tmp_path / "tidied").touch()
        with process(tmp_path, "worker", "second"):
            frames = await frames_of(gateway, run)
            record = await gateway.get(run)
    assert_one_log(frames)
    assert record.status == end
    done = [" ".join(line[:2]) for line in executed(tmp_path)]
    assert done == ["work 0", "work 1", "work 2", "struck", "tidy 0", "tidy 1", "struck", "tidy 1", "tidy 2"]
