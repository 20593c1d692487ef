"""The stage of a case of the engine suite: a site, the processes that joined it, and short words for both."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any, NamedTuple

import msgspec

from offramp.conformance.bodies import ScriptedBodyHost
from offramp.conformance.case import until
from offramp.conformance.harness import EngineHarness, EngineMember, EngineSite
from offramp.conformance.host import Ledger
from offramp.conformance.sample import DEMOTION, accepted, record_of
from offramp.conformance.store_stage import frames_of
from offramp.core.run import RunRecord
from offramp.core.seed import NO_SEED, Seed
from offramp.ports.engine import Engine, Handoff
from offramp.ports.store import Claim, Created, Idempotency, RunLog, Store

SETTLE_S = 0.01
"""Real seconds in which a forbidden event would happen."""


class Member(NamedTuple):
    """One process of a case."""

    owner: str
    process: EngineMember
    host: ScriptedBodyHost

    @property
    def engine(self) -> Engine:
        """Its engine."""
        return self.process.engine

    @property
    def store(self) -> Store:
        """Its store."""
        return self.process.store


class EngineStage:
    """One case's site."""

    def __init__(self, site: EngineSite) -> None:
        self.site = site
        self.ledger = Ledger(site.now)
        # Unique among all cases, as an engine's server may remember the runs of another case.
        self._numbers = itertools.count(random.randrange(1 << 30))  # noqa: S311 - no secret
        self._members: list[Member] = []

    @classmethod
    async def open(cls, harness: EngineHarness) -> EngineStage:
        """With fresh data."""
        return cls(await harness.open())

    async def close(self) -> None:
        """Every process ends."""
        for member in self._members:
            member.host.die()
        await asyncio.sleep(0)
        await self.site.close()

    async def join(self, owner: str = "a", *, works: bool = True, room: int = 10) -> Member:
        """A process joins."""
        hosts: list[ScriptedBodyHost] = []

        def host_of(store: Store) -> ScriptedBodyHost:
            hosts.append(ScriptedBodyHost(owner, store, self.ledger, room))
            return hosts[-1]

        process = await self.site.join(owner, host_of, works=works)
        hosts[0].serves(process.engine)
        self._members.append(Member(owner, process, hosts[0]))
        return self._members[-1]

    async def kill(self, member: Member) -> None:
        """A process dies."""
        self._members.remove(member)
        member.host.die()
        await member.process.kill()

    async def stop(self, member: Member) -> None:
        """A process leaves."""
        self._members.remove(member)
        await member.process.stop()
        member.host.die()

    async def settle(self) -> None:
        """Give a forbidden event the time to happen."""
        await asyncio.sleep(SETTLE_S)

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, and the effects of that happen."""
        await self.site.advance(seconds)
        await self.settle()

    def record(self, *script: str, **changes: Any) -> RunRecord:
        """A run with this script, not started."""
        made = {"status": "queued", "input": msgspec.json.encode(script), "created_at": self.site.now()}
        return record_of(next(self._numbers), **(made | changes))

    async def start(
        self, member: Member, record: RunRecord, key: Idempotency | None = None, seed: Seed = NO_SEED
    ) -> Created:
        """Ask an engine for a run; it gets a copy."""
        return await member.engine.start(msgspec.structs.replace(record), accepted(record), key, seed)

    async def started(self, member: Member, *script: str, **changes: Any) -> RunRecord:
        """A run that goes deep at once."""
        record = self.record(*script, **changes)
        created = await self.start(member, record)
        assert created.existing is None, f"{record.id} is new, but the engine reports that it exists"
        return record

    async def begun(self, member: Member, *script: str) -> tuple[RunRecord, RunLog]:
        """A run on the fast path of a process, which holds its lease but does not execute it yet."""
        record = self.record(*script, status="running", path="fast", started_at=self.site.now())
        commit, log = member.store.create(record, accepted(record), owner=member.owner, durable=False)
        await commit
        assert log is not None
        return record, log

    async def demoted(self, member: Member, *script: str) -> RunRecord:
        """A run that was executing on the fast path, at its first held step, when it was demoted."""
        record, log = await self.begun(member, *script)
        member.host.execute(Claim(record, log.lease, fresh=True))
        await self.reached(record, "held")
        await member.engine.adopt(Handoff(log.lease, DEMOTION, ["held"]))
        return record

    async def reached(self, record: RunRecord, step: str, times: int = 1) -> None:
        """Wait until a step began."""
        await until(lambda: len(self.ledger.owners(record, step)) >= times)

    async def seen(self, record: RunRecord) -> RunRecord:
        """The record, as a living process sees it."""
        stored = await self._members[0].store.get(record.id)
        assert stored is not None, f"{record.id} is not there"
        return stored

    async def outcome(self, record: RunRecord) -> str:
        """Wait for the run's end; its log has to be whole then (E1)."""

        async def ended() -> bool:
            return (await self.seen(record)).finished

        await until(ended)
        frames = await frames_of(self._members[0].store, record)
        numbers = [frame.seq for frame in frames]
        assert numbers == list(range(1, len(numbers) + 1)), f"the log has a gap: {numbers}"
        ends = [frame.seq for frame in frames if frame.terminal]
        assert ends == numbers[-1:], f"one terminal event has to end the log of {len(numbers)}, got {ends}"
        return (await self.seen(record)).status

    async def recorded(self, record: RunRecord) -> list[str]:
        """The steps in the journal."""
        return [entry.key for entry in await self._members[0].store.journal(record.id)]
