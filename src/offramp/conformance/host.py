"""The host of the engine suite: executes runs whose input is a script, through the real store, and keeps a ledger.

A script is a list of steps. `signal:go:0` waits, parked, for the first signal named `go`; `listen:go:0` waits for it in
place; any other name is a step that ends at once, unless the ledger holds it.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from offramp.conformance.sample import DONE, PIPELINE, drafted
from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.run import Outcome, RunRecord
from offramp.core.sla import NO_CLASSES, SLA
from offramp.errors import LeaseLost, StoreError
from offramp.ports.engine import Engine
from offramp.ports.store import Claim, Lease, Parked, RunLog, Store


class Executed(NamedTuple):
    """A step of a run, and the process that executed it."""

    owner: str
    run_id: str
    step: str


class Ledger:
    """The actions of all hosts of a case, in order, and the gates at which steps wait.

    Args:
        now: epoch seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.taken: list[tuple[str, str]] = []
        """(owner, run) for each `execute` that a host received."""
        self.began: list[Executed] = []
        self.recorded: list[Executed] = []
        self.values: list[bytes] = []
        """The values of signals, in the order of receipt."""
        self.parked: list[str] = []
        self.lost: list[tuple[str, str]] = []
        """(owner, run) for each `lost` that a host received."""
        self._gates: dict[str, asyncio.Event] = {}

    def hold(self, name: str) -> None:
        """A step of this name waits from now on."""
        self._gates[name] = asyncio.Event()

    def let_go(self, name: str) -> None:
        """It waits no more."""
        self._gates[name].set()

    async def gate(self, name: str) -> None:
        """Wait if held."""
        if name in self._gates:
            await self._gates[name].wait()

    def steps(self, record: RunRecord) -> list[str]:
        """The steps of a run that began, in any process."""
        return [made.step for made in self.began if made.run_id == record.id]

    def owners(self, record: RunRecord, step: str) -> list[str]:
        """The processes that began this step of a run."""
        return [made.owner for made in self.began if (made.run_id, made.step) == (record.id, step)]


