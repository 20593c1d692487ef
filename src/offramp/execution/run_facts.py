"""The facts of a run for its execution, and the view of them by `current_run()`. No journal, no waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from offramp.core.run import Path, RunRecord
from offramp.execution.context import Run

if TYPE_CHECKING:
    from offramp.ports.bodies import Facts
    from offramp.ports.clock import Clock


class RunFacts:
    """The facts of a run that stay the same while it executes here, and the few that change."""

    def __init__(  # noqa: PLR0913
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
        not_before: float,
        keys_of: str,
        clock: Clock,
        sla: str,
        tenant: str,
        priority: int,
    ) -> None:
        self.run_id = run_id
        self.pipeline = pipeline
        self.version = version
        self.session_id = session_id
        self.metadata = metadata
        self.sla = sla
        self.tenant = tenant
        self.priority = priority
        """Of its class, when it was accepted."""
        self.path = path
        self.cancelled = False
        self.not_before = not_before
        """The time, in epoch seconds, before which no call of the body was made, even if its journal is older."""
        self._keys_of = keys_of
        self._budget_ends = budget_ends
        self._deadline_at = deadline_at
        self._clock = clock

    @classmethod
    def of(cls, record: RunRecord, clock: Clock, began: float) -> RunFacts:
        """The start of a run that began in this process, on the monotonic clock."""
        return cls(
            run_id=record.id,
            pipeline=record.pipeline,
            version=record.version,
            session_id=record.session_id,
            metadata=record.metadata,
            path=record.path,
            budget_ends=began + record.budget_s,
            deadline_at=record.deadline_at,
            not_before=0.0 if record.retry_of is None else record.created_at,
            keys_of=record.keys_of or record.id,
            clock=clock,
            sla=record.sla,
            tenant=record.tenant,
            priority=record.priority,
        )

    @classmethod
    def deep(cls, facts: Facts, clock: Clock) -> RunFacts:
        """The facts of a run on the deep path, which has no budget."""
        return cls(
            run_id=facts.run_id,
            pipeline=facts.pipeline,
            version=facts.version,
            session_id=facts.session_id,
            metadata=facts.metadata,
            path="deep",
            budget_ends=0.0,
            deadline_at=facts.deadline_at,
            not_before=facts.not_before,
            keys_of=facts.keys_of or facts.run_id,
            clock=clock,
            sla=facts.sla,
            tenant=facts.tenant,
            priority=facts.priority,
        )

    @property
    def deadline_at(self) -> float | None:
        """The deadline of the run, in epoch seconds."""
        return self._deadline_at

    def remaining(self) -> float:
        """Seconds left, see `Run.remaining`."""
        if self.path == "fast":
            return max(0.0, self._budget_ends - self._clock.monotonic())
        if self._deadline_at is None:
            return math.inf
        return max(0.0, self._deadline_at - self._clock.time())

    def idempotency_key(self, key: str) -> str:
        """A key that is stable over retries and recoveries: made from a run and the step's journal key."""
        return f"{self._keys_of}:{key}"

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
        """The return value of `current_run()`; values that are not given are the current ones."""
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
