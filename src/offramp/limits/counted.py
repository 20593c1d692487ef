"""Counts the calls of one process for its metrics, whatever adapter gives the permits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from offramp.ports.limits import Answer, Ask, Done, Granted, Level, Limits, Notify, Refused

if TYPE_CHECKING:
    from offramp.telemetry.metrics import Metrics


class CountedLimits(Limits):
    """Limits whose permits are counted.

    Args:
        limits: give the permits.
        metrics: of this process.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._resources: dict[str, str] = {}
        """Of each permit that was asked for and is not over. Single operations on it are atomic."""
        limits.watch(metrics.levels)

    def ask(self, ask: Ask, notify: Notify) -> None:
        """Ask, and observe the wait once it is over."""
        self._resources[ask.id] = ask.resource

        def answered(answer: Answer) -> None:
            if isinstance(answer, Granted):
                self._metrics.permitted(ask.resource, ask.sla, answer.waited_s)
            elif isinstance(answer, Refused):
                self._resources.pop(ask.id, None)
            notify(answer)

        self._limits.ask(ask, answered)

    def withdraw(self, permit_id: str) -> None:
        """Pass it on: a call that was not made does not count."""
        self._resources.pop(permit_id, None)
        self._limits.withdraw(permit_id)

    def written(self, permit_id: str) -> None:
        """Pass it on."""
        self._limits.written(permit_id)

    def slow(self, permit_id: str) -> None:
        """Pass it on."""
        self._limits.slow(permit_id)

    def done(self, permit_id: str, done: Done) -> None:
        """Count the call, unless it was not made."""
        resource = self._resources.pop(permit_id, None)
        if resource is not None and done.how != "unused":
            self._metrics.called(resource, done.how, done.tokens or 0)
        self._limits.done(permit_id, done)

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """Pass it on."""
        self._limits.lift(run_id, sla, priority)

    def watch(self, notify: Callable[[Sequence[Level]], object]) -> None:
        """Pass it on."""
        self._limits.watch(notify)

    async def levels(self) -> Sequence[Level]:
        """Pass it on."""
        return await self._limits.levels()

    def start(self) -> None:
        """Pass it on."""
        self._limits.start()

    def close(self) -> None:
        """Pass it on."""
        self._limits.close()
