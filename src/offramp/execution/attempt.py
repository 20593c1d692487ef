"""One attempt of a step: what `current_run` and `emit` reach while the step's own code runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from offramp.core import events
from offramp.core.run import Path
from offramp.core.timestamps import rfc3339
from offramp.errors import OutsideRun
from offramp.execution.context import Run
from offramp.execution.endings import Watch
from offramp.execution.waiting import sleep_for

if TYPE_CHECKING:
    from offramp.core.spec import StepSpec
    from offramp.execution.scope import Scope
    from offramp.execution.threads import Place
    from offramp.ports.bodies import Facts
    from offramp.ports.clock import Clock
    from offramp.telemetry.run_trace import StepTrace


class RunFacts:
    """What stays the same about a run while it executes here, and the few things that change under it."""

    def __init__(
        self,
        *,
        run_id: str,
        pipeline: str,
        version: str,
        session_id: str | None,
        metadata: dict[str, str],
        path: Path,
        budget_ends: float,
        deadline_at: float | None,
        clock: Clock,
    ) -> None:
        self.run_id = run_id
        self.pipeline = pipeline
        self.version = version
        self.session_id = session_id
        self.metadata = metadata
        self.path = path
        self.cancelled = False
        self._budget_ends = budget_ends
        self._deadline_at = deadline_at
        self._clock = clock

    @classmethod
    def deep(cls, facts: Facts, clock: Clock) -> RunFacts:
        """Of a run on the deep path, which has no budget."""
        return cls(
            run_id=facts.run_id,
            pipeline=facts.pipeline,
            version=facts.version,
            session_id=facts.session_id,
            metadata=facts.metadata,
            path="deep",
            budget_ends=0.0,
            deadline_at=facts.deadline_at,
            clock=clock,
        )

    @property
    def deadline_at(self) -> float | None:
        """When the run has to end, in epoch seconds."""
        return self._deadline_at

    def remaining(self) -> float:
        """Seconds left, see `Run.remaining`."""
        if self.path == "fast":
            return max(0.0, self._budget_ends - self._clock.monotonic())
        if self._deadline_at is None:
            return math.inf
        return max(0.0, self._deadline_at - self._clock.time())

    def idempotency_key(self, key: str) -> str:
        """Stable over retries and recoveries: made of the run and the step's journal key."""
        return f"{self.run_id}:{key}"

    def view(
        self,
        step: str | None,
        attempt: int,
        key: str | None,
        *,
        path: Callable[[], Path] | None = None,
        remaining: Callable[[], float] | None = None,
        cancelled: Callable[[], bool] | None = None,
        replaying: Callable[[], bool] = lambda: False,
    ) -> Run:
        """What `current_run()` returns; what nothing else is given for is as it is now."""
        return Run(
            run_id=self.run_id,
            pipeline=self.pipeline,
            session_id=self.session_id,
            metadata=self.metadata,
            step=step,
            attempt=attempt,
            idempotency_key=None if key is None else self.idempotency_key(key),
            path=path or (lambda: self.path),
            remaining=remaining or self.remaining,
            cancelled=cancelled or (lambda: self.cancelled),
            replaying=replaying,
        )


class Again(NamedTuple):
    """An attempt failed, and another is to follow after so many seconds."""

    delay_s: float
    error: Exception


class Attempt:
    """An attempt that is executing; `live` turns False when it is over, and then it can emit no more."""

    __slots__ = ("cleans_up", "key", "live", "number", "place", "scope", "spec", "trace", "watch")

    def __init__(self, scope: Scope, spec: StepSpec, key: str, number: int, trace: StepTrace | None) -> None:
        self.scope = scope
        self.spec = spec
        self.key = key
        self.number = number
        self.live = True
        self.place: Place | None = None
        """The thread that it was given, where its step needs one."""
        self.cleans_up = False
        """Whether it belongs to a cleanup, which goes on though its run is cancelled."""
        self.watch: Watch | None = None
        """Of its task, once it has waited for something."""
        self.trace = trace

    def waits(self) -> Watch:
        """It is about to wait, and so may be cancelled from here on."""
        if self.watch is None:
            self.watch = Watch(self.scope.turnstile.turns.loop)
        return self.watch

    @property
    def clock(self) -> Clock:
        """The injected clock."""
        return self.scope.clock

    def run(self) -> Run:
        """The view of the run from inside the step."""
        return self.scope.facts.view(self.spec.name, self.number, self.key, cancelled=self._is_cancelled)

    @property
    def replaying(self) -> bool:
        """A step that executes is new."""
        return False

    def _is_cancelled(self) -> bool:
        if self.place is not None and self.place.is_held:
            return True  # it has timed out, or is not waited for any more
        return self.scope.facts.cancelled and not (self.cleans_up and self.scope.state != "closed")

    def emit(self, encoded: bytes) -> None:
        """A delta of this attempt; dropped when the attempt has timed out or its run has ended."""
        if self.live and self.scope.state != "closed":
            body = events.StepDelta(self.spec.name, self.key, self.number, msgspec.Raw(encoded))
            self.announce(body, self.scope.clock.time())

    def announce(self, body: events.Body, at: float) -> None:
        """Append an event of this attempt; `at` in epoch seconds."""
        self.scope.log.append(None, events.draft(body, rfc3339(at)))

    def value(self, _name: str, compute: Callable[[], Any]) -> Any:
        """Inside a step nothing is journaled but its result."""
        return compute()

    async def sleep(self, seconds: float) -> None:
        """A plain wait, by the injected clock."""
        await sleep_for(self.scope.clock, seconds)

    async def signal(self, name: str, timeout: float | None) -> bytes:
        """Signals are waited for in the pipeline's body."""
        raise OutsideRun(f"signal({name!r}) works in the pipeline's body, not inside step {self.spec.name!r}")

    def cleanup(self, _timeout: float) -> AbstractAsyncContextManager[object]:
        """A step cleans up after itself."""
        raise OutsideRun(
            f"cleanup() works in the pipeline's body, not inside step {self.spec.name!r}: use try and finally here"
        )
