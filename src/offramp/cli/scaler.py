"""Scales the workers of one supervisor: carries out what `core.scaling` decides, and logs each change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from offramp.cli.output import counted
from offramp.core.scaling import SETTLE_S, Crew, Memory, Span, part, target

if TYPE_CHECKING:
    from offramp.cli.supervisor import Supervisor
    from offramp.paths.crew import Look

logger = logging.getLogger("offramp")


class Scaler:
    """Chooses how many workers a supervisor keeps, at each look at the queue.

    Args:
        supervisor: has begun with the least number.
        span: the bounds.
        idle_s: seconds without need after which fewer are kept.
        on_change: called with the new number.
    """

    def __init__(self, supervisor: Supervisor, span: Span, idle_s: float, on_change: Callable[[int], object]) -> None:
        self._supervisor = supervisor
        self._span = span
        self._idle_s = idle_s
        self._on_change = on_change
        self._idle: set[str] = set()
        """The workers that were idle at the look before."""
        self._memory = Memory.at_start(supervisor.count, time.monotonic())
        self.starting = supervisor.count
        """How many workers take no runs yet; 0 once they should, so that others do not rely on what does not start."""

    def look(self, look: Look) -> None:
        """Start workers, or stop idle ones, if the number is to change."""
        supervisor = self._supervisor
        before = supervisor.count
        own = {owner: look.busy[owner] for owner in supervisor.owners if owner in look.busy}
        crew = Crew(before, len(own))
        # What the workers of other supervisors, and those started by hand, carry is not for this one.
        others = look.seen.warm - crew.warm + sum(look.starting.values())
        count, self._memory = target(
            part(look.needed, crew, others, len(look.starting) + 1),
            crew,
            self._memory,
            time.monotonic(),
            span=self._span,
            idle_s=self._idle_s,
        )
        # What a worker says is up to a second late, so that of one look may be of before its first run.
        idle = {owner for owner, busy in own.items() if busy == 0}
        supervisor.scale(count, idle & self._idle)
        self._idle = idle
        is_settling = time.monotonic() - self._memory.grew_at < SETTLE_S
        self.starting = max(0, supervisor.count - crew.warm) if is_settling else 0
        if supervisor.count == before:
            return
        self._on_change(supervisor.count)
        why = f"no more were needed for {self._idle_s:g} s"
        if supervisor.count > before:
            why = f"{counted(look.seen.waiting, 'run')} waited without room"
        logger.info("workers: %d instead of %d (%s): %s", supervisor.count, before, self._span, why)
