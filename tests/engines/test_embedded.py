"""The obligations of an engine, on the embedded one; each member stands for a process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter

import msgspec

from offramp import App
from offramp.core.run import Demotion
from offramp.engines.leased.lease_keeper import LeaseKeeper
from offramp.errors import StoreError
from offramp.paths.submission import Submission
from offramp.ports.engine import Handoff
from offramp.testing import FakeClock
from tests.support import (
    GUARD_S,
    NOW,
    Files,
    Signal,
    a_record,
    accepted,
    assert_one_log,
    eventually,
    frames_of,
    let_leases_pass,
    member,
)


def gated(budget=0.0):
    app, begun, hold, calls = App("gated"), Signal(), Signal(), Counter()

    @app.step
    async def gate(n: int) -> int:
        calls[n] += 1
        begun.set()
        await hold.wait()
        return n

    @app.pipeline(name="research", budget=budget)
    async def research(n: int = 0) -> int:
        return await gate(n)

    return app, begun, hold, calls


async def test_starting_the_same_run_again_changes_nothing(tmp_path):
    app, _, hold, calls = gated()
    hold.set()
    async with member(app, tmp_path, "gateway") as gateway, member(app, tmp_path, "worker"):
        record = a_record(status="queued")
        for _ in range(3):
            await gateway.engine.start(record, accepted(record), None)
        frames = await frames_of(gateway, record.id)
        created = await gateway.engine.start(record, accepted(record), None)
        assert created.existing == record.id
        assert await frames_of(gateway, record.id) == frames
    assert_one_log(frames)
    assert calls == {0: 1}


async def test_a_start_is_on_disk_when_it_is_answered(tmp_path):
    app, *_ = gated()
    async with member(app, tmp_path, "gateway") as gateway:
        record = a_record(status="queued")
        await gateway.engine.start(record, accepted(record), None)
        onlooker = Files(tmp_path)
        assert (await onlooker.store.get(record.id)).status == "queued"
        await onlooker.close()


async def test_adopting_again_changes_nothing(tmp_path):
    app, begun, hold, calls = gated(budget=60)
    async with member(app, tmp_path, "gateway") as gateway:
        run = (await gateway.submit(Submission(pipeline="research"))).record.id
        await begun.wait()
        handoff = Handoff(gateway.live.get(run).lease, Demotion("budget", NOW, 1.0, 1.0), [])
        await gateway.engine.adopt(handoff)
        first = await gateway.get(run)
        await gateway.engine.adopt(handoff)
        assert await gateway.get(run) == first
        assert (first.path, first.status) == ("deep", "running")
        hold.set()
        assert_one_log(await frames_of(gateway, run))
    assert calls == {0: 1}


async def test_a_cancelled_run_starts_no_step_wherever_it_was(tmp_path):
    app, begun, _, calls = gated()
    async with member(app, tmp_path, "gateway") as gateway:
        queued = (await gateway.submit(Submission(pipeline="research"))).record.id
        await gateway.cancel(queued)
        async with member(app, tmp_path, "worker"):
            running = (await gateway.submit(Submission(pipeline="research", input=b'{"n": 1}'))).record.id
            await begun.wait()
            await gateway.cancel(running)
            for run in (queued, running):
                assert (await frames_of(gateway, run))[-1].type == "run.cancelled"
    assert calls == {1: 1}


async def test_a_wish_to_cancel_survives_the_process_that_should_have_heard_it(tmp_path, monkeypatch):
    app, begun, _, calls = gated()
    async with member(app, tmp_path, "gateway") as gateway:
        async with member(app, tmp_path, "worker", owner="deaf", drain_timeout=0) as deaf:
            monkeypatch.setattr(deaf.deep, "cancel", lambda _: True)
            run = (await gateway.submit(Submission(pipeline="research"))).record.id
            await begun.wait()
            await gateway.cancel(run)
        async with member(app, tmp_path, "worker", owner="heir"):
            frames = await frames_of(gateway, run)
    assert frames[-1].type == "run.cancelled"
    assert calls == {0: 1}


async def test_what_a_silent_process_held_goes_on_without_anybody_asking(tmp_path):
    app, begun, hold, calls = gated()
    clock = FakeClock()
    async with member(app, tmp_path, "worker", owner="silent", clock=clock, drain_timeout=0) as silent:
        run = (await silent.submit(Submission(pipeline="research"))).record.id
        await begun.wait()
        silent.engine.membership.keeper.close()
        async with member(app, tmp_path, "worker", owner="heir", clock=clock, poll=0.05) as heir:
            hold_first = calls[0]

            async def taken_over():
                clock.advance(1.0)
                return calls[0] > hold_first

            await eventually(taken_over)
            hold.set()
            frames = await frames_of(heir, run)
            record = await heir.get(run)
    assert record.status == "completed"
    assert calls == {0: 2}
    assert_one_log(frames)
    assert [frame.type for frame in frames].count("run.resumed") == 1


async def test_a_lease_is_kept_while_user_code_blocks_every_run_loop(tmp_path):
    app, begun, free, calls, clock = App("blocks"), Signal(), threading.Event(), [], FakeClock()

    @app.step
    async def blocking() -> str:
        calls.append(1)
        begun.set()
        free.wait(GUARD_S)
        return "done"

    @app.pipeline(budget=0)
    async def pipe() -> str:
        return await blocking()

    async with member(app, tmp_path, "worker", owner="busy", clock=clock, lease=10.0, spare_loops=0) as busy:
        run = (await busy.submit(Submission(pipeline="pipe"))).record.id
        await begun.wait()
        async with member(app, tmp_path, "worker", owner="greedy", clock=clock, lease=10.0, poll=0.05) as greedy:
            await let_leases_pass(clock, 10.0, busy, greedy)
            free.set()
            frames = await frames_of(greedy, run)
    assert calls == [1]
    assert "run.resumed" not in [frame.type for frame in frames]


async def test_a_service_is_ready_while_a_worker_is_warm(tmp_path):
    app, *_ = gated()
    async with member(app, tmp_path, "gateway") as gateway:
        assert await gateway.ready() == (False, "no worker is warm yet")
        async with member(app, tmp_path, "worker") as worker:
            assert await gateway.ready() == (True, "ready")
            await worker.drain()
            assert await gateway.ready() == (False, "no worker is warm yet")


async def test_a_run_of_a_pipeline_that_this_process_does_not_have_is_left_to_others(tmp_path):
    app, _, hold, calls = gated()
    hold.set()
    other = App("other")

    @other.pipeline(budget=0)
    async def different() -> str:
        return "different"

    async with member(app, tmp_path, "gateway") as gateway, member(other, tmp_path, "worker") as stranger:
        run = (await gateway.submit(Submission(pipeline="research"))).record.id
        theirs = (await stranger.submit(Submission(pipeline="different"))).record.id
        assert (await frames_of(stranger, theirs))[-1].type == "run.completed"
        assert (await gateway.get(run)).status == "queued"
        async with member(app, tmp_path, "worker"):
            assert (await frames_of(gateway, run))[-1].type == "run.completed"
    assert calls == {0: 1}


async def test_a_store_that_refuses_a_claim_for_now_does_not_stop_the_taking(tmp_path, monkeypatch, caplog):
    app, _, hold, _ = gated()
    hold.set()
    async with member(app, tmp_path, "gateway") as gateway, member(app, tmp_path, "worker", poll=0.05) as worker:
        leases, claim, refusals = worker.engine.leases, worker.engine.leases.claim, []

        async def refusing(*given):
            if len(refusals) < 3:
                refusals.append(1)
                raise (StoreError if len(refusals) < 3 else RuntimeError)("not now")
            return await claim(*given)

        monkeypatch.setattr(leases, "claim", refusing)
        with caplog.at_level(logging.ERROR, logger="offramp"):
            run = (await gateway.submit(Submission(pipeline="research"))).record.id
            assert (await frames_of(gateway, run))[-1].type == "run.completed"
    assert "not now" in caplog.text


async def test_many_runs_over_several_workers_are_each_executed_once(tmp_path):
    app, _, hold, calls = gated()
    hold.set()
    async with (
        member(app, tmp_path, "gateway") as gateway,
        member(app, tmp_path, "worker", worker_runs=3),
        member(app, tmp_path, "worker", worker_runs=5),
    ):
        runs = [
            (await gateway.submit(Submission(pipeline="research", input=msgspec.json.encode({"n": n})))).record.id
            for n in range(60)
        ]
        for frames in await asyncio.gather(*(frames_of(gateway, run) for run in runs)):
            assert_one_log(frames)
            assert frames[-1].type == "run.completed"
    assert calls == Counter(range(60))


# The lease keeper.


class Ledger:
    """Leases that fail when they are told to."""

    def __init__(self):
        self.renewed, self.refuse, self.refused = [], False, 0

    def renew(self, owner, expires_at):
        if self.refuse:
            self.refused += 1
            raise StoreError("disk full")
        self.renewed.append(expires_at)
        return True, ["run_1"]

    def expire(self, now, *, blames):
        return ["dead"]


async def test_a_lease_is_renewed_three_times_in_its_life_and_after_a_refusal():
    ledger, clock, found = Ledger(), FakeClock(start=0.0), []
    keeper = LeaseKeeper(ledger, clock, "me", 3.0, lambda **given: found.append(given))
    keeper.start()
    clock.advance(1.0)
    await eventually(lambda: len(found) == 1)
    ledger.refuse = True
    clock.advance(1.0)
    await eventually(lambda: ledger.refused)
    ledger.refuse = False
    clock.advance(1.0)
    await eventually(lambda: len(found) >= 2)
    keeper.close()
    assert ledger.renewed[0] == 4.0
    assert found[0] == {"held_until": 4.0, "cancels": ["run_1"], "expired": ["dead"]}
