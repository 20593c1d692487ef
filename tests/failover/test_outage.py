"""A minute in which a provider is down, or slow, with a spare and a breaker: in virtual time, through real runs."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest

from offramp import App, Breaker, emit
from offramp.execution.waiting import sleep_for
from offramp.limits.local import LocalLimits
from offramp.paths.local import LocalRuntime
from offramp.testing import FakeClock
from tests.support import GUARD_S, member

PER_S = 10
HEALTHY_S, ILL_S, AFTER_S = 15, 60, 10
JUMP_S = 0.05


class Provider:
    """Answers after about half a second; while it is ill, with an error or ten times as late."""

    def __init__(self, clock, seed, *, ill=None):
        self.clock = clock
        self.ill = ill
        self.calls_while_ill = 0
        self._random = random.Random(seed)

    @property
    def is_ill(self):
        return self.ill is not None and HEALTHY_S <= self.clock.monotonic() < HEALTHY_S + ILL_S

    async def call(self):
        first_s = 0.2 + 0.6 * self._random.random()
        if self.is_ill:
            self.calls_while_ill += 1
            if self.ill == "down":
                await sleep_for(self.clock, 0.1)
                request = httpx.Request("POST", "http://provider")
                raise httpx.HTTPStatusError("503", request=request, response=httpx.Response(503, request=request))
            first_s *= 10
        await sleep_for(self.clock, first_s)
        emit("a word")


def declared(providers, first_token):
    app = App("desk")

    def step(name, provider):
        resource = app.resource(name, concurrency=1_000, breaker=Breaker())

        @app.step(name=name, uses=resource)
        async def call() -> str:
            async with resource.permit():
                await provider.call()
            return name

        return call

    answer = app.failover(*(step(name, each) for name, each in providers.items()), first_token=first_token)

    @app.pipeline(budget=60)
    async def pipe() -> str:
        return await answer()

    return app


async def through(service, clock):
    """Start so many runs a second, and let time pass until all have ended; returns how they ended."""
    runtime, asked, ends = LocalRuntime(service), [], HEALTHY_S + ILL_S + AFTER_S
    async with asyncio.timeout(6 * GUARD_S):
        while clock.monotonic() < ends:
            while len(asked) < clock.monotonic() * PER_S:
                asked.append(asyncio.ensure_future((await runtime.start("pipe")).result()))
            clock.advance(JUMP_S)
            await asyncio.sleep(0.001)
        while not all(each.done() for each in asked):
            clock.advance(JUMP_S)
            await asyncio.sleep(0.001)
    return [each.exception() or each.result() for each in asked]


@pytest.mark.parametrize("ill", ["down", "slow"])
async def test_a_minute_of_trouble_loses_nothing_and_costs_few_calls(tmp_path, ill):
    clock = FakeClock()
    providers = {"first": Provider(clock, 1, ill=ill), "second": Provider(clock, 2)}
    app = declared(providers, first_token=1.5)
    limits = LocalLimits([each.spec for each in app.resources.values()], app.classes, clock)
    async with member(app, tmp_path, "local", clock=clock, limits=limits, lease=600, store="memory:") as service:
        ends = await through(service, clock)
    assert set(ends) == {"first", "second"}
    assert len(ends) == PER_S * (HEALTHY_S + ILL_S + AFTER_S)
    assert ends.count("first") >= PER_S * HEALTHY_S * 0.9
    assert "second" in ends[: PER_S * (HEALTHY_S + ILL_S)]
    assert providers["first"].calls_while_ill <= 0.12 * PER_S * ILL_S
