"""Looks at the queue and the workers of all processes, and says how many workers the deep path needs.

One figure for the metrics, for the supervisor of a `serve` that scales, and for a scaler outside.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from offramp.core.scaling import LOOK_EVERY_S, NONE, Need, Sight, Span, need
from offramp.errors import StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.parts import Background
from offramp.paths.process import Process
from offramp.ports.store import Owner

logger = logging.getLogger("offramp")


class Look(NamedTuple):
    """What one look showed.

    Attributes:
        seen: the queue and the workers.
        needed: how many workers are needed.
        busy: by the id of each worker that takes runs: how many of its places are taken; None if it has not said it.
        starting: by the id of each other process that scales workers: how many that it has started take no runs yet.
    """

    seen: Sight
    needed: int
    busy: Mapping[str, int | None]
    starting: Mapping[str, int] = MappingProxyType({})


class Keeping(NamedTuple):
    """The workers that this process keeps, and within which bounds it chooses their number."""

    workers: int
    span: Span


class Crewing(Background):
    """Looks every `LOOK_EVERY_S` seconds.

    Args:
        process: this process.
        present: the processes that hold a lease.
        waiting: counts the runs that wait for a worker.
    """

    def __init__(
        self,
        process: Process,
        present: Callable[[], Awaitable[Sequence[Owner]]],
        waiting: Callable[[], Awaitable[int]],
    ) -> None:
        super().__init__(process)
        self._present = present
        self._waiting = waiting
        self._least = sum(sla.min_warm for sla in process.classes.values())
        self.last: Look | None = None
        """The latest look; None before the first."""
        self.keeping = Keeping(0, NONE)
        self.on_look: Callable[[Look], object] = lambda _look: None
        """Called with each look, on the control loop."""

    async def work(self) -> None:
        """Look until the process drains; while the store or the engine is unavailable, nothing changes."""
        clock, before, failed = self._process.clock, Need(0), False
        while not self.is_over:
            try:
                waiting, owners = await self._waiting(), await self._present()
            except StoreError:  # the store's other users say why
                before = Need(0)
            except Exception as error:  # noqa: BLE001 - an engine's own; the next look may succeed
                logger.log(logging.DEBUG if failed else logging.ERROR, "the queue cannot be counted: %s", error)
                before, failed = Need(0), True
            else:
                failed = False
                look, before = self._looked(waiting, owners, before)
                self.last = look
                self._process.metrics.workers_needed(look.needed)
                self.on_look(look)
            await sleep_for(clock, LOOK_EVERY_S)

    def _looked(self, waiting: int, owners: Sequence[Owner], before: Need) -> tuple[Look, Need]:
        clock, each = self._process.clock, self._process.settings.worker_runs
        ready = [owner for owner in owners if owner.ready]
        told = {owner.id: None if owner.about is None else owner.about.busy for owner in ready}
        places = sum((owner.about.places if owner.about is not None else 0) or each for owner in ready)
        seen = Sight(waiting, sum(busy or 0 for busy in told.values()), places, len(ready))
        now = need(seen, before, clock.monotonic(), least=self._least, places_each=each)
        starting = {
            owner.id: owner.about.starting
            for owner in owners
            if owner.id != self._process.id and owner.about is not None and owner.about.starting is not None
        }
        return Look(seen, now.workers, told, starting), now
