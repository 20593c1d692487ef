"""Makes step calls: finds the journal entry of a call, or executes the step once all recorded entries were replayed.

One `Scope` per execution of a run. All records of the run go through it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Any

from offramp.core.divergence import differs
from offramp.core.failure import exception_of
from offramp.core.journal import Entry, Journal
from offramp.core.leaving import OVER, Move
from offramp.execution.endings import ExecutionOver
from offramp.execution.gate import Gate
from offramp.execution.history import History
from offramp.execution.lease_window import LeaseWindow
from offramp.execution.observer import SILENT, Observer
from offramp.execution.recording import Recording
from offramp.execution.run_facts import RunFacts
from offramp.execution.suspects import Suspects
from offramp.execution.timers import Timers, without_dues
from offramp.execution.values import StoreValue, as_it_is
from offramp.execution.waiting import Mailbox, sleep_for
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.core.call import Call
    from offramp.execution.attempt import Attempt
    from offramp.execution.steps import Steps
    from offramp.ports.clock import Clock
    from offramp.ports.store import Parked, RunLog
    from offramp.telemetry.run_trace import RunTrace

logger = logging.getLogger("offramp")

DIVERGENCE_GRACE_S = 5.0
"""The time for a body with waits of its own before a stalled replay counts as divergence."""
TIMEOUT_GRACE_S = 60.0
"""The same if a timer may still end the step: its firing waits for its turn, or was not recorded, as in journals older
than journaled timers."""


class Scope(Recording):
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
        self.store_value = store_value
        self.trace = trace
        self.steps = steps
        self.metrics = metrics
        entries, dues = without_dues(history.entries)
        journal = Journal(entries, itertools.chain(history.interrupted, history.elsewhere))
        gate: Gate[Attempt] = Gate(facts, log, clock, lease_window, observer)
        super().__init__(facts, log, clock, gate, Mailbox(history.signals), journal)
        self.interrupted = dict(history.interrupted)
        """Steps that an earlier execution began without ending them, and that this one has not begun, by key."""
        self.suspects = Suspects(history, log)
        self.waiting = set(history.waiting)
        """The keys of waits that have begun according to the event log."""
        self._replays = self.journal.replayable > 0
        self._reached_before = set(self.interrupted) | self.waiting
        self.began_before = bool(self._reached_before or self._replays or history.resumed)
        """Whether an earlier execution may have called the body."""
        self._dues = dues
        self._began = min((entry.started_at for entry in history.entries if entry.started_at), default=None)
        self._timers: Timers | None = None

    @property
    def replaying(self) -> bool:
        """Whether the body repeats a recorded part of an earlier execution."""
        return self.result_order.replays or bool(self._reached_before) or self.steps.repeats

    def reached(self, key: str) -> None:
        """Note a call that is not recorded: a new one, or one that an earlier execution had begun."""
        if key in self._reached_before:
            self._reached_before.remove(key)
        else:
            self._reached_before.clear()

    # The journal.

    def recorded(self, key: str) -> Entry | None:
        """The entry of a call that cannot wait for its turn in the replay."""
        entry = self.journal.ask(key)
        if entry is not None:
            self.result_order.skip(self.journal.position(key))
            self.timers.saw(entry)
        return entry

    async def replayed(self, key: str) -> Entry | None:
        """The entry of a call, at its turn; None if it has not finished before."""
        entry = self.journal.ask(key)
        if self.gate.ending.struck:
            self.gate.ending.late.add(key)
        if entry is not None:
            await self.turn(key)
            self.timers.saw(entry)
        return entry

    @property
    def timers(self) -> Timers:
        """The timers of the body; created with the first one."""
        if self._timers is None:
            self._timers = Timers(self, self._dues, self._began, DIVERGENCE_GRACE_S, keeps=self.steps.keeps_timers)
        return self._timers

    # The state.

    def move(self, move: Move, rest: Parked | None = None) -> bool:
        """Change the state, see `Gate.move`; the timers of the body are recorded for the next process."""
        return self.gate.move(move, rest, self._moved)

    def _moved(self) -> None:
        state = self.gate.state
        if self._timers is not None and state in {"leaving", "given_back"}:
            self._timers.note_all()
        if self._timers is not None and state in OVER and self._timers.close():
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
        if self.gate.leave(attempt):
            self.waits.look()

    # Step calls.

    async def step(self, call: Call) -> Any:
        """The result of a step call, from the journal or by execution."""
        # A call of a run without a replay, the usual case, avoids every needless coroutine.
        key, gate = call.key, self.gate
        entry = await self.replayed(key) if self._replays or gate.ending.struck else None
        if entry is None:
            if gate.ending.struck and gate.ending.within() is None:
                raise ExecutionOver
            if self._replays or self.diverged is not None:
                may_end = self.result_order.fires or (key in self.interrupted and self.timers.pending)
                grace_s = TIMEOUT_GRACE_S if may_end else DIVERGENCE_GRACE_S
                await self.all_replayed(f"calls step {call.name!r}", key, grace_s)
                if self.timers.release():
                    await asyncio.sleep(0)  # an overdue timer ends its block before the step begins
            if self._reached_before:
                self.reached(key)
            if gate.state != "running" or gate.ending.outcome is not None:
                await gate.held_up()
            try:
                result = await self.steps.execute(self, call)
            except Exception:
                await self.turn(key)
                raise
            if not self.is_given_at_once(key):
                await self.turn(key)
            return result
        if entry.failure is not None:
            raise exception_of(entry.failure)
        return call.codec.decode_result(entry.value or b"null")

    async def all_replayed(self, what: str, key: str | None = None, grace_s: float = DIVERGENCE_GRACE_S) -> None:
        """Wait until the body has asked for, and seen, all recorded entries, before anything new is executed.

        If it never asks for the rest, the error names `what` the pipeline does, and the `key` of the call.
        In unchanged code every recorded call depends on recorded results only, so the body makes it without a new step.
        And the body may give up the current call, as in the first execution, once it sees the recorded results.
        """
        if self.diverged is not None:
            raise ExecutionOver
        if not self._replays:
            return
        if not await self.caught_up(grace_s) and self.diverged is None:
            self.diverged = differs(self.journal.unasked()[0], what, key)
        if self.diverged is not None:
            raise ExecutionOver
        self._replays = False

    async def pause(self, seconds: float) -> None:
        """Wait; the run needs no process meanwhile."""
        with self.waits.to(self.clock.time() + seconds):
            await sleep_for(self.clock, seconds)

    def report_wait(self, step: str, what: str | None) -> None:
        """Report what a step of this name waits for before it begins; None once it waits no longer."""
        run_id = self.facts.run_id
        if what is not None:
            logger.info("%s: step %r waits for %s", run_id, step, what, extra={"run_id": run_id, "step": step})
        self.gate.observer.step_waits(what)
