"""The scripted host for an engine that calls bodies itself (`offramp.ports.bodies`): the same scripts, the same ledger.

Such an engine parks nothing: a body that waits for a signal counts as parked from when it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from offramp.conformance.host import Executed, Ledger, ScriptedHost
from offramp.conformance.sample import DONE, drafted
from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.ownership import ENGINE
from offramp.core.run import Outcome, RunRecord
from offramp.ports.bodies import (
    AttemptContext,
    BodyExecution,
    BodyHost,
    BodyRuntime,
    Facts,
    Known,
    StepCall,
    StepTerms,
    TraceContext,
)
from offramp.ports.store import Claim, Lease, Store

_TERMINAL: dict[str, Any] = {
    "cancelled": events.RunCancelled,
    "expired": events.RunExpired,
    "failed": events.RunFailed,
}


class ScriptedBodyHost(ScriptedHost, BodyHost):
    """Executes runs as a whole, and bodies and steps by themselves."""

    def __init__(self, owner: str, store: Store, ledger: Ledger, room: int) -> None:
        super().__init__(owner, store, ledger, room)
        self.waiting: list[str] = []

    def listening(self) -> list[str]:
        """The runs that wait in place."""
        return [*super().listening(), *self.waiting]

    def lost(self, lease: Lease) -> None:
        """The lease of a run is gone, or a step of one that all processes share."""
        super().lost(lease)
        if lease.owner == ENGINE:
            self._ledger.lost.append((self.owner, lease.run_id))

    def terms(self, step: str) -> StepTerms:
        """Every name is a step."""
        return StepTerms(None, short=False)

    def play(
        self, facts: Facts, encoded_input: bytes, known: Known, runtime: BodyRuntime, part: TraceContext | None
    ) -> BodyExecution:
        """Begin to follow the script."""
        if not runtime.repeats:
            self._ledger.taken.append((self.owner, facts.run_id))
        return _Played(self, facts.run_id, msgspec.json.decode(encoded_input, type=list[str]), known, runtime)

    async def known(self, run_id: str) -> Known:
        """What the store has."""
        return Known(list(await self._store.journal(run_id)), {}, list(await self._store.signals(run_id)))

    def began(self, claim: Claim, replayed_steps: int, *, first: bool) -> TraceContext | None:
        """Nothing is traced."""
        return None

    def took_over(self, facts: Facts, replayed_steps: int, part: TraceContext) -> None:
        """Nothing is traced."""

    def waited(self, facts: Facts, part: TraceContext, what: str, began: float, *, over: bool) -> None:
        """Nothing is traced."""

    async def resumed(
        self, lease: Lease, replayed_steps: int, reason: Literal["demotion", "retry"] | None = None
    ) -> None:
        """Say so in the log."""
        body = events.RunResumed(self.owner, replayed_steps, reason)
        self._store.log(lease).append(None, drafted(body))

    async def attempt(
        self, lease: Lease, record: RunRecord, call: StepCall, arguments: bytes, context: AttemptContext
    ) -> Entry:
        """Execute a step."""
        made = Executed(self.owner, record.id, call.name)
        self._ledger.began.append(made)
        await self._ledger.gate(call.name)
        if self._dead:
            raise asyncio.CancelledError
        log = self._store.log(lease)
        entry = Entry(call.key, call.name, "step", b"1")
        log.append(entry, drafted(events.StepCompleted(call.name, call.key, 1, 0.0)))
        await log.durable()
        self._ledger.recorded.append(made)
        return entry

    async def conclude(self, claim: Claim, outcome: Outcome, part: TraceContext | None = None) -> None:
        """Write a run's outcome."""
        kind = _TERMINAL.get(outcome.status)
        body = events.RunCompleted(msgspec.Raw(outcome.result or b"null")) if kind is None else kind({})
        await self._store.log(claim.lease).finish(outcome, drafted(body), self._ledger.now())

    def parks(self, run_id: str, step: str) -> None:
        """A body waits for a signal."""
        (self.waiting if step.startswith("listen:") else self._ledger.parked).append(run_id)

    def received(self, run_id: str, value: bytes) -> None:
        """It came."""
        self._ledger.values.append(value)
        if run_id in self.waiting:
            self.waiting.remove(run_id)


class _Played(BodyExecution):
    """One execution of a script."""

    def __init__(
        self, host: ScriptedBodyHost, run_id: str, script: list[str], known: Known, runtime: BodyRuntime
    ) -> None:
        self._host = host
        self._run_id = run_id
        self._runtime = runtime
        self._done = {entry.key for entry in known.entries}
        self._received: list[tuple[str, bytes]] = list(known.signals)
        self._came = asyncio.Event()
        self._outcome: Outcome | None = None
        self._stops = False
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._follow(script))

    async def _follow(self, script: list[str]) -> None:
        for step in script:
            if self._stops:
                return
            if step in self._done:
                continue
            if step.startswith(("signal:", "listen:")):
                await self._await_signal(step)
            else:
                await self._runtime.step(StepCall(step, step), b"[]")
        self._end(DONE)

    async def _await_signal(self, step: str) -> None:
        _, name, place = step.split(":")
        waited = False
        while len(mine := [value for sent, value in self._received if sent == name]) <= int(place):
            if not waited and not self._runtime.repeats:
                self._host.parks(self._run_id, step)
            waited = True
            self._came.clear()
            await self._came.wait()
        value = mine[int(place)]
        self._runtime.record(Entry(step, step, "signal", value), None)
        if not self._runtime.repeats:
            self._host.received(self._run_id, value)

    def _end(self, outcome: Outcome) -> None:
        if self._outcome is None:
            self._outcome = outcome
        self._stops = True
        if not self._over.done():
            self._over.set_result(None)

    async def ended(self) -> Outcome | None:
        """Wait for the end."""
        await asyncio.wait([self._over])
        return self._outcome

    def signals(self, received: Sequence[tuple[str, bytes]]) -> None:
        """All signals so far."""
        self._received = list(received)
        self._came.set()

    def cancel(self) -> None:
        """End it `cancelled`."""
        self._end(Outcome("cancelled"))
        self._task.cancel()

    give_up = cancel

    def expire(self) -> None:
        """End it `expired`."""
        self._end(Outcome("expired"))
        self._task.cancel()

    def stop_at_boundary(self) -> None:
        """Let no further step start."""
        self._stops = True

    def seen(self) -> list[str]:
        """A script is followed one step after the other."""
        return []

    def cut(self) -> bool:
        """End it without an outcome."""
        if self._outcome is None:
            self._task.cancel()
        return self._outcome is None
