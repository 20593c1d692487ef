"""The journal of one executing run: adds entries to it, and gives them to the body in order.

Knows nothing of steps, which `Scope` executes.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from offramp.core import events
from offramp.core.journal import Entry, Journal
from offramp.core.leaving import OVER
from offramp.execution.endings import ExecutionOver
from offramp.execution.turns import ResultOrder
from offramp.execution.waiting import Mailbox, sleep_for
from offramp.execution.waits import Waits

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt
    from offramp.execution.gate import Gate
    from offramp.execution.run_facts import RunFacts
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog

REPLAY_TURNS = 100
"""Loop turns without progress after which a replay counts as stalled, unless the body has waits of its own."""
LOOK_EVERY_S = 0.05
"""How often such a body is checked."""


class Recording:
    """The journal of one executing run, and the body's turns to see its entries."""

    def __init__(
        self,
        facts: RunFacts,
        log: RunLog,
        clock: Clock,
        gate: Gate[Attempt],
        mailbox: Mailbox,
        journal: Journal,
    ) -> None:
        self.facts = facts
        self.log = log
        self.clock = clock
        self.gate = gate
        self.result_order = ResultOrder(journal.replayable)
        self.waits = Waits(gate, self.result_order, mailbox)
        self.journal = journal
        self.diverged: str | None = None
        """The difference between the body and its journal."""

    def append(self, entry: Entry | None, event: events.Draft | None) -> None:
        """Record, unless this execution is over and the run may not be written any more."""
        if self.gate.state in OVER:
            raise ExecutionOver
        self.waits.stirs += 1
        if entry is not None:
            self.journal.add(entry)
        self.log.append(entry, event)

    async def turn(self, key: str) -> None:
        """Wait until the body may receive the entry of this call, whether it is new or from an earlier execution.

        Called last: the call has no wait or attempt left.
        """
        if await self.result_order.turn(self.journal.position(key)):
            self.waits.look()
        if self.gate.state == "detached":  # the body continues in another process; this one sees nothing more
            await asyncio.get_running_loop().create_future()
        ending = self.gate.ending
        task = asyncio.current_task() if ending.struck else None
        if task is not None and task.cancelling() and key not in ending.late:
            raise asyncio.CancelledError  # the step swallowed the cancellation; a replay is struck before this result

    def is_given_at_once(self, key: str) -> bool:
        """Whether the body may receive this entry without a wait: a quick form of `turn`."""
        is_plain = self.gate.state != "detached" and not self.gate.ending.struck
        return is_plain and self.result_order.passes(self.journal.position(key))

    async def caught_up(self, grace_s: float) -> bool:
        """Wait until the body has asked for, and seen, all recorded entries; False if the replay stalls."""
        clock, journal = self.clock, self.journal
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