class _Live:
    """One execution of a run."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.noticed = asyncio.Event()
        self.cancelled = False
        self.leaving = False
        self.waiting = False
        self.begun = False
        self.stopped = False
        self.ending = False
        self.task: asyncio.Task[None] | None = None


class ScriptedHost:
    """One process's host; see `offramp.ports.engine.RunHost`.

    Args:
        owner: the process.
        store: as it has it.
        ledger: shared by the hosts of a case.
        room: how many runs it executes at once; may be changed.
    """

    def __init__(self, owner: str, store: Store, ledger: Ledger, room: int) -> None:
        self.owner = owner
        self.ended: Callable[[], object] = lambda: None
        """Called when a run left."""
        self._store = store
        self._ledger = ledger
        self.room = room
        self._loop = asyncio.get_running_loop()
        self._engine: asyncio.Future[Engine] = self._loop.create_future()
        self._lives: list[_Live] = []
        self._lock = threading.Lock()
        self._dead = False

    def serves(self, engine: Engine) -> None:
        """Runs park and leave through this engine, which learns of free room."""
        self._engine.set_result(engine)
        self.ended = engine.has_room

    @property
    def pipelines(self) -> list[str]:
        """The suite's one pipeline."""
        return [PIPELINE]

    @property
    def classes(self) -> Mapping[str, SLA]:
        """None: the defaults are right."""
        return NO_CLASSES

    def free(self) -> int:
        """How many more runs fit."""
        return self.room - len(self._lives)

    def execute(self, claim: Claim) -> None:
        """Begin a claimed run."""
        with self._lock:
            if self._dead:
                return
            live = _Live(claim)
            self._lives.append(live)
            self._ledger.taken.append((self.owner, claim.record.id))
        self._loop.call_soon_threadsafe(self._begin, live)

    def _begin(self, live: _Live) -> None:
        if not self._dead:
            live.task = self._loop.create_task(self._play(live))

    def _of(self, run_id: str) -> list[_Live]:
        with self._lock:
            return [live for live in self._lives if live.claim.record.id == run_id]

    def cancel(self, run_id: str) -> bool:
        """Cancel a run that is executing here."""
        mine = self._of(run_id)
        for live in mine:
            live.cancelled = True
            self._loop.call_soon_threadsafe(self._stop, live)
        return bool(mine)

    @staticmethod
    def _stop(live: _Live) -> None:
        live.stopped = True
        # A task that is cancelled before it began would not even clean up.
        if live.task is not None and live.begun and not live.ending:
            live.task.cancel()

    def notice(self, run_id: str) -> bool:
        """A signal came for a run."""
        mine = self._of(run_id)
        for live in mine:
            self._loop.call_soon_threadsafe(live.noticed.set)
        return bool(mine)

    def listening(self) -> list[str]:
        """The runs that wait in place."""
        return [live.claim.record.id for live in self._lives if live.waiting]

    def held(self, until: float) -> None:
        """Scripted runs look at their lease when they write."""

    async def confirm(self) -> None:
        """The same."""

    def lost(self, lease: Lease) -> None:
        """The lease of a run is gone."""
        if lease.owner == self.owner:
            self._ledger.lost.append((self.owner, lease.run_id))
        for live in self._of(lease.run_id):
            if live.claim.lease == lease:
                self._loop.call_soon_threadsafe(self._stop, live)

    def hand_over(self, run_id: str) -> None:
        """Release a run at its next step boundary."""
        for live in self._of(run_id):
            live.leaving = True

    def die(self) -> None:
        """End everything, without writing anything more."""
        with self._lock:
            self._dead = True
        for live in self._lives:
            live.cancelled = live.ending = False
            self._stop(live)

    async def _play(self, live: _Live) -> None:
        log = self._store.log(live.claim.lease)
        live.begun = True
        try:
            if live.stopped:
                raise asyncio.CancelledError
            await self._script(live, log)
        except asyncio.CancelledError:
            if live.cancelled:
                await self._end(live, log, Outcome("cancelled"), events.RunCancelled({}))
        except (LeaseLost, StoreError):
            pass  # the run is another process's now, or this process ends
        finally:
            with self._lock:
                self._lives.remove(live)
            self.ended()

    async def _script(self, live: _Live, log: RunLog) -> None:
        record = live.claim.record
        if record.cancel_requested:
            await self._end(live, log, Outcome("cancelled"), events.RunCancelled({}))
            return
        if record.deadline_at is not None and record.deadline_at <= self._ledger.now():
            await self._end(live, log, Outcome("expired"), events.RunExpired({}))
            return
        done = {entry.key for entry in await self._store.journal(record.id)}
        for step in msgspec.json.decode(record.input, type=list[str]):
            if step in done:
                continue
            if live.leaving:
                await (await self._engine).release(log.lease)
                return
            if step.startswith(("signal:", "listen:")):
                if not await self._await_signal(live, log, step):
                    return
            else:
                await self._execute(live, log, step)
        await self._end(live, log, DONE, events.RunCompleted(msgspec.Raw(DONE.result or b"null")))

    async def _execute(self, live: _Live, log: RunLog, step: str) -> None:
        made = Executed(self.owner, live.claim.record.id, step)
        self._ledger.began.append(made)
        await self._ledger.gate(step)
        log.append(Entry(step, step, "step", b"1"), drafted(events.StepCompleted(step, step, 1, 0.0)))
        await log.durable()
        self._ledger.recorded.append(made)

    async def _await_signal(self, live: _Live, log: RunLog, step: str) -> bool:
        """Journal the signal; False if the run was parked instead."""
        kind, name, place = step.split(":")
        while True:
            received = await self._store.signals(live.claim.record.id)
            mine = [value for sent, value in received if sent == name]
            if len(mine) > int(place):
                log.append(Entry(step, step, "signal", mine[int(place)]), None)
                await log.durable()
                self._ledger.values.append(mine[int(place)])
                return True
            if kind == "signal":
                await self._ledger.gate(f"park {step}")
                await (await self._engine).release(log.lease, Parked(math.inf, len(received)))
                self._ledger.parked.append(live.claim.record.id)
                return False
            live.waiting = True
            await live.noticed.wait()
            live.waiting = False
            live.noticed.clear()

    async def _end(self, live: _Live, log: RunLog, outcome: Outcome, event: events.Body) -> None:
        live.ending = True
        await log.finish(outcome, drafted(event), self._ledger.now())
