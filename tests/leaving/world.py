"""Two processes of a service at one store, one run, and whatever happens to them: in an order that a test draws."""

from __future__ import annotations

import asyncio
import contextlib

import offramp
from offramp import App, current_run
from offramp.execution.context import current
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.leaving.member import LEASE_S, Member
from tests.leaving.stepped import SharedMemory, now
from tests.leaving.watch import Executed, Violation, Watch

BUDGET_S = 2.0
DEADLINE_S = 9.0
ROUNDS_MAX = 200
"""Of half a second each, until the run has ended."""


class World:
    """One run of a pipeline, and two processes; more where none is left.

    Args:
        shape: the pipeline.
        expires: whether it has a deadline.
        first_works: whether the process that accepts the run executes deep ones, too.
    """

    def __init__(self, shape="line", *, expires=False, first_works=True):
        self.watch = Watch()
        self.clock = FakeClock()
        self.memory = SharedMemory()
        self.shape = shape
        self.deadline_s = DEADLINE_S if expires else None
        self.members = []
        self._held = []
        self.app = self._app()
        self.first = self.join("a", works=first_works)
        self.second = self.join("b")
        self.settle()
        self.run_id = None
        self.refused = None

    def join(self, name, *, works=True):
        member = Member(self, name, works=works)
        self.members.append(member)
        return member

    def alive(self):
        return [member for member in self.members if not member.is_gone]

    # The pipeline.

    def _app(self):
        app = App("leaving")

        @app.step
        async def quick(name: str) -> str:
            return await self._execute(name, holds=False)

        @app.step
        async def slow(name: str) -> str:
            return await self._execute(name, holds=True)

        @app.pipeline(budget=BUDGET_S, deadline=self.deadline_s, on_disconnect="demote")
        async def line() -> list[str]:
            self._called()
            return [await quick("a"), await slow("b"), await quick("c"), await slow("d")]

        @app.pipeline(budget=BUDGET_S, deadline=self.deadline_s, on_disconnect="demote")
        async def branches() -> list[list[str]]:
            self._called()

            async def branch(number: int) -> list[str]:
                return [await slow(f"{number}a"), await quick(f"{number}b"), await slow(f"{number}c")]

            return await asyncio.gather(branch(1), branch(2))

        @app.pipeline(budget=BUDGET_S, deadline=self.deadline_s, on_disconnect="demote")
        async def careful() -> list[str]:
            self._called()
            done = [await quick("a")]
            try:
                done += [await slow("b"), await slow("c")]
            finally:
                async with offramp.cleanup(timeout=2.0):
                    done += [await slow("tidy"), await quick("tidied")]
            return done

        @app.pipeline(budget=BUDGET_S, deadline=self.deadline_s, on_disconnect="demote")
        async def waits() -> list[str]:
            self._called()
            done = [await slow("a")]
            await offramp.sleep(1.0)
            done.append(await offramp.signal("go"))
            return [*done, await slow("b")]

        return app

    @property
    def result(self):
        """Of a run that nothing happens to."""
        return {
            "line": b'["a","b","c","d"]',
            "branches": b'[["1a","1b","1c"],["2a","2b","2c"]]',
            "careful": b'["a","b","c","tidy","tidied"]',
            "waits": b'["a","went","b"]',
        }[self.shape]

    def _called(self):
        scope = current.get().scope
        self.watch.calls(asyncio.get_running_loop().member, scope.log.lease)

    async def _execute(self, name, *, holds):
        member, attempt = asyncio.get_running_loop().member, current.get()
        lease, cleans_up = attempt.scope.log.lease, name.startswith("tid")
        executed = Executed(name, attempt.key, member, lease, cleans_up)
        journal = {entry.key for entry in now(self.memory.journal(lease.run_id))}
        self.watch.begins(executed, current_run().attempt, journal)
        try:
            if holds:
                future = asyncio.get_running_loop().create_future()
                self._held.append((member, future))
                await future
        except BaseException:
            executed.over = "stopped"
            raise
        executed.over = "ended"
        return name

    # What the test does.

    def submit(self, *, durable=True):
        """Accept a run and execute it up to its first slow step; not `durable`: nothing of it is in the store yet."""

        def became(value):
            if isinstance(value, Exception):
                self.refused = value

        def live():
            return next(iter(self.first.live.all()), None)

        self.first.ask(lambda: self.first.service.submit(Submission(pipeline=self.shape)), became)
        while live() is None:
            self.first.control_step(1) or self.first.store.commit()
        self.run_id = live().record.id
        while not self._held:
            self.first.control_step(1)
            self.first.run_step(1)
        if durable:
            self.settle()

    def open(self, place=0):
        """A slow step ends."""
        self._held = [each for each in self._held if not each[0].is_gone and not each[1].done()]
        if not self._held:
            return False
        member, future = self._held.pop(place % len(self._held))
        member.loops.loops[0].call(lambda: future.done() or future.set_result(None))
        return True

    def advance(self, seconds, silent=None):
        """Let time pass, in which all but one renew their leases."""
        while seconds > 0:
            part = min(seconds, LEASE_S / 3)
            self.clock.advance(part)
            for member in self.alive():
                if member is not silent:
                    member.keeper.renew()
            seconds -= part

    def cancel(self, member):
        member.ask(lambda: member.service.cancel(self.run_id))

    def cancel_unheard(self, member):
        """The wish to cancel is in the store, and the hint that tells of it is lost."""
        for other in self.alive():
            other.hints.lose()
        self.cancel(member)
        member.settle()

    def signal(self, member):
        member.ask(lambda: member.service.signal(self.run_id, "go", b'"went"', key="once"))

    def retire(self, member, owner):
        member.ask(lambda: member.service.retire(owner.name))

    def settle(self):
        for _ in range(ROUNDS_MAX):
            went = [member.settle() for member in self.alive()]
            if not any(went):
                return
        raise Violation("the processes do not come to rest")

    @property
    def record(self):
        return None if self.run_id is None else now(self.memory.get(self.run_id))

    def finish(self):
        """Nothing more happens from outside: the run has to end, as it is to end, with everything that holds."""
        if not [member for member in self.alive() if member.works and not member.leaves]:
            self.join("z")
        self.settle()
        for _ in range(2):
            self.advance(0.01)  # a wish to cancel comes with a renewal at the latest
            self.settle()
        record = self.record
        if record is not None and not record.finished:
            self._is_to_end(record)
        for member in self.alive():
            member.hints.hear()
        self.signal(self.alive()[-1])
        self._take_back()
        for _ in range(ROUNDS_MAX):
            record = self.record
            if record is None or (record.finished and not any(member.live.all() for member in self.alive())):
                break
            while self.open():
                pass
            self.advance(0.5)
            self.settle()
        self._check()

    def _take_back(self):
        """What a process created whose lease had run out before, and that is dead, no lease gives back.

        Where processes share a folder, the others see by its lock there that it is dead.
        """
        holder = self.watch.holder
        known = {owner.id for owner in now(self.memory.owners())}
        for dead in self.members:
            if dead.is_dead and holder is not None and holder.owner == dead.name and dead.name not in known:
                self.retire(self.alive()[-1], dead)

    def _is_to_end(self, record):
        """What was asked for has reached every process: nothing can be quicker any more."""
        found = set()
        if self.watch.is_cancelled:
            found.add("cancelled")
        if record.deadline_at is not None and self.clock.time() >= record.deadline_at:
            found.add("expired")
        self.watch.ends_as = found

    def _check(self):
        record = self.record
        for member in self.alive():
            for run in member.live.all():
                self.watch.fail(f"{member.name} still executes {run.record.id}")
            for name in member.sending():
                self.watch.fail(f"{name} of {member.name} never comes to its end")
            if member.live.count("fast") or member.live.count("deep"):
                self.watch.fail(f"{member.name} has a place taken that nothing uses")
        if record is None:
            if self.refused is None and not self.first.is_dead:
                self.watch.fail("an accepted run is unknown")
        else:
            entries = now(self.memory.journal(self.run_id))
            frames = now(self.memory.events(self.run_id, 0))
            self.watch.ended(record, entries, frames, self.result)

    def end(self):
        for member in self.members:
            member.end()


@contextlib.contextmanager
def world(*given, **named):
    made = World(*given, **named)
    try:
        yield made
    finally:
        made.end()
