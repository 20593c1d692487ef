"""One simulated process of a service, put together as the wiring does it, on a loop, a store and a clock of a test."""

from __future__ import annotations

import asyncio
from pathlib import Path

from offramp.core.shares import Tenancy
from offramp.engines.embedded.engine import EmbeddedEngine
from offramp.engines.leased.membership import Links
from offramp.engines.leased.seat import Member as Membership
from offramp.execution.lanes import Lanes
from offramp.execution.lease_window import LeaseWindow
from offramp.execution.leftovers import Leftovers
from offramp.execution.loops import RunLoops
from offramp.execution.steps import LocalSteps
from offramp.execution.threads import Threads
from offramp.execution.values import Values
from offramp.paths.deep import DeepPath
from offramp.paths.deliver import Feed
from offramp.paths.demote import Demoter
from offramp.paths.live import LiveRuns
from offramp.paths.process import Process
from offramp.paths.roster import Roster
from offramp.paths.service import Service
from offramp.ports.parts import close_all
from offramp.settings import Settings
from offramp.telemetry.metrics import Metrics
from tests.leaving.stepped import Hints, OwnClock, SteppedKeeper, SteppedStore, control_loop, run_loops
from tests.leaving.watch import Violation

LEASE_S = 3.0
SETTINGS = Settings.load(
    {},
    Path("absent.toml"),
    lease=LEASE_S,
    poll=1.0,
    cancel_grace=1.0,
    drain_timeout=4.0,
    process_deaths=50,
    spare_loops=0,
)
CALLS_MAX = 50_000
"""On all loops of a process, until it has come to rest."""


class Warm:
    """What a process without hooks, clients and process lanes has to do before it takes work."""

    joins_first = False

    async def run(self):
        pass


class Member:
    """One simulated process."""

    def __init__(self, world, name, *, works):
        self.world = world
        self.name = name
        self.works = works
        self.is_dead = self.has_left = self.leaves = False
        self.reported = set()
        """Leases reported to it as lost."""
        self.clock = OwnClock(world.clock)
        self.store = SteppedStore(world.memory, self, world.watch)
        self.hints = Hints(self)
        self.control = control_loop(self.clock, self)
        self.loops = RunLoops(0, run_loops(self.clock, self))
        self.service = self._service()
        self.control.spawn(self.service.start())

    def _service(self):
        metrics, clock, store, app = Metrics(), self.clock, self.store, self.world.app
        threads = Threads(2)
        leftovers = Leftovers(threads, metrics, SETTINGS.cancel_grace, self.control.call)
        lanes = Lanes(threads, None, leftovers, SETTINGS.cancel_grace)
        feed = Feed(self.hints.follow, self.hints.unfollow)
        store.listen(feed.publish)
        process = Process(
            id=self.name,
            settings=SETTINGS,
            pipelines={name: pipeline.spec for name, pipeline in app.pipelines.items()},
            classes=app.classes,
            clock=clock,
            store=store,
            values=Values(None, SETTINGS.objects_above, SETTINGS.objects_patience, clock),
            control=self.control,
            loops=self.loops,
            lanes=lanes,
            steps=LocalSteps(lanes),
            lease_window=LeaseWindow(),
            tenancy=Tenancy(),
            feed=feed,
            metrics=metrics,
        )
        self.live = LiveRuns(
            process,
            lambda: engine.has_room(),  # noqa: PLW0108 - made below, as the next
            lambda run, until: demoter.waits(run, until),  # noqa: PLW0108
            lambda run, estimate, reasons: demoter.doomed(run, estimate, reasons),  # noqa: PLW0108
        )
        deep = DeepPath(process, self.live)

        member = Membership(id=self.name, kind="local", works=self.works, lease_s=LEASE_S, poll_s=SETTINGS.poll)
        links = Links(hints=self.hints, on_events=feed.notice, new_keeper=SteppedKeeper)
        engine = self.engine = EmbeddedEngine(member, store, store, clock, deep, links)
        self.keeper = engine.membership.keeper
        store.on_lost(lambda lease: self._lost(deep, lease))
        demoter = Demoter(process, engine, self.live)
        roster = Roster(process, store, self.live, deep.places)
        parts = (app.name, process, self.live, demoter, deep, engine, None)
        return Service(*parts, roster=roster, warming=Warm(), close=lambda: None)

    def _lost(self, deep, lease):
        self.control.call(deep.lost, lease)
        self.control.call(self.reported.add, lease)

    def __repr__(self):
        return self.name

    # What the test does.

    def ask(self, work, became=None):
        """Have the process do something, a coroutine function, and perhaps note its outcome."""

        async def asked():
            try:
                value = await work()
            except Exception as error:  # noqa: BLE001 - a refusal is an answer
                value = error
            if became is not None:
                became(value)

        self.control.spawn(asked())

    def control_step(self, count):
        return self._step(self.control.loop, count)

    def run_step(self, count):
        went = [self._step(each.loop, count) for each in self.loops.loops]
        return any(went)

    def _step(self, loop, count):
        made = 0
        while made < count and not self.is_gone and loop.step():
            made += 1
        return made > 0

    def settle(self):
        """Let everything happen that can without time, and without the others; whether something did."""
        calls = 0
        while not self.is_gone:
            went = [self.control_step(100), self.run_step(100), self.store.commit()]
            if not any(went):
                return calls > 0
            calls += 100
            if calls > CALLS_MAX:
                raise Violation(f"{self.name} does not come to rest")
        return False

    def sending(self):
        """The names of coroutines that send a run away."""
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks(self.control.loop)]
        return [name for name in names if name.startswith(Demoter.__name__)]

    def crash(self):
        """What it has in memory is gone, with all that it asked of the store and was not committed."""
        self.is_dead = self.clock.is_dead = True
        self.store.die()

    def leave(self):
        """Stop as a process does after SIGTERM: it is gone when the others know it."""
        if self.leaves:
            return
        self.leaves = True

        async def left():
            await self.service.drain()
            await close_all(self.engine.parts)
            self.has_left = True

        self.ask(left)

    @property
    def is_gone(self):
        return self.is_dead or self.has_left

    def end(self):
        self.clock.is_dead = True
        self.store.die()
        for each in (*self.loops.loops, self.control):
            each.loop.end()
