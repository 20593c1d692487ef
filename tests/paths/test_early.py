"""A run that is expected to miss its budget leaves the fast path early, and the share of wrong ones is bounded."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from offramp import SLA, App, current_run
from offramp.execution.waiting import sleep_for
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from offramp.wiring import local
from tests import valkey
from tests.paths.taught import pasts, teach
from tests.support import Signal, eventually, frames_of, member, reach, reading, result_of

BUDGET_S = 8.0


class Sure(FakeClock):
    """A clock whose draws are all the same: 1 makes no run one of the control group, 0 every doomed one."""

    draw = 1.0

    def random(self):
        return self.draw


@pytest.fixture
def clock():
    return Sure()


def thinking(clock, **sla):
    """A pipeline whose first step takes the seconds of its input; the steps that were executed, with their paths."""
    app, executed = App("thinking", classes=[SLA("chat", budget=BUDGET_S, **sla)]), []

    @app.step
    async def think(seconds: float) -> None:
        executed.append(("think", current_run().path))
        await sleep_for(clock, seconds)

    @app.step
    async def write() -> str:
        executed.append(("write", current_run().path))
        return "written"

    @app.pipeline(sla="chat")
    async def answer(kind: str, seconds: float) -> str:
        await think(seconds)
        return await write()

    return app, executed


def started(app, place, clock):
    return local(app, {"store": "memory:"} if place is None else {"data": str(place)}, clock)


def batched(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


MIXED = [*pasts("quick", 1.0, 150), *pasts("slow", 30.0, 150)]


async def test_a_run_like_the_slow_ones_leaves_early_and_loses_nothing(place, clock):
    app, executed = thinking(clock)
    async with started(app, place, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        slow = b'{"kind": "slow", "seconds": 30.0}'
        # With a budget of its own, it is not kept off the fast path at the entry.
        handle = await runtime.submit(Submission(pipeline="answer", input=slow, budget=BUDGET_S))
        demoted = await clock.run_until(reach(handle, "run.demoted"), 0.02)
        assert demoted[-1].data["reason"] == "predicted"
        assert demoted[-1].data["elapsed_ms"] < 4000
        assert await clock.run_until(result_of(handle), 1.0) == "written"
        document = await handle.document()
        service = runtime.service
        await eventually(lambda: reading(service, "offramp_route_runs_total", **_labels("early", "missed")) == 1)
        assert reading(service, "offramp_demotions_total", reason="predicted") == 1
        waited = reading(service, "offramp_route_waited_seconds_total", pipeline="answer", **{"class": "chat"})
    assert executed == [("think", "fast"), ("write", "deep")]
    assert (document["path"], document["demotion"]["reason"]) == ("deep", "predicted")
    first, last = document["demotion"]["reasons"][0], document["demotion"]["reasons"][-1]
    assert "took longer than 8 s" in first
    assert last.startswith("the chance that it ends within its budget was ")
    assert waited == document["demotion"]["elapsed_ms"] / 1000


def _labels(decision, result):
    return {"pipeline": "answer", "class": "chat", "decision": decision, "result": result}


async def test_a_run_like_the_quick_ones_stays(clock):
    app, executed = thinking(clock)
    async with started(app, None, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        handle = await runtime.start("answer", kind="quick", seconds=1.0)
        assert await clock.run_until(result_of(handle), 0.01) == "written"
        assert (await handle.document())["demotion"] is None
    assert executed == [("think", "fast"), ("write", "fast")]


async def test_a_run_is_looked_at_again_as_time_passes(clock):
    """Runs of its kind take one second or thirty: it looks like the quick ones until it has taken longer than they."""
    app, _ = thinking(clock)
    both = [past for pair in zip(pasts("odd", 1.0, 200), pasts("odd", 30.0, 200), strict=True) for past in pair]
    async with started(app, None, clock) as runtime:
        await teach(runtime.service, "answer", "chat", both)
        handle = await runtime.start("answer", kind="odd", seconds=30.0)
        [*_, demoted] = await clock.run_until(reach(handle, "run.demoted"), 0.02)
        await clock.run_until(result_of(handle), 1.0)
        assert demoted.data["reason"] == "predicted"
        assert 1000 < demoted.data["elapsed_ms"] < 6000


async def test_the_end_of_a_step_is_a_moment_to_look(clock):
    app, ended = App("two"), Signal()

    @app.step
    async def first() -> None:
        await sleep_for(clock, 3.5)

    @app.step
    async def second() -> None:
        ended.set()
        await sleep_for(clock, 30)

    @app.pipeline
    async def both(kind: str) -> None:
        await first()
        await second()

    after = [past._replace(steps=(("first", 3.5),)) for past in pasts("x", 33.5, 30)]
    before = [past._replace(steps=(("other", 3.5),)) for past in pasts("x", 4.0, 300)]
    async with local(app, {"store": "memory:"}, clock) as runtime:
        mixed = [past for ten, one in zip(batched(before, 10), after, strict=True) for past in (*ten, one)]
        await teach(runtime.service, "both", "default", mixed)
        handle = await runtime.start("both", kind="x")
        await clock.run_until(ended.wait(), 0.01)
        [*_, demoted] = await reach(handle, "run.demoted")  # the clock stands still: no fixed moment comes
        await clock.run_until(result_of(handle), 1.0)
        assert demoted.data["reason"] == "predicted"
        assert demoted.data["elapsed_ms"] >= 3500


async def test_a_verdict_on_a_run_that_leaves_for_another_reason_is_taken_back(clock, monkeypatch):
    app, _ = thinking(clock)
    async with started(app, None, clock) as runtime:
        service, taken_back = runtime.service, Signal()
        await teach(service, "answer", "chat", MIXED)
        withdraw, demote = service.live.verdicts.withdraw, service.demoter.demote

        def withdrawn(*verdict):
            withdraw(*verdict)
            taken_back.set()

        async def overtaken(run, reason, *why):
            await demote(run, "overload" if reason == "predicted" else reason, *([] if reason == "predicted" else why))

        monkeypatch.setattr(service.live.verdicts, "withdraw", withdrawn)
        monkeypatch.setattr(service.demoter, "demote", overtaken)
        slow = b'{"kind": "slow", "seconds": 30.0}'
        handle = await runtime.submit(Submission(pipeline="answer", input=slow, budget=BUDGET_S))
        assert await clock.run_until(result_of(handle), 0.5) == "written"
        assert (await handle.document())["demotion"]["reason"] == "overload"
        await taken_back.wait()


async def test_a_class_that_allows_none_demotes_none_by_belief(clock):
    app, _ = thinking(clock, early_demotion=0)
    async with started(app, None, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        handle = await runtime.start("answer", kind="slow", seconds=30.0)
        [*_, demoted] = await clock.run_until(reach(handle, "run.demoted"), 0.1)
        await clock.run_until(result_of(handle), 1.0)
        assert demoted.data["reason"] == "budget"


async def test_a_pipeline_that_makes_its_budget_is_not_looked_at(clock, monkeypatch):
    app, _ = thinking(clock)
    async with started(app, None, clock) as runtime:
        looks = []
        monkeypatch.setattr(runtime.service.live.verdicts, "verdict", lambda *_, **__: looks.append(1) or "stay")
        await teach(runtime.service, "answer", "chat", pasts("quick", 1.0, 50))
        handle = await runtime.start("answer", kind="quick", seconds=6.0)
        assert await clock.run_until(result_of(handle), 0.5) == "written"
        assert not looks
        await teach(runtime.service, "answer", "chat", pasts("slow", 30.0, 1))
        handle = await runtime.start("answer", kind="quick", seconds=6.0)
        assert await clock.run_until(result_of(handle), 0.5) == "written"
        assert looks


async def control_of(runtime):
    [row] = await runtime.service.routes()
    return row["wrong"]["controls"], row["decided"]


async def test_the_control_group_goes_on_and_is_counted(place, clock):
    app, _ = thinking(clock)
    clock.draw = 0.0
    async with started(app, place, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        missed = await runtime.start("answer", kind="slow", seconds=30.0)
        made = await runtime.start("answer", kind="slow", seconds=5.0)
        await clock.run_until(result_of(made), 0.02)
        await clock.run_until(result_of(missed), 0.5)
        assert (await missed.document())["demotion"]["reason"] == "budget"
        assert (await made.document())["demotion"] is None

        async def counted():
            clock.advance(1.0)  # an answer is given again for a second
            return (await control_of(runtime))[0] == 2

        await eventually(counted)
        decided = (await control_of(runtime))[1]
        assert (decided["fast"], decided["early"]) == ({"made": 1, "missed": 1}, {"made": 0, "missed": 0})


async def test_a_control_that_leaves_for_another_reason_tells_nothing(place, clock):
    app, _ = thinking(clock)
    clock.draw = 0.0
    async with started(app, place, clock) as runtime:
        await teach(runtime.service, "answer", "chat", MIXED)
        handle = await runtime.start("answer", kind="slow", seconds=5.0)
        service = runtime.service
        await clock.run_until(reach(handle, "step.started"), 0.05)
        while service.live.verdicts.doubt_of(handle.id) != "control":
            clock.advance(0.05)
            await asyncio.sleep(0.005)
        run = service.live.get(handle.id)
        service.process.control.spawn(service.demoter.demote(run, "drain"))
        await clock.run_until(result_of(handle), 0.1)
        record = await service.get(handle.id)
        assert (record.demotion.reason, record.demotion.by) == ("drain", "control")
        other = await runtime.start("answer", kind="quick", seconds=1.0)
        await clock.run_until(result_of(other), 0.01)

        async def counted():
            clock.advance(1.0)
            return (await control_of(runtime))[1] is not None

        await eventually(counted)
        controls, decided = await control_of(runtime)
        assert controls == 0
        assert decided["runs"] == 1


@pytest.mark.skipif(valkey.missing() is not None, reason=valkey.missing() or "")
async def test_processes_share_what_was_decided_and_a_new_one_knows_it(tmp_path, clock):
    app, _ = thinking(clock)
    server = valkey.Server(tmp_path)
    given = {"clock": clock, "store": server.url(), "poll": 60, "lease": 600}
    try:
        async with member(app, tmp_path, "gateway", owner="g2", **given) as other:
            async with member(app, tmp_path, "local", owner="g1", **given) as service:
                await teach(service, "answer", "chat", [*MIXED * 5])
                slow = Submission(pipeline="answer", input=b'{"kind": "slow", "seconds": 30.0}')
                demoted = (await service.submit(msgspec.structs.replace(slow, budget=BUDGET_S))).record.id
                deep = (await service.submit(slow)).record
                assert (deep.path, deep.route.by) == ("deep", "learned")
                for run in (demoted, deep.id):
                    await clock.run_until(frames_of(service, run), 0.2)
                await eventually(lambda: _shows(service, clock, early=1, deep=1))
            await eventually(lambda: _shows(other, clock, early=1, deep=1))
        async with member(app, tmp_path, "gateway", owner="g3", **given) as later:
            await eventually(lambda: _shows(later, clock, early=1, deep=1))
    finally:
        server.kill()


async def _shows(service, clock, **missed):
    clock.advance(1.0)
    [row] = await service.routes()
    return row["decided"] is not None and all(row["decided"][fate]["missed"] == runs for fate, runs in missed.items())
