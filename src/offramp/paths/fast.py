"""The fast path: a run executes in the process that accepted it, under its budget."""

from __future__ import annotations

import logging

from offramp.core.events import Draft
from offramp.core.run import RunRecord
from offramp.errors import LeaseLost, StoreError
from offramp.execution.history import History
from offramp.paths.demote import Demoter
from offramp.paths.live import LiveRuns
from offramp.paths.process import Process
from offramp.ports.store import Created, Idempotency, RunLog

logger = logging.getLogger("offramp")


class FastPath:
    """Starts runs here; the end of the budget, a disconnect or a drain demotes them."""

    def __init__(self, process: Process, live: LiveRuns, demoter: Demoter) -> None:
        self._process = process
        self._live = live
        self._demoter = demoter

    async def start(self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None) -> Created:
        """Begin. The client has no promise yet, so this waits for the store to take the run, not for the disk.

        Raises:
            StoreError: the store refused the run, which is dropped.
        """
        process = self._process
        record.status, record.started_at = "running", record.started_at or record.created_at
        trace = None if process.tracing is None else process.tracing.begin(record)
        held_until = process.lease_window.until
        commit, runlog = process.store.create(
            record, accepted, owner=process.id, durable=False, idempotency=idempotency
        )
        if idempotency is not None:
            created = await commit
            if created.existing is not None or await self._is_lost(runlog, held_until):
                return created
        assert runlog is not None  # noqa: S101 - an owner was given
        self._live.first_events.of_new(record)
        run = self._live.start(record, self._demoter.log_of(runlog), History(), trace)
        if self._live.early.begin(run):
            run.execution.scope.tells_steps = True
        ends = run.began + record.budget_s - run.waited_s
        run.timers.append(
            process.clock.call_at(ends, lambda: process.control.spawn(self._demoter.demote(run, "budget")))
        )
        try:
            return await commit  # the run executes meanwhile; no client learns of one that the store refused
        except StoreError:
            self._live.drop(run)
            raise

    async def _is_lost(self, runlog: RunLog | None, held_until: float) -> bool:
        """Whether another process has already taken over a new run, as this one was silent meanwhile (D2)."""
        if runlog is None or self._process.clock.monotonic() < held_until:
            return False
        try:
            await runlog.durable()
        except LeaseLost as error:
            logger.info("%s", error)
            return True
        return False

    def disconnected(self, run_id: str) -> None:
        """Do what the pipeline declares for a disconnect of its client."""
        run = self._live.get(run_id)
        if run is None or run.record.path != "fast":
            return
        wish = run.execution.spec.on_disconnect
        if wish == "cancel":
            self._live.cancel(run_id)
        elif wish == "demote":
            self._process.control.spawn(self._demoter.demote(run, "disconnect"))
