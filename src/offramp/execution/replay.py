"""What an executing run repeats of its earlier executions: recorded calls, their order, and a body that diverges.

Knows nothing of steps, of waits and of the state of the run, which `Scope` brings together with this.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import TYPE_CHECKING

from offramp.core.divergence import differs
from offramp.core.journal import Entry, Journal, parted, without_dues
from offramp.core.seed import results_kept
from offramp.execution.endings import ExecutionOver
from offramp.execution.turns import ResultOrder
from offramp.execution.waiting import sleep_for

if TYPE_CHECKING:
    from offramp.execution.history import History
    from offramp.ports.clock import Clock

DIVERGENCE_GRACE_S = 5.0
"""The time for a body with waits of its own before a stalled replay counts as divergence."""
TIMEOUT_GRACE_S = 60.0
"""The same if a timer may still end the step: its firing waits for its turn, or was not recorded, as in journals older
than journaled timers."""
REPLAY_TURNS = 100
"""Loop turns without progress after which a replay counts as stalled, unless the body has waits of its own."""
LOOK_EVERY_S = 0.05
"""How often such a body is checked."""


class Replay:
    """The journal of one executing run, and the body's turns to see its entries; used on the run's loop."""

    def __init__(self, history: History, clock: Clock, not_before: float = 0.0) -> None:
        self._clock = clock
        entries, self.dues = without_dues(parted(history.entries)[1])
        """The due times of timers of earlier executions, by key, in epoch seconds."""
        self.at_hand: dict[str, Entry] = results_kept(history.entries)
        """The results of an earlier run that this one, which retries it, gives to the calls that ask for them."""
        self.journal = Journal(entries, itertools.chain(history.interrupted, history.elsewhere, self.at_hand))
        self.result_order = ResultOrder(self.journal.replayable)
        self.interrupted = dict(history.interrupted)
        """Steps that an earlier execution began without ending them, and that this one has not begun, by key."""
        self.waiting = history.waiting
        """The keys of waits that have begun according to the event log."""
        self.refused = set(history.refused)
        """The signals that do not fit a wait according to the event log."""
        self.unreached = {*self.interrupted, *self.waiting}
        """The keys of calls that an earlier execution had begun, until this one makes them."""
        self.is_under_way = self.journal.replayable > 0
        """Whether the body may still have to ask for recorded entries."""
        self.began_before = bool(self.unreached or self.is_under_way or self.at_hand or history.resumed)
        """Whether an earlier execution may have called the body."""
        began_at = min((entry.started_at for entry in history.entries if entry.started_at), default=None)
        self.began_at = began_at and max(began_at, not_before)
        """The latest possible start of the first of those executions, in epoch seconds; None without one."""
        self.grace_s = DIVERGENCE_GRACE_S
        """The time without progress that a replay has, and that a recorded firing waits for its turn."""
        self.diverged: str | None = None
        """The difference between the body and its journal."""

    @property
    def repeats(self) -> bool:
        """Whether the body repeats a recorded part of an earlier execution."""
        return self.result_order.replays or bool(self.unreached)

    def reached(self, key: str) -> None:
        """Note a call that is not recorded: a new one, or one that an earlier execution had begun."""
        if key in self.unreached:
            self.unreached.remove(key)
        else:
            self.unreached.clear()

    async def turn(self, key: str) -> bool:
        """Wait until the body may receive the entry of this call; returns whether it had to wait."""
        return await self.result_order.turn(self.journal.position(key))

    def passes(self, key: str) -> bool:
        """Let the entry of this call go into the body if it is its turn: a quick form of `turn`."""
        return self.result_order.passes(self.journal.position(key))

    async def complete(self, what: str, key: str | None = None, *, may_fire: bool = False) -> None:
        """Wait until the body has asked for, and seen, all recorded entries, before anything new is executed.

        In unchanged code every recorded call depends on recorded results only, so the body makes it without a new step.
        And the body may give up the current call, as in the first execution, once it sees the recorded results.

        Args:
            what: what the pipeline does now, for the error if it never asks for the rest.
            key: of its call.
            may_fire: whether a timer may still end the call.

        Raises:
            ExecutionOver: the body has diverged.
        """
        if self.diverged is not None:
            raise ExecutionOver
        if not self.is_under_way:
            return
        grace_s = TIMEOUT_GRACE_S if may_fire else self.grace_s
        if not await self.caught_up(grace_s) and self.diverged is None:
            self.diverged = differs(self.journal.unasked()[0], what, key)
        if self.diverged is not None:
            raise ExecutionOver
        self.is_under_way = False

    async def caught_up(self, grace_s: float) -> bool:
        """Wait until the body has asked for, and seen, all recorded entries; False if the replay stalls."""
        clock, journal = self._clock, self.journal
        turns, before, ends = 0, self._progress, math.inf
        while journal.missing:
            if turns < REPLAY_TURNS:
                await asyncio.sleep(0)
                turns += 1
            elif clock.monotonic() < ends:
                ends = min(ends, clock.monotonic() + grace_s)
                await sleep_for(clock, min(grace_s / 100, LOOK_EVERY_S))
            else:
                return False
            if self.diverged is not None:
                return False
            if self._progress != before:
                turns, before, ends = 0, self._progress, math.inf
        await self.result_order.settled()
        return True

    @property
    def _progress(self) -> tuple[int, int]:
        """Changes as a replay proceeds."""
        return self.journal.missing, self.result_order.passed
