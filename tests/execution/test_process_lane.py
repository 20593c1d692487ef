from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from offramp import SLA, testing
from offramp.errors import LaneDied, RunCancelled, StepTimeout
from offramp.execution import processes
from tests.execution import cpu
from tests.support import eventually, failure_of, log_of, of, reading, result_of


@pytest.fixture
async def runtime():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        yield runtime


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # which it may become at any time
        return True


def written(marker):
    return marker.read_text() if marker.exists() else ""


async def test_a_process_step_gets_typed_arguments_and_gives_a_typed_result(runtime):
    assert await result_of(await runtime.start("of_square", n=7)) == 50
    assert await result_of(await runtime.start("of_mirrored", point=cpu.Point(1, 2))) == cpu.Point(2, 1)


async def test_a_process_step_runs_in_another_process_that_stays_warm(runtime):
    pids = await result_of(await runtime.start("of_pids", n=3))
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()


async def test_its_exception_arrives_with_its_own_type_and_a_note_of_where_it_was(runtime):
    error = await failure_of(await runtime.start("of_raising", text="no"))
    assert type(error) is cpu.Odd
    assert error.args == ("no",)
    notes = "\n".join(error.__notes__)
    assert 'File "tests/execution/cpu.py", line 46, in raising' in notes
    assert "step 'raising' (attempt 1) of pipeline 'of_raising'" in notes


async def test_it_emits_and_knows_its_run(runtime):
    handle = await runtime.start("of_telling", words=["a", "b"])
    seen = await log_of(handle)
    assert [event.data["delta"] for event in of(seen, "step.delta")] == ["a", "b"]
    key = of(seen, "step.completed")[0].data["key"]
    assert await result_of(handle) == f"telling 1 of_telling {handle.id}:{key}"


async def test_a_child_that_dies_fails_its_step_and_the_next_step_finds_a_new_one(runtime):
    error = await failure_of(await runtime.start("of_dying", code=3))
    assert isinstance(error, LaneDied)
    assert "step 'dying' ended (exit code 3)" in str(error)
    assert "look for os._exit" in str(error)
    assert await result_of(await runtime.start("of_square", n=2)) == 5


async def test_a_death_is_retried_like_any_failure(runtime, tmp_path):
    assert await result_of(await runtime.start("of_dying_once", marker=str(tmp_path / "died"))) == "second life"


async def test_a_child_that_dies_idle_costs_no_step(runtime):
    [child] = await result_of(await runtime.start("of_pids", n=1))
    os.kill(child, signal.SIGKILL)
    await eventually(lambda: gone(child))
    [other] = await result_of(await runtime.start("of_pids", n=1))
    assert other != child


async def test_a_child_that_dies_idle_is_replaced_before_a_step_needs_it(runtime, monkeypatch):
    monkeypatch.setattr(processes, "IDLE_LOOK_S", 0.01)
    [child] = await result_of(await runtime.start("of_pids", n=1))
    os.kill(child, signal.SIGKILL)

    def is_replaced():
        [*lanes] = psutil.Process().children()
        return runtime.service.process.lanes.warm == 1 and child not in {lane.pid for lane in lanes}

    await eventually(is_replaced)
    assert await result_of(await runtime.start("of_square", n=2)) == 5


async def test_a_step_that_waits_for_a_child_to_start_is_a_cold_start_of_its_class(runtime, monkeypatch):
    monkeypatch.setattr(processes, "IDLE_LOOK_S", 60.0)  # its death is seen when a step needs it
    [child] = await result_of(await runtime.start("of_pids", n=1))
    before = reading(runtime.service, "offramp_cold_starts_total", **{"class": "default"})
    os.kill(child, signal.SIGKILL)
    await eventually(lambda: gone(child))
    for _ in range(2):
        assert await result_of(await runtime.start("of_square", n=2)) == 5
    assert reading(runtime.service, "offramp_cold_starts_total", **{"class": "default"}) == before + 1
    rows = {row.pipeline: row.ended.get("cold", 0) for row in (await runtime.service.statistics("5m")).rows}
    assert (rows["of_square"], rows["of_pids"]) == (1, before)


async def test_a_lane_keeps_as_many_processes_as_a_class_keeps_warm(monkeypatch):
    warm = {"default": SLA("default", min_warm=2), "other": SLA("other", min_warm=1)}
    monkeypatch.setattr(cpu.app, "classes", warm)
    async with testing.runtime(cpu.app, processes=1) as runtime:
        await eventually(lambda: runtime.service.process.lanes.warm == 2)


async def test_a_child_is_killed_at_its_timeout(runtime, tmp_path):
    [child] = await result_of(await runtime.start("of_pids", n=1))  # the only one; it may not get to write its marker
    error = await failure_of(await runtime.start("of_late", marker=str(tmp_path / "pid")))
    assert isinstance(error, StepTimeout)
    assert "'late'" in str(error)
    assert "0.3 s" in str(error)
    await eventually(lambda: gone(child))
    assert await result_of(await runtime.start("of_square", n=2)) == 5


async def test_a_child_is_killed_when_its_run_is_cancelled(runtime, tmp_path):
    marker: Path = tmp_path / "pid"
    handle = await runtime.start("of_endless", marker=str(marker))
    await eventually(lambda: written(marker))
    await handle.cancel()
    assert isinstance(await failure_of(handle), RunCancelled)
    child = int(written(marker))
    await eventually(lambda: gone(child))
    assert await result_of(await runtime.start("of_square", n=2)) == 5


async def test_a_pool_works_in_the_process_lane(runtime):
    assert await result_of(await runtime.start("of_pooled", n=3)) == [3, 2, 1]


async def test_what_a_process_step_started_is_killed_with_it(runtime, tmp_path):
    handle = await runtime.start("of_children", marker=str(tmp_path / "pids"))
    await eventually(lambda: written(tmp_path / "pids"))
    await handle.cancel()
    pids = [int(pid) for pid in written(tmp_path / "pids").split()]
    assert len(pids) == 3
    await eventually(lambda: all(gone(pid) for pid in pids))


PARENT = """
import asyncio, sys
from offramp import SLA, testing
from tests.execution import cpu

async def main():
    async with testing.runtime(cpu.app, processes=1) as runtime:
        await (await runtime.start("of_children", marker=sys.argv[1])).result()

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
async def test_a_lane_and_what_it_forked_die_with_a_process_that_is_killed(tmp_path):
    arguments = [sys.executable, "-c", PARENT, str(tmp_path / "pids")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = await asyncio.create_subprocess_exec(*arguments, env=environment)
    lane = child = program = 0
    try:
        await eventually(lambda: written(tmp_path / "pids"))
        lane, child, program = map(int, written(tmp_path / "pids").split())
        parent.kill()
        await parent.wait()
        await eventually(lambda: gone(lane) and gone(child))
    finally:
        if parent.returncode is None:
            parent.kill()
            await parent.wait()
        if program:
            os.kill(program, signal.SIGKILL)  # nothing tells a program that was executed


async def test_a_step_that_exits_its_process_fails_and_nothing_else(runtime):
    assert await failure_of(await runtime.start("of_exiting", text="bye"))
    assert await result_of(await runtime.start("of_square", n=2)) == 5
