"""Results reach a pipeline's body one at a time, in the order of the journal: the first time and in every replay."""

from __future__ import annotations

import asyncio

import pytest

import offramp
from offramp import App, testing
from offramp.execution import replay
from offramp.paths.submission import Submission
from tests.support import Signal, eventually, frames_of, member


def at_once(app, count=2):
    """A step that ends together with `count - 1` others, and who began it."""
    begun, together = [], asyncio.Event()

    @app.step
    async def work(name: str) -> str:
        begun.append(name)
        if len(begun) == count:
            together.set()
        await together.wait()
        return name

    return work, begun


async def test_steps_that_end_at_once_are_seen_one_by_one():
    app, seen = App("races"), []
    work, begun = at_once(app, 3)

    @app.pipeline
    async def pipe() -> list[list[str]]:
        tasks, order = {asyncio.create_task(work(name)) for name in "abc"}, []
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            order.append([task.result() for task in done])
        seen.append(order)
        return order

    await testing.replays(app, "pipe")
    assert sorted(seen[0]) == [["a"], ["b"], ["c"]]
    assert seen[0] == seen[1]
    assert len(begun) == 3


@pytest.mark.parametrize("depth", [1, 3])
async def test_branches_draw_the_same_values_in_a_replay_however_deep_they_are_nested(depth):
    app = App("draws")
    work, _ = at_once(app)

    async def nested(levels: int) -> str:
        return await work("nested") if levels == 0 else (await asyncio.gather(nested(levels - 1)))[0]

    @app.pipeline
    async def deep_branch() -> list[str]:
        return [await nested(depth), str(offramp.uuid4())]

    @app.pipeline
    async def flat_branch() -> list[str]:
        return [await work("flat"), str(offramp.uuid4())]

    @app.pipeline
    async def pipe() -> list[list[str]]:
        return list(await asyncio.gather(deep_branch(), flat_branch()))

    await testing.replays(app, "pipe")


async def test_a_branch_that_hops_to_its_first_call_draws_the_same_value_in_a_replay():
    app = App("draws")

    @app.step
    async def soon() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    @app.pipeline
    async def quick() -> list[str]:
        await soon()
        await asyncio.gather(asyncio.sleep(0))
        return [str(offramp.uuid4())]

    @app.pipeline
    async def hops() -> list[str]:
        for _ in range(4):
            await asyncio.sleep(0)
        return [str(offramp.uuid4())]

    @app.pipeline
    async def pipe() -> list[list[str]]:
        return list(await asyncio.gather(quick(), hops()))

    await testing.replays(app, "pipe")


async def test_what_a_recorded_failure_cancelled_is_not_executed_again(tmp_path):
    app, executed, hold = App("siblings"), [], Signal()

    @app.step
    async def fails() -> None:
        raise ValueError("no")

    @app.step
    async def sibling() -> None:
        executed.append("sibling")
        await asyncio.get_running_loop().create_future()

    @app.step
    async def gate() -> str:
        executed.append("gate")
        if executed.count("gate") == 1:
            await hold.wait()
        return "open"

    @app.pipeline
    async def pipe() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                for step in (sibling, fails):
                    group.create_task(step())
        except* ValueError:
            pass
        return await gate()

    async with member(app, tmp_path, "gateway", owner="gateway") as gateway:
        async with member(app, tmp_path, "worker", owner="first", drain_timeout=0.0) as first:
            run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
            await eventually(lambda: "gate" in executed)
            await first.live.get(run).log.durable()
            await gateway.retire("first")
        async with member(app, tmp_path, "worker", owner="second"):
            await frames_of(gateway, run)
        assert (await gateway.get(run)).result == b'"open"'
    assert executed == ["sibling", "gate", "gate"]


async def test_a_wide_replay_is_not_taken_for_one_that_stands_still(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.0)
    app, hold, gates = App("wide"), Signal(), []

    @app.step
    async def work(number: int) -> int:
        return number

    @app.step
    async def gate() -> str:
        gates.append(1)
        if len(gates) == 1:
            await hold.wait()
        return "open"

    @app.pipeline
    async def wide() -> int:
        numbers = await asyncio.gather(*(work(number) for number in range(40)))
        return await work(sum(numbers))

    @app.pipeline
    async def pipe() -> list[int | str]:
        return list(await asyncio.gather(gate(), wide()))

    async with member(app, tmp_path, "gateway", owner="gateway") as gateway:
        async with member(app, tmp_path, "worker", owner="first", drain_timeout=0.0) as first:
            run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
            await eventually(
                lambda: first.live.get(run) and len(first.live.get(run).execution.scope.replay.journal.entries) == 41
            )
            await first.live.get(run).log.durable()
            await gateway.retire("first")
        async with member(app, tmp_path, "worker", owner="second"):
            await frames_of(gateway, run)
        record = await gateway.get(run)
    assert (record.status, record.result) == ("completed", b'["open",780]')
