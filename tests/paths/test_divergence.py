"""Code that changed while a run was on its way ends it without executing anything new; unchanged code never does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offramp
from offramp import App, Retry, current_run, emit
from offramp.execution import replay
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.paths.waiting import deep, parked, until
from tests.support import Signal, assert_one_log, eventually, frames_of, member


class Release:
    """One version of an app: `pipe` calls these steps in turn; what they execute is noted."""

    def __init__(self, version, *calls, hold=None, gather=False):
        self.app, self.executed, self.hold = App("desk"), [], hold
        steps = {name: self._step(name) for name in dict.fromkeys(name.partition(" ")[0] for name in calls)}

        @self.app.pipeline(version=version)
        async def pipe() -> list[str]:
            if not gather:
                return [await self._call(steps, call) for call in calls]
            done = await asyncio.gather(*(self._call(steps, call) for call in calls), return_exceptions=True)
            return [*map(str, done), await self._call(steps, calls[0]), await self._call(steps, calls[-1])]

    async def _call(self, steps, call):
        name, _, argument = call.partition(" ")
        return await steps[name](argument)

    def _step(self, name):
        @self.app.step(name=name)
        async def step(argument: str) -> str:
            self.executed.append(name)
            if name == "gate" and self.hold is not None:
                await self.hold.wait()
            return name

        return step


async def handed_over(old, new, folder, clock):
    """A run that `old` executed up to its gate and `new` goes on with: its record and its frames."""
    async with member(old.app, folder, "gateway", owner="gateway", clock=clock) as gateway:
        async with member(old.app, folder, "worker", owner="old", clock=clock, drain_timeout=0.0) as leaving:
            run = (await gateway.submit(deep("pipe"))).record.id
            await until(lambda: "gate" in old.executed, clock)
            await leaving.live.get(run).log.durable()  # what it finished is written behind
            # Gone without its outcome, as a killed process: the gate is executed again.
            await gateway.retire("old")
        # Under a clock that runs a hundred times as fast, the usual lease would be one of a tenth of a second.
        async with member(new.app, folder, "worker", owner="new", clock=clock, lease=600.0):
            frames = await clock.run_until(frames_of(gateway, run), 0.2)
        record = await gateway.get(run)
        document = await gateway.document(run)
    assert_one_log(frames)
    return record, document


@pytest.mark.parametrize(
    ("calls", "called", "expected"),
    [
        (["x", "a", "b", "gate", "c"], "x", "a"),
        (["a", "x", "b", "gate", "c"], "x", "b"),
        (["a", "gate", "c"], "gate", "b"),
        (["b", "gate", "c"], "gate", "a"),
        (["a2", "b", "gate", "c"], "a2", "a"),
        (["a", "b other", "gate", "c"], "b", "b"),
        (["a", "c", "b", "gate"], "c", "b"),
    ],
    ids=["inserted first", "inserted", "removed", "removed first", "renamed", "other argument", "moved"],
)
async def test_changed_code_fails_as_divergence_and_executes_nothing(tmp_path, clock, calls, called, expected):
    hold = Signal()
    old, new = Release("1", "a", "b", "gate", "c", hold=hold), Release("2", *calls)
    record, document = await handed_over(old, new, tmp_path, clock)
    assert old.executed == ["a", "b", "gate"]
    assert new.executed == []
    assert (record.status, record.error.code) == ("failed", "divergence")
    arguments = "differ" if called == expected else "are the same"
    made = f"the pipeline calls step {called!r} ({called}:"
    for told in (made, f"its journal has step {expected!r} ({expected}:", f"the arguments {arguments}", "'1'", "'2'"):
        assert told in record.error.message
    assert document["error"]["code"] == "divergence"


async def test_code_that_returns_without_what_is_recorded_has_diverged(tmp_path, clock):
    old, new = Release("1", "a", "b", "gate", hold=Signal()), Release("2", "a")
    record, _ = await handed_over(old, new, tmp_path, clock)
    assert (record.status, record.error.code, new.executed) == ("failed", "divergence", [])
    assert "the pipeline returned where its journal has step 'b' (b:" in record.error.message
    assert "version '1'" in record.error.message


async def test_steps_added_behind_what_is_recorded_are_no_divergence(tmp_path, clock):
    old, new = Release("1", "a", "b", "gate", hold=Signal()), Release("2", "a", "b", "gate", "x", "y")
    record, _ = await handed_over(old, new, tmp_path, clock)
    assert (record.status, record.result) == ("completed", b'["a","b","gate","x","y"]')
    assert new.executed == ["gate", "x", "y"]


async def test_a_body_that_gathers_exceptions_executes_nothing_after_a_divergence(tmp_path, clock):
    old = Release("1", "a", "b", "gate", hold=Signal(), gather=True)
    new = Release("2", "x", "y", gather=True)
    record, _ = await handed_over(old, new, tmp_path, clock)
    assert (record.status, record.error.code, new.executed) == ("failed", "divergence", [])


async def test_a_timeout_that_struck_strikes_again_in_a_replay(tmp_path, monkeypatch):
    app, hold, gates = App("timeouts"), Signal(), []
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.05)  # shorter than the timeout below

    @app.step
    async def slow() -> str:
        await Signal().wait()
        return "slow"

    @app.step
    async def fallback() -> str:
        return "fallback"

    @app.step
    async def gate() -> str:
        gates.append(1)
        if len(gates) == 1:
            await hold.wait()
        return "open"

    @app.pipeline
    async def pipe() -> list[str]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):  # a loop's time that no journal holds
                await slow()
        return [await fallback(), await gate()]

    async with member(app, tmp_path, "gateway", owner="gateway") as gateway:
        async with member(app, tmp_path, "worker", owner="old", drain_timeout=0.0):
            run = (await gateway.submit(deep("pipe"))).record.id
            await eventually(lambda: gates)
            await gateway.retire("old")
        async with member(app, tmp_path, "worker", owner="new"):
            await frames_of(gateway, run)
        record = await gateway.get(run)
    assert (record.status, record.result) == ("completed", b'["fallback","open"]')


class Interrupted(App):
    """A pipeline of a random shape, whose processes are taken from it at random points."""

    def __init__(self, shape, seed):
        super().__init__("shapes")
        self.attempts: dict[str, list[int]] = {}
        rng = random.Random(seed)

        @self.step(retry=Retry(attempts=3, base=0.2))
        async def work(place: list[int], fails: int) -> list[int]:
            run = current_run()
            await offramp.sleep(rng.choice((0.0, 0.0, 0.3)))
            if run.attempt <= fails:
                raise ValueError(place)
            self.attempts.setdefault(run.idempotency_key, []).append(run.attempt)
            return place

        @self.pipeline
        async def pipe() -> str:
            return repr(await self._play(shape, [0]))

    async def _play(self, node, place):
        kind, *rest = node
        if kind in {"turn", "gather"}:
            children = [(child, [*place, number]) for number, child in enumerate(rest[0])]
            if kind == "gather":
                return list(await asyncio.gather(*(self._play(*each) for each in children), return_exceptions=True))
            return [await self._play(*each) for each in children]
        return await getattr(self, f"_{kind}")(place, *rest)

    async def _work(self, place, fails):
        return await self.steps["work"](place, fails)

    async def _sleep(self, _place, seconds):
        await offramp.sleep(seconds)

    async def _value(self, place):
        emit(place)
        return [str(offramp.uuid4()), offramp.random(), str(offramp.now())]

    async def _signal(self, _place, timeout):
        with contextlib.suppress(TimeoutError):
            await offramp.signal("s", timeout=timeout)


SHAPES = st.recursive(
    st.one_of(
        st.tuples(st.just("work"), st.integers(0, 2)),
        st.tuples(st.just("work"), st.just(0)),
        st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.5, 7.0])),
        st.tuples(st.just("signal"), st.sampled_from([0.4, 6.0])),
        st.tuples(st.just("value")),
    ),
    lambda child: st.tuples(st.sampled_from(["turn", "gather"]), st.lists(child, min_size=1, max_size=4)),
    max_leaves=10,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=SHAPES, seed=st.integers(0, 1 << 30), interruptions=st.lists(st.integers(0, 60), max_size=4))
def test_unchanged_code_never_diverges(tmp_path_factory, shape, seed, interruptions):
    asyncio.run(_survives(tmp_path_factory.mktemp("shape"), shape, seed, interruptions))


async def _survives(folder, shape, seed, interruptions):
    app, clock, how = Interrupted(shape, seed), FakeClock(seed=seed), random.Random(seed)
    async with ticking(clock), member(app, folder, "gateway", owner="gateway", clock=clock, lease=600.0) as gateway:
        run = (await gateway.submit(Submission(pipeline="pipe", respond_async=how.random() < 0.7))).record.id
        reader = asyncio.ensure_future(frames_of(gateway, run))
        for number, ticks in enumerate([*interruptions, 10_000]):
            dies = how.random() < 0.5
            chosen = {"owner": f"worker-{number}", "clock": clock, "lease": 600.0}
            async with member(app, folder, "worker", **chosen, drain_timeout=0.0 if dies else 25.0):
                await asyncio.wait([reader], timeout=ticks * TICK_S)
                if dies and not reader.done():
                    await gateway.retire(f"worker-{number}")
        frames = await reader
        record = await gateway.get(run)
        replayed = await gateway.replay(run)
    assert_one_log(frames)
    assert record.status == "completed", record.error
    assert replayed.executed == [], replayed
    assert replayed.outcome.result == record.result
    for attempts in app.attempts.values():
        assert len(set(attempts)) == 1, attempts  # executed again where a process died, and never retried for it


TICK_S = 0.002


@contextlib.asynccontextmanager
async def ticking(clock):
    """A fake clock that runs, fifty times as fast as ours."""

    async def tick():
        while True:
            clock.advance(0.1)
            await asyncio.sleep(TICK_S)

    task = asyncio.ensure_future(tick())
    try:
        yield
    finally:
        task.cancel()


async def test_a_parked_run_that_wakes_under_other_code_has_diverged(tmp_path, clock):
    def release(first):
        app, executed = App("desk"), []

        @app.step(name=first)
        async def begin() -> str:
            executed.append(first)
            return first

        @app.pipeline(version=first)
        async def pipe() -> list[Any]:
            return [await begin(), await offramp.signal("go"), await begin()]

        return app, executed

    (old, _), (new, executed) = release("one"), release("two")
    async with member(old, tmp_path, "gateway", owner="gateway", clock=clock) as gateway:
        async with member(old, tmp_path, "worker", owner="old", clock=clock):
            run = (await gateway.submit(deep("pipe"))).record.id
            await parked(gateway, run, clock=clock)
        await gateway.signal(run, "go", b"1")
        async with member(new, tmp_path, "worker", owner="new", clock=clock):
            await clock.run_until(frames_of(gateway, run), 0.2)
        record = await gateway.get(run)
    assert (record.status, record.error.code, executed) == ("failed", "divergence", [])
    assert "'two'" in record.error.message
    assert "'one'" in record.error.message
