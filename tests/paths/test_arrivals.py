"""A drain takes along what was on its way in when it began."""

import asyncio
from dataclasses import dataclass

from offramp import App
from offramp.paths.submission import Submission
from tests.support import Signal, eventually, member


def two_steps():
    app, executed = App("two"), []

    @app.step
    async def step(n: int) -> None:
        executed.append(n)
        await asyncio.sleep(0.1)

    @app.pipeline
    async def pipe() -> None:
        await step(0)
        await step(1)

    return app, executed


async def test_a_request_that_was_let_in_before_the_drain_is_demoted_by_it(tmp_path):
    app, executed = two_steps()
    judged, go_on = Signal(), Signal()

    @dataclass
    class Question:
        text: str

        def __post_init__(self):
            judged.set()
            go_on.block()

    @app.pipeline
    async def ask(question: Question) -> None:
        await app.pipelines["pipe"].fn()

    async with member(app, tmp_path, "gateway") as gateway:
        submission = Submission(pipeline="ask", input=b'{"question": {"text": "why"}}')
        submitting = asyncio.ensure_future(gateway.submit(submission))
        await judged.wait()
        draining = asyncio.ensure_future(gateway.drain())
        await asyncio.wait([draining], timeout=0.2)
        assert not draining.done()
        go_on.set()
        run = (await submitting).record.id
        await draining
        record = await gateway.get(run)
        assert record.demotion is not None
        assert (record.demotion.reason, record.status, record.path) == ("drain", "queued", "deep")
        assert executed in ([], [0])  # as the drain may come before the first step, and at its end at the latest


async def test_a_run_that_was_just_claimed_is_handed_over_at_a_boundary(tmp_path):
    app, executed = two_steps()
    async with (
        member(app, tmp_path, "gateway") as gateway,
        member(app, tmp_path, "worker", poll=0.05) as worker,
    ):
        claimed, go_on, claim = Signal(), Signal(), worker.engine.leases.claim

        async def slow_claim(*arguments):
            claims = await claim(*arguments)
            if claims:
                claimed.set()
                await go_on.wait()
            return claims

        worker.engine.leases.claim = slow_claim
        accepted = await gateway.submit(Submission(pipeline="pipe", respond_async=True))
        await claimed.wait()
        draining = asyncio.ensure_future(worker.drain())
        await eventually(lambda: not worker.engine.seat.takes)
        await asyncio.wait([draining], timeout=0.2)
        assert not draining.done()
        go_on.set()
        await draining
        record = await gateway.get(accepted.record.id)
        assert record.status == "queued"
        assert len(await worker.process.store.journal(record.id)) == len(executed) < 2
