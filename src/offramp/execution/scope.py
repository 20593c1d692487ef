"""Makes step calls: finds the journal entry of a call, or executes the step once all recorded entries were replayed.

One `Scope` per execution of a run. All records of the run go through it. What it decides by has a part each: `Replay`
(recorded calls and their order), `Gate` (the state of the run, its steps in flight), `Waits` and `Steps`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from offramp.core.failure import exception_of
from offramp.core.journal import taken
from offramp.core.leaving import OVER, Move
from offramp.execution.endings import ExecutionOver
from offramp.execution.gate import Gate
from offramp.execution.observer import SILENT, Observer
from offramp.execution.replay import Replay
from offramp.execution.suspects import Suspects
from offramp.execution.timers import Timers
from offramp.execution.values import StoreValue, as_it_is
from offramp.execution.waiting import Mailbox, sleep_for
from offramp.execution.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.core import events
    from offramp.core.call import Call
    from offramp.core.journal import Entry
    from offramp.execution.attempt import Attempt, Holders
    from offramp.execution.history import History
    from offramp.execution.lease_window import LeaseWindow
    from offramp.execution.run_facts import RunFacts
    from offramp.execution.steps import Steps
    from offramp.ports.clock import Clock
    from offramp.ports.store import Parked, RunLog
    from offramp.telemetry.metrics import Metrics
    from offramp.telemetry.run_trace import RunTrace

logger = logging.getLogger("offramp")


class Scope:
    """The journal side of one executing run."""

    home = ""
    """The package of the pipeline, whose timers are the body's wherever it is installed."""

    def __init__(
        self,
        facts: RunFacts,
        log: RunLog,
        steps: Steps,
        clock: Clock,
        history: History,
        metrics: Metrics,
        *,
        lease_window: LeaseWindow | None = None,
        trace: RunTrace | None = None,
        store_value: StoreValue = as_it_is,
        observer: Observer = SILENT,
    ) -> None:
        self.facts = facts
        self.log = log
        self.steps = steps
        self.clock = clock
        self.metrics = metrics
        self.trace = trace
        self.store_value = store_value
        self.record_arguments = 0
        """The size in bytes up to which the arguments of steps are recorded whole."""
        self.tells_steps = False
        """Whether the observer looks at the run when a step ends: most runs give no cause."""
        self.replay = Replay(history, clock, facts.not_before)
        self.gate: Gate[Attempt] = Gate(facts, log, clock, lease_window, observer)
        self.waits = Waits(self.gate, self.replay.result_order, Mailbox(history.signals))
        self.suspects = Suspects(history, log)
        self._timers: Timers | None = None

    @property
    def replaying(self) -> bool:
        """Whether the body repeats a part of an earlier execution, recorded here or by its engine."""
        return self.replay.repeats or self.steps.repeats

    @property
    def permits(self) -> Holders | None:
        """Where its attempts get permits; None where there is no resource."""
        return self.steps.permits

    # The journal.

    def append(self, entry: Entry | None, event: events.Draft | None, arguments: bytes | None = None) -> None:
        """Record, unless this execution is over and the run may not be written any more.

        The log gets the entry with its call's arguments, which this execution does not hold on to.
        """
        if self.gate.state in OVER:
            raise ExecutionOver
        self.waits.stirs += 1
        if entry is not None:
            self.replay.journal.add(entry)
            if arguments is not None:
                entry = msgspec.structs.replace(entry, arguments=arguments)
        self.log.append(entry, event)

    def recorded(self, key: str) -> Entry | None:
        """The entry of a call that cannot wait for its turn in the replay."""
        replay = self.replay
        entry = replay.journal.ask(key)
        if entry is not None:
            replay.result_order.skip(replay.journal.position(key))
            self.timers.saw(entry)
        elif key in replay.at_hand and not self.gate.ending.struck:
            entry = self._take(key)
        return entry

    async def replayed(self, key: str) -> Entry | None:
        """The entry of a call, at its turn; None if it has not finished before."""
        entry = self.replay.journal.ask(key)
        if self.gate.ending.struck:
            self.gate.ending.late.add(key)
        if entry is not None:
            await self.turn(key)
            self.timers.saw(entry)
        elif key in self.replay.at_hand and not self.gate.ending.struck:
            await self.replay.complete(f"calls {self.replay.at_hand[key].name!r}", key)
            entry = self._take(key)
            await self.turn(key)
        return entry

    def _take(self, key: str) -> Entry:
        """Give a kept result to the call that asks for it: this is its place in the order of this run."""
        if self.gate.state in OVER:
            raise ExecutionOver
        self.waits.stirs += 1
        entry = self.replay.at_hand[key]
        self.replay.journal.add(entry)
        self.log.append(taken(key), None)
        return entry

    async def turn(self, key: str) -> None:
        """Wait until the body may receive the entry of this call, whether it is new or from an earlier execution.

        Called last: the call has no wait or attempt left.
        """
        if await self.replay.turn(key):
            self.waits.look()
        if self.gate.state == "detached":  # the body continues in another process; this one sees nothing more
            await asyncio.get_running_loop().create_future()
        ending = self.gate.ending
        task = asyncio.current_task() if ending.struck else None
        if task is not None and task.cancelling() and key not in ending.late:
            raise asyncio.CancelledError  # the step swallowed the cancellation; a replay is struck before this result

    async def ended(self, key: str, entry: Entry) -> None:
        """The same for a wait that ended in this execution: timers that the body sets from now on count from its end.

        Otherwise those of a run that was parked would count from the result before, and be due at once.
        """
        await self.turn(key)
        if self.replay.began_at is not None:
            self.timers.saw(entry)

    @property
    def timers(self) -> Timers:
        """The timers of the body; created with the first one."""
        if self._timers is None:
            given = self.replay, self.gate, self.waits, self.clock, self.append, self.log
            self._timers = Timers(*given, keeps=self.steps.keeps_timers)
        return self._timers

    # The state.

    def move(self, move: Move, rest: Parked | None = None) -> bool:
        """Change the state, see `Gate.move`; the timers of the body are recorded for the next process."""
        return self.gate.move(move, rest, self._moved)

    def _moved(self) -> None:
        state, timers = self.gate.state, self._timers
        if timers is None:
            return
        if state in {"leaving", "given_back"}:
            timers.note_all()
        if state in OVER and timers.close():
            self._timers = None  # a cycle would wait for the garbage collector

    def move_at_rest(self, move: Move, beyond: float, then: Callable[[], object] = lambda: None) -> None:
        """On the run's loop: make this move if the run only waits until after `beyond`.

        Args:
            move: `park`, or `give_back` of a run that leaves.
            beyond: epoch seconds.
            then: called if the move was made; `gate.rest` says how to park the run.
        """
        self.waits.at_rest(beyond, lambda rest: self.move(move, rest) and then())

    def leave(self, attempt: Attempt) -> None:
        """Note that an attempt is over."""
        if self.tells_steps:
            self.gate.observer.step_ended()
        if self.gate.leave(attempt):
            self.waits.look()

    # Step calls.

    async def step(self, call: Call) -> Any:
        """The result of a step call, from the journal or by execution."""
        # A call of a run without a replay, the usual case, avoids every needless coroutine.
        key, replay, gate = call.key, self.replay, self.gate
        entry = await self.replayed(key) if replay.is_under_way or replay.at_hand or gate.ending.struck else None
        if entry is None:
            if gate.ending.struck and gate.ending.within() is None:
                raise ExecutionOver
            if replay.is_under_way or replay.diverged is not None:
                may_fire = replay.result_order.fires or (key in replay.interrupted and self.timers.pending)
                await replay.complete(f"calls step {call.name!r}", key, may_fire=may_fire)
                if self.timers.release():
                    await asyncio.sleep(0)  # an overdue timer ends its block before the step begins
            if replay.unreached:
                replay.reached(key)
            if gate.state != "running" or gate.ending.outcome is not None:
                await gate.held_up()
            try:
                result = await self.steps.execute(self, call)
            except Exception:
                await self.turn(key)
                raise
            if gate.state == "detached" or gate.ending.struck or not replay.passes(key):
                await self.turn(key)
            return result
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return call.codec.decode_result(entry.value or b"null")

    async def pause(self, seconds: float) -> None:
        """Wait; the run needs no process meanwhile."""
        until = self.clock.time() + seconds
        with self.waits.paused(until) as lasts:
            self.foretell(until, lasts)
            await sleep_for(self.clock, seconds)

    def foretell(self, until: float, holds: Callable[[], bool]) -> None:
        """Report that a step cannot continue before this time, in epoch seconds, while that `holds`."""
        if self.facts.path == "fast":
            self.waits.foretell(until, holds)

    def report_cold_start(self) -> None:
        """Pass it on to the observer."""
        self.gate.observer.cold_started()

    def report_wait(self, step: str, what: str | None) -> None:
        """Report what a step of this name waits for before it begins; None once it waits no longer."""
        run_id = self.facts.run_id
        if what is not None:
            logger.info("%s: step %r waits for %s", run_id, step, what, extra={"run_id": run_id, "step": step})
        self.gate.observer.step_waits(what)
