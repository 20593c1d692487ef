"""The share of wrong demotions: what the router reports is what happened, and is within what the class allows.

Thousands of runs are decided and learned from by the real parts of a process; what is left out is their execution.
"""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import msgspec
import pytest

from offramp import SLA
from offramp.core.belief import Progress
from offramp.core.features import features
from offramp.core.run import Demotion, Outcome, Route
from offramp.paths.early import EarlyDemotion
from offramp.paths.learning import Learning
from offramp.paths.verdicts import Verdicts
from offramp.stores.memory.store import MemoryStore
from offramp.telemetry.metrics import Metrics
from offramp.testing import FakeClock
from tests.support import a_record

BUDGET_S = 8.0
CHANCE = {"quick": 0.9, "mixed": 0.5, "slow": 0.12}
COMPLETED = Outcome("completed", b"null")


class Run:
    """A run that takes its time, on whichever path."""

    def __init__(self, clock, kind, takes_s):
        self.clock = clock
        self.began = clock.monotonic()
        self.takes_s = takes_s
        self.state, self.waited_s = "running", 0.0
        encoded = msgspec.json.encode({"kind": kind})
        self.record = a_record(pipeline="answer", sla="chat", input=encoded, budget_s=BUDGET_S, created_at=clock.time())

    def moved(self):
        return Progress(min(self.takes_s, self.clock.monotonic() - self.began))


class Router:
    """The parts of a process that decide, on one loop and one thread."""

    def __init__(self, allowed, seed):
        self.clock = FakeClock(seed=seed)
        control = SimpleNamespace(call=lambda function, *args: function(*args) or True)
        self.process = SimpleNamespace(
            clock=self.clock,
            control=control,
            classes={"chat": SLA("chat", budget=BUDGET_S, early_demotion=allowed)},
            pipelines={
                "answer": SimpleNamespace(
                    name="answer", sla="chat", budget=None, signature=SimpleNamespace(declared=frozenset())
                )
            },
            metrics=Metrics(),
            store=MemoryStore(),
            settings=SimpleNamespace(max_budget=60.0),
        )
        self.learning = Learning(self.process)
        self.verdicts = Verdicts(self.process, self.learning)
        self.early = EarlyDemotion(self.process, self.learning, self.verdicts, self.demote)
        self.wrong = self.good = self.off = 0

    def accept(self, kind, takes_s):
        run = Run(self.clock, kind, takes_s)
        self.good += takes_s <= BUDGET_S
        seen = features({"kind": kind})
        verdict = "stay"
        if self.learning.doubts("answer", "chat", BUDGET_S):
            estimate = self.learning.estimate("answer", "chat", seen, BUDGET_S)
            verdict = self.verdicts.verdict(run.record.id, "answer", "chat", estimate)
        if verdict == "demote":
            run.record.route, run.record.path = Route("deep", [], by="learned"), "deep"
            self.left(run)
        else:
            self.early.begin(run)
            self.clock.call_at(run.began + BUDGET_S, lambda: self.budget_ends(run))
        self.clock.call_at(run.began + run.takes_s, lambda: self.end(run))

    def demote(self, run, _estimate, reasons):
        assert reasons
        self.leave(run, "predicted", "belief")
        self.left(run)

    def left(self, run):
        self.off += 1
        self.wrong += run.takes_s <= BUDGET_S

    def budget_ends(self, run):
        if run.state == "running" and run.record.path == "fast":
            self.leave(run, "budget", self.verdicts.doubt_of(run.record.id))

    def leave(self, run, reason, by):
        elapsed_ms = (self.clock.monotonic() - run.began) * 1000
        run.record.demotion = Demotion(reason, self.clock.time(), elapsed_ms, BUDGET_S * 1000, by=by)
        run.record.path = "deep"

    def end(self, run):
        run.state = "ended"
        self.early.forget(run.record.id)
        progress = run.moved()
        if not self.learning.ended(run.record, COMPLETED, progress):
            self.verdicts.ended(run.record, COMPLETED, progress)

    async def work(self, count, rate, seed):
        draws = random.Random(seed)
        sharing = asyncio.get_running_loop().create_task(self.learning.work())
        for _ in range(count):
            self.clock.advance(draws.expovariate(rate))
            await asyncio.sleep(0)
            kind = draws.choice(list(CHANCE))
            makes_it = draws.random() < CHANCE[kind]
            self.accept(kind, draws.uniform(4.0, 7.9) if makes_it else draws.uniform(8.1, 16.0))
        for _ in range(40):
            self.clock.advance(0.5)
            await asyncio.sleep(0)
        sharing.cancel()

    def row(self):
        [row] = self.verdicts.report()
        return row


@pytest.mark.parametrize(("allowed", "seed"), [(0.05, 1), (0.05, 2), (0.15, 3)])
async def test_the_reported_share_is_the_counted_one_and_is_allowed(allowed, seed):
    """Takes seconds: fewer runs would not tell a share of 5% from one of 7%."""
    router = Router(allowed, seed)
    await router.work(2_000, 8.0, seed)
    row = router.row()
    counted = router.wrong / router.good
    assert router.off > 100
    assert row["wrong"]["share"] == pytest.approx(counted, abs=0.02)
    assert counted < allowed + 0.015
    decided = row["decided"]
    assert decided["runs"] == 2_000
    assert sum(sum(decided[fate].values()) for fate in ("early", "deep")) == router.off
    assert row["short_deep"] == decided["early"]["made"] + decided["deep"]["made"] == router.wrong


@pytest.mark.parametrize("gone", [{"pipeline": "gone"}, {"sla": "gone"}])
async def test_a_run_of_what_is_no_longer_declared_is_not_counted(gone):
    router = Router(0.05, 1)
    record = Run(router.clock, "slow", 1.0).record
    record = msgspec.structs.replace(record, route=Route("deep", [], by="learned"), path="deep", **gone)
    router.verdicts.ended(record, COMPLETED, Progress(1.0))
    assert router.row()["decided"] is None


async def test_a_run_that_was_sent_deep_counts_however_little_is_known_of_its_end():
    router = Router(0.05, 1)
    record = Run(router.clock, "slow", 1.0).record
    deep = msgspec.structs.replace(record, route=Route("deep", [], by="learned"), path="deep")
    for outcome, progress in [
        (COMPLETED, Progress(1.0)),  # would have made it
        (COMPLETED, Progress(9.0)),
        (Outcome("failed"), Progress(9.0)),  # took too long before it failed
        (Outcome("failed"), Progress(1.0)),  # unknown
        (Outcome("cancelled"), None),
        (COMPLETED, None),
    ]:
        router.verdicts.ended(deep, outcome, progress)
    assert router.row()["decided"]["deep"] == {"made": 1, "missed": 2}
