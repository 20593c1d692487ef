"""Runs that end badly and are retried: what each store and engine has to do of it. A story is given a runtime."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import offramp
from offramp import SLA, App, current_run
from offramp.core.journal import TAKEN
from offramp.errors import Divergence, EffectUnknown, InputError, RunCancelled, RunConflict, RunExpired
from tests.support import Signal, failure_of, log_of, of, reach, result_of, types

BATCH = SLA("batch", budget=0)
STORIES = []


def story(function):
    STORIES.append(function)
    return function


class Desk:
    """An app whose steps note that they executed, and fail while they are told to."""

    def __init__(self):
        self.app, self.executed, self.keys = App("desk", classes=[BATCH]), [], {}
        self.failing, self.hanging = set(), set()
        self.hung = Signal()

        async def at(name):
            self.executed.append(name)
            self.keys.setdefault(name, []).append(current_run().idempotency_key)
            if name in self.hanging:
                self.hung.set()
                await asyncio.sleep(3600)
            if name in self.failing:
                raise ValueError(f"{name} failed")
            return name

        @self.app.step(timeout=60)
        async def do(name: str) -> str:
            return await at(name)

        @self.app.step(timeout=60)
        async def check(name: str) -> str:
            return await at(name)

        @self.app.step(effect="once", timeout=60)
        async def pay(name: str) -> str:
            return await at(name)

        self.do, self.check, self.pay = do, check, pay

    def count(self):
        return dict(Counter(self.executed))

    def again(self):
        """Whatever failed or hung works from here on."""
        self.executed.clear()
        self.failing, self.hanging = set(), set()


@story
async def an_approved_run_goes_on_where_it_failed(opened):
    desk = Desk()

    @desk.app.pipeline(sla="batch")
    async def publish(title: str) -> list[str]:
        draft = await desk.do(title)
        drawn = [offramp.now().isoformat(), str(offramp.uuid4()), str(offramp.random())]
        await offramp.sleep(0.001)
        approved = await offramp.signal("approve")
        return [draft, approved, *drawn, await desk.check("deploy")]

    desk.failing = {"deploy"}
    async with opened(desk.app) as runtime:
        run = await runtime.start("publish", title="draft")
        await run.signal("reserve", 7)
        await run.signal("approve", "by ada")
        assert isinstance(await failure_of(run), ValueError)
        before = await runtime.service.process.store.journal(run.id)
        desk.again()
        retry = await run.retry()
        result = await result_of(retry)
        assert desk.count() == {"deploy": 1}
        assert result[:2] == ["draft", "by ada"]
        drawn = [entry.value for entry in before if entry.kind == "value"]
        after = await runtime.service.process.store.journal(retry.id)
        assert [entry.value for entry in after if entry.kind == "value"] == drawn, "a value was drawn again"
        document, old = await retry.document(), await run.document()
        assert (document["retry_of"], document["retried_as"], document["path"]) == (run.id, [], "deep")
        assert (old["retry_of"], old["retried_as"], old["status"]) == (None, [retry.id], "failed")
        assert [(step["name"], step["status"]) for step in document["steps"]] == [
            ("do", "completed"),
            ("check", "completed"),
        ]
        log = await log_of(retry)
        assert types(log)[:2] == ["run.accepted", "run.resumed"]
        [resumed] = of(log, "run.resumed")
        assert (resumed.data["replayed_steps"], resumed.data["reason"]) == (1, "retry")
        # A signal that nothing has received yet is there for the new run, too.
        assert await runtime.service.process.store.signals(retry.id) == [("reserve", b"7"), ("approve", b'"by ada"')]


@story
async def a_failure_that_the_body_caught_may_go_another_way(opened):
    desk = Desk()

    @desk.app.pipeline(sla="batch")
    async def falls_back() -> list[str]:
        await desk.do("first")
        got = await asyncio.gather(desk.do("one"), desk.do("two"), desk.do("three"), return_exceptions=True)
        try:
            best = await desk.do("better")
        except ValueError:
            best = await desk.do("worse")
        await desk.check("last")
        return [best, *(str(each) for each in got)]

    desk.failing = {"one", "better", "last"}
    async with opened(desk.app) as runtime:
        run = await runtime.start("falls_back")
        assert isinstance(await failure_of(run), ValueError)
        assert desk.count()["worse"] == 1
        desk.again()
        desk.failing = {"last"}
        second = await run.retry()
        assert isinstance(await failure_of(second), ValueError)
        assert desk.count() == {"one": 1, "better": 1, "last": 1}, "a recorded step was executed again"
        desk.again()
        third = await second.retry()
        assert await result_of(third) == ["better", "one", "two", "three"]
        assert desk.count() == {"last": 1}
        for each, status in ((second, "failed"), (third, "completed")):
            replayed = await runtime.service.replay(each.id)
            assert (replayed.executed, replayed.outcome.status) == ([], status), "the retry does not replay"
        assert TAKEN in {entry.name for entry in await runtime.service.process.store.journal(second.id)}


@story
async def a_cancelled_run_and_one_whose_block_timed_out_go_on(opened):
    desk = Desk()

    @desk.app.pipeline(sla="batch")
    async def waits() -> list[str]:
        first = await desk.do("first")
        async with asyncio.timeout(1.5):
            second = await desk.do("second")
        return [first, second]

    desk.hanging = {"second"}
    async with opened(desk.app) as runtime:
        run = await runtime.start("waits")
        assert isinstance(await failure_of(run), TimeoutError)
        desk.executed.clear()
        desk.hung = Signal()
        second = await run.retry()
        with pytest.raises(RunConflict, match="once it has ended"):
            await second.retry()
        await desk.hung.wait()
        await second.cancel()
        assert isinstance(await failure_of(second), (RunCancelled, TimeoutError))
        assert desk.count() == {"second": 1}
        desk.again()
        third = await second.retry()
        assert await result_of(third) == ["first", "second"]
        assert desk.count() == {"second": 1}, "the timer of the body counted from the first run on"


@story
async def the_deadline_counts_anew(opened):
    desk = Desk()

    @desk.app.pipeline(sla="batch", deadline=2.0)
    async def hurries() -> list[str]:
        return [await desk.do("first"), await desk.do("second")]

    desk.hanging = {"second"}
    async with opened(desk.app) as runtime:
        run = await runtime.start("hurries")
        assert isinstance(await failure_of(run), RunExpired)
        desk.again()
        retry = await run.retry()
        assert await result_of(retry) == ["first", "second"]
        assert desk.count() == {"second": 1}
        old, new = [await runtime.service.get(each.id) for each in (run, retry)]
        assert new.deadline_at - new.created_at == pytest.approx(old.deadline_at - old.created_at)


@story
async def from_a_step_or_fresh(opened):
    desk = Desk()

    @desk.app.pipeline(sla="batch")
    async def four() -> list[str]:
        return [await desk.do("a"), await desk.check("b"), await desk.check("c"), await offramp.signal("go")]

    async with opened(desk.app) as runtime:
        run = await runtime.start("four")
        await run.signal("go", "1")
        assert await result_of(run) == ["a", "b", "c", "1"]
        desk.again()
        with pytest.raises(RunConflict, match="has completed"):
            await run.retry()
        with pytest.raises(InputError, match="did you mean 'check'"):
            await run.retry(from_="checks")
        with pytest.raises(InputError, match="either"):
            await run.retry(from_="check", fresh=True)
        by_name = await run.retry(from_="check")
        await by_name.signal("go", "2")
        assert await result_of(by_name) == ["a", "b", "c", "2"], "a later signal was kept"
        assert desk.count() == {"b": 1, "c": 1}
        desk.again()
        last = [entry.key for entry in await runtime.service.process.store.journal(run.id) if entry.name == "check"][1]
        by_key = await by_name.retry(from_=last)
        await by_key.signal("go", "3")
        assert await result_of(by_key) == ["a", "b", "c", "3"]
        assert desk.count() == {"c": 1}
        desk.again()
        fresh = await by_key.retry(fresh=True)
        await fresh.signal("go", "4")
        assert await result_of(fresh) == ["a", "b", "c", "4"]
        assert desk.count() == {"a": 1, "b": 1, "c": 1}
        assert not of(await log_of(fresh), "run.resumed")
        assert (await run.document())["retried_as"] == [by_name.id]
        assert [key.partition(":")[0] for key in desk.keys["a"]] == [run.id, fresh.id]
        assert {key.partition(":")[0] for key in desk.keys["c"]} == {run.id, fresh.id}


@story
async def an_effect_that_may_have_happened_is_not_repeated_unasked(opened):
    desk = Desk()

    @desk.app.pipeline(sla="batch")
    async def buys() -> list[str]:
        return [await desk.do("order"), await desk.pay("money")]

    desk.hanging = {"money"}
    async with opened(desk.app) as runtime:
        run = await runtime.start("buys")
        await desk.hung.wait()
        await run.cancel()
        assert isinstance(await failure_of(run), RunCancelled)
        desk.again()
        second = await run.retry()
        error = await failure_of(second)
        assert isinstance(error, EffectUnknown)
        assert desk.keys["money"][0] in str(error), "the key to look for is not that of the attempt"
        third = await second.retry()
        assert isinstance(await failure_of(third), EffectUnknown), "the protection is lost by another retry"
        assert desk.count() == {}
        fourth = await third.retry(from_="pay")
        assert await result_of(fourth) == ["order", "money"]
        assert desk.count() == {"money": 1}
        assert len(set(desk.keys["money"])) == 1, "the receiver cannot tell that it is the same effect"


@story
async def a_decider_that_fails_leaves_it_unknown(opened):
    desk = Desk()

    async def look_up(name: str) -> str:
        desk.executed.append("look up")
        if name in desk.failing:
            raise ConnectionError("the bank does not answer")
        return f"{name}, as the bank says"

    @desk.app.step(effect="once", on_unknown=look_up, timeout=60)
    async def transfer(name: str) -> str:
        desk.executed.append(name)
        desk.hung.set()
        await asyncio.sleep(3600)
        return name

    @desk.app.pipeline(sla="batch")
    async def moves() -> str:
        return await transfer("money")

    async with opened(desk.app) as runtime:
        run = await runtime.start("moves")
        await desk.hung.wait()
        await run.cancel()
        assert isinstance(await failure_of(run), RunCancelled)
        desk.failing = {"money"}
        for _ in range(2):
            run = await run.retry()
            assert isinstance(await failure_of(run), ConnectionError)
        desk.failing = set()
        run = await run.retry()
        assert await result_of(run) == "money, as the bank says"
        assert desk.count() == {"money": 1, "look up": 3}


@story
async def code_that_diverged_is_repaired(opened):
    desk, code = Desk(), {"repaired": True}

    @desk.app.pipeline(sla="batch")
    async def changes() -> list[str]:
        first = await desk.do("first" if code["repaired"] else "first!")
        return [first, await desk.do("second")]

    desk.failing = {"second"}
    async with opened(desk.app) as runtime:
        run = await runtime.start("changes")
        assert isinstance(await failure_of(run), ValueError)
        desk.again()
        code["repaired"] = False
        second = await run.retry()
        assert isinstance(await failure_of(second), Divergence)
        assert desk.count() == {}
        code["repaired"] = True
        third = await second.retry()
        assert await result_of(third) == ["first", "second"]
        assert desk.count() == {"second": 1}


@story
async def a_cleanup_cleans_up_again(opened):
    desk = Desk()

    @desk.app.pipeline(sla="batch")
    async def tidies() -> str:
        try:
            await desk.do("work")
            return await desk.do("more")
        finally:
            async with offramp.cleanup():
                await desk.check("tidy")

    desk.hanging = {"more"}
    async with opened(desk.app) as runtime:
        run = await runtime.start("tidies")
        for count in (1, 2):
            await desk.hung.wait()
            await run.cancel()
            assert isinstance(await failure_of(run), RunCancelled)
            assert desk.count() == {"work": 1, "more": count, "tidy": count}
            desk.hung = Signal()
            run = await run.retry()
        await desk.hung.wait()
        await run.cancel()
        await log_of(run)
        desk.again()
        last = await run.retry()
        assert await result_of(last) == "more"
        assert desk.count() == {"more": 1, "tidy": 1}
        assert (await reach(last, "run.resumed"))[-1].data["replayed_steps"] == 1
