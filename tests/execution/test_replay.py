"""What a run sees when its function is called again with its journal: by a demotion, a recovery or a check."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime

import pytest

import offramp
from offramp import App, Retry, current_run, emit, testing
from offramp.errors import Divergence
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.support import Signal, failure_of, log_of, member, of, reach, result_of, types


def demotable(app, hold):
    """A step at which a run waits while it is demoted."""

    @app.step
    async def gate() -> str:
        await hold.wait()
        return "open"

    return gate


async def demoted(runtime, clock, hold, **inputs):
    """Start `pipe`, demote it inside `gate`, let the gate open, and see the run through."""
    handle = await runtime.start("pipe", **inputs)
    await reach(handle, "step.started", "gate")
    clock.advance(7.0)
    await reach(handle, "run.demoted")
    hold.set()
    return handle


async def test_journaled_helpers_are_the_same_after_a_demotion():
    app, hold, seen, clock = App("helpers"), Signal(), [], FakeClock()
    gate = demotable(app, hold)

    @app.step
    async def last() -> str:
        return "last"

    @app.pipeline
    async def pipe() -> list[str]:
        drawn = [str(offramp.now()), str(offramp.uuid4()), str(offramp.random()), str(offramp.uuid4())]
        seen.append(drawn)
        emit("once")
        await gate()
        emit("twice")
        await last()
        return drawn

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await demoted(runtime, clock, hold)
        result = await clock.run_until(result_of(handle))
        events = await log_of(handle)
    assert len(seen) == 2
    assert seen[0] == seen[1] == result
    assert [event.data["delta"] for event in of(events, "step.delta")] == ["once", "twice"]
    assert len(set(result)) == 4


async def test_journaled_helpers_have_their_types():
    app = App("helpers")

    @app.pipeline
    async def pipe() -> bool:
        moment = offramp.now()
        return (
            isinstance(moment, datetime)
            and moment.tzinfo is UTC
            and isinstance(offramp.uuid4(), uuid.UUID)
            and 0 <= offramp.random() < 1
        )

    assert await testing.replays(app, "pipe") is True


async def test_the_time_is_that_of_the_clock_that_was_injected():
    app, clock = App("helpers"), FakeClock(start=1_234_567_890.0)

    @app.pipeline
    async def pipe() -> str:
        return str(offramp.now())

    async with testing.runtime(app, clock=clock) as runtime:
        assert await result_of(await runtime.start("pipe")) == "2009-02-13 23:31:30+00:00"


async def test_a_sleep_is_not_begun_anew_after_a_demotion():
    app, clock, ends = App("sleeps"), FakeClock(), []

    @app.pipeline
    async def pipe() -> None:
        await offramp.sleep(10.0)
        ends.append(clock.monotonic())

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("pipe")
        await clock.run_until(result_of(handle), 0.01)
        assert "run.demoted" in types(await log_of(handle))
    assert len(ends) == 1
    assert 10.0 <= ends[0] < 11.0


async def test_a_pipeline_that_repeats_passes_the_check():
    app = App("repeats")

    @app.step
    async def double(n: int) -> int:
        return 2 * n

    @app.pipeline
    async def pipe(n: int) -> list[int]:
        emit("begin")
        first = await asyncio.gather(*(double(i) for i in range(n)))
        second = [await double(1), await double(1)]
        return [*first, *second, int(offramp.random() * 1000)]

    await testing.replays(app, "pipe", n=5)


@pytest.mark.parametrize("seed", range(4))
async def test_a_race_ends_the_same_in_a_replay(seed):
    app, may = App("races"), [Signal() for _ in range(6)]
    arrivals = random.Random(seed).sample(range(6), 6)

    @app.step
    async def racer(n: int) -> int:
        await may[n].wait()
        return n

    @app.pipeline
    async def inner(n: int) -> int:
        return await racer(n)

    @app.pipeline
    async def pipe() -> list[list[int]]:
        order, tasks = [], {asyncio.create_task(inner(n)) for n in range(6)}
        for n in arrivals:
            may[n].set()
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            order.append([task.result() for task in done])
        return order

    assert await testing.replays(app, "pipe") == [[n] for n in arrivals]


async def test_the_first_of_two_steps_wins_again_after_a_demotion():
    app, hold, clock, winners = App("races"), Signal(), FakeClock(), []
    slow_may, gate = Signal(), demotable(app, hold)

    @app.step
    async def slow() -> str:
        await slow_may.wait()
        return "slow"

    @app.step
    async def quick() -> str:
        return "quick"

    @app.pipeline
    async def pipe() -> str:
        tasks = [asyncio.create_task(slow()), asyncio.create_task(quick())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winners.append(sorted(task.result() for task in done))
        slow_may.set()
        await asyncio.wait(tasks)
        await gate()
        await quick()
        return winners[-1][0]

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await demoted(runtime, clock, hold)
        assert await clock.run_until(result_of(handle)) == "quick"
    assert winners == [["quick"], ["quick"]]


async def test_a_race_between_a_step_and_a_sleep_ends_the_same_in_a_replay():
    app, slow_may = App("races"), Signal()

    @app.step
    async def slow() -> str:
        await slow_may.wait()
        return "slow"

    @app.pipeline
    async def pipe() -> list[str]:
        step, timer = asyncio.create_task(slow()), asyncio.create_task(offramp.sleep(0.01))
        done, _ = await asyncio.wait([step, timer], return_when=asyncio.FIRST_COMPLETED)
        slow_may.set()
        await step
        return ["step" if task is step else "timer" for task in done]

    assert await testing.replays(app, "pipe") == ["timer"]


@pytest.mark.parametrize("seed", range(5))
async def test_pipelines_of_any_shape_repeat(seed):
    app, rng = App("shapes"), random.Random(seed)
    shape = [[rng.randrange(4) for _ in range(rng.randrange(1, 5))] for _ in range(rng.randrange(2, 6))]

    @app.step(retry=Retry(attempts=2, base=0))
    async def work(turns: int, place: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 3 and current_run().attempt == 1:
            raise ValueError
        return turns * place

    @app.pipeline
    async def branch(turns: list[int]) -> int:
        return sum([await work(n, place) for place, n in enumerate(turns)])

    @app.pipeline
    async def pipe() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch(turns)) for turns in shape]
        return [task.result() for task in tasks]

    await testing.replays(app, "pipe")


async def test_a_journal_entry_that_is_never_asked_for_fails_the_run_as_divergence():
    app, hold, clock, executions = App("diverges"), Signal(), FakeClock(), []
    gate = demotable(app, hold)

    @app.step
    async def search(text: str) -> str:
        return text

    @app.pipeline
    async def pipe() -> str:
        executions.append(1)
        await search(f"execution {len(executions)}")
        await gate()
        return await search("last")

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await demoted(runtime, clock, hold)
        error = await clock.run_until(failure_of(handle))
        assert (await handle.document())["error"]["code"] == "divergence"
    assert isinstance(error, Divergence)
    assert "calls step 'search' (search:" in str(error)
    assert "the arguments differ" in str(error)


async def test_code_that_depends_on_the_world_fails_the_check():
    app, world = App("diverges"), iter(range(100))

    @app.step
    async def look(n: int) -> int:
        return n

    @app.pipeline
    async def pipe() -> int:
        return await look(next(world))

    with pytest.raises(AssertionError, match=r"calls step 'look' \(look:\w+:0\).*the arguments differ"):
        await testing.replays(app, "pipe")


async def test_a_step_inside_a_step_is_part_of_it():
    app = App("nested")

    @app.step
    async def inner(n: int) -> int:
        assert current_run().step == "outer"
        return n + 1

    @app.step
    async def outer(n: int) -> int:
        offramp.uuid4()
        return await inner(n) + await inner(n)

    @app.pipeline
    async def pipe() -> int:
        return await outer(1)

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("pipe")
        assert await result_of(handle) == 4
        journal = await runtime.service.process.store.journal(handle.id)
    assert [entry.name for entry in journal] == ["outer"]


async def test_the_steps_of_an_inner_pipeline_join_the_run():
    app = App("nested")

    @app.step
    async def work(n: int) -> str:
        return f"{current_run().pipeline} {n}"

    @app.pipeline
    async def inner(n: int) -> str:
        return await work(n)

    @app.pipeline
    async def outer() -> list[str]:
        return [await inner(1), await inner(n=2)]

    async with testing.runtime(app) as runtime:
        handle = await runtime.start("outer")
        assert await result_of(handle) == ["outer 1", "outer 2"]
        assert [step["name"] for step in (await handle.document())["steps"]] == ["work", "work"]
    await testing.replays(app, "outer")


async def test_a_handoff_is_not_swallowed_and_its_finally_blocks_start_no_step():
    app, hold, clock, cleanups, swallowed = App("handoff"), Signal(), FakeClock(), [], []
    gate = demotable(app, hold)

    @app.step
    async def after() -> str:
        return "after"

    @app.step
    async def clean(execution: int) -> None:
        cleanups.append(execution)

    executions = []

    @app.pipeline
    async def pipe() -> str:
        executions.append(1)
        try:
            await gate()
            return await after()
        except Exception as error:  # noqa: BLE001 - what users write
            swallowed.append(error)
            return "swallowed"
        finally:
            await clean(1)

    async with testing.runtime(app, clock=clock) as runtime:
        handle = await demoted(runtime, clock, hold)
        assert await clock.run_until(result_of(handle)) == "after"
    assert (swallowed, cleanups, len(executions)) == ([], [1], 2)


async def test_steps_called_while_a_cancellation_unwinds_do_not_start():
    app, begun, cleanups = App("cancel"), Signal(), []

    @app.step
    async def endless() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    @app.step
    async def clean() -> None:
        cleanups.append(1)

    @app.pipeline(budget=60)
    async def pipe() -> None:
        try:
            await endless()
        finally:
            await clean()

    # With an endless grace and a long budget only the pipeline itself can end the run.
    async with testing.runtime(app, cancel_grace=600) as runtime:
        handle = await runtime.start("pipe")
        await begun.wait()
        await handle.cancel()
        assert types(await log_of(handle))[-1] == "run.cancelled"
    assert cleanups == []


async def test_an_interrupted_attempt_is_not_counted(tmp_path):
    app, holds, attempts = App("interrupted"), [Signal(), Signal(), Signal()], []
    begun = [Signal(), Signal(), Signal()]

    @app.step(retry=Retry(attempts=1))
    async def long() -> str:
        turn = len(attempts)
        attempts.append(current_run().attempt)
        begun[turn].set()
        await holds[turn].wait()
        return f"execution {turn}"

    @app.pipeline(budget=0)
    async def pipe() -> str:
        return await long()

    async with member(app, tmp_path, "worker", owner="a") as first, member(app, tmp_path, "gateway") as gateway:
        accepted = await gateway.submit(Submission(pipeline="pipe"))
        await begun[0].wait()
        async with member(app, tmp_path, "worker", owner="b"):
            await gateway.retire(first.id)
            await begun[1].wait()
            await gateway.retire("b")
            async with member(app, tmp_path, "worker", owner="c"):
                await begun[2].wait()
                for hold in reversed(holds):
                    hold.set()
                frames = []
                async for part in gateway.follow(accepted.record.id):
                    frames += part
        record = await gateway.get(accepted.record.id)
    assert attempts == [1, 1, 1]
    assert record.status == "completed"
    assert record.result in {b'"execution 0"', b'"execution 1"', b'"execution 2"'}
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
