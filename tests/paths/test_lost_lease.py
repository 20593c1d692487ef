"""A process that was taken for dead, and takes its run again before it noticed."""

from __future__ import annotations

from offramp import App
from offramp.paths.submission import Submission
from tests.support import Signal, assert_one_log, eventually, frames_of, member, of


async def test_a_process_that_takes_its_lost_run_again_goes_on_with_it(tmp_path):
    app, began, left, gates = App("again"), [], Signal(), [Signal(), Signal()]

    @app.step
    async def slow() -> int:
        mine = len(began)
        began.append(mine)
        try:
            await gates[mine].wait()
        finally:
            left.set()
        return mine

    @app.pipeline
    async def pipe() -> int:
        return await slow()

    async with member(app, tmp_path, "local", owner="me") as me:
        run = (await me.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        await eventually(lambda: began == [0])
        assert await me.retire("me") == 1
        await eventually(lambda: began == [0, 1])
        gates[0].set()
        await left.wait()
        await me.signal(run, "barrier")  # behind whatever the execution that lost its lease has written
        gates[1].set()
        frames = await frames_of(me, run)
        record = await me.get(run)
    assert_one_log(frames)
    assert (record.status, record.result) == ("completed", b"1")
    assert len(of(frames, "step.completed")) == 1
