"""The deep path's end in a worker: a claimed run is called again with its journal."""

from __future__ import annotations

import logging

from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.run import RunRecord
from offramp.core.timestamps import rfc3339
from offramp.errors import LeaseLost, StoreError
from offramp.execution.scope import History
from offramp.execution.waiting import sleep_for
from offramp.paths.live import LiveRuns, cancelled, expired, killed
from offramp.paths.process import Process
from offramp.ports.engine import RunHost
from offramp.ports.store import Claim, Lease, RunLog, Store

log = logging.getLogger("offramp")

STEPLESS_DEATHS_FACTOR = 10
"""A death between two steps is seldom the run's own doing: it takes so many times as many for a run to be given up."""


class DeepPath(RunHost):
    """Executes claimed runs; what the engine calls."""

    def __init__(self, process: Process, live: LiveRuns) -> None:
        self._process = process
        self._live = live
        self._starting = 0

    @property
    def starting(self) -> int:
        """Claimed runs whose history is still being read."""
        return self._starting

    @property
    def pipelines(self) -> list[str]:
        """The names this process can execute."""
        return list(self._process.pipelines)

    def free(self) -> int:
        """How many more deep runs fit."""
        return self._process.settings.worker_runs - self._live.count("deep") - self._starting

    def execute(self, claim: Claim) -> None:
        """Begin: at once when nothing has to be replayed."""
        if claim.fresh and not claim.record.cancel_requested and claim.record.deadline_at is None:
            self._live.start(claim.record, self._process.store.log(claim.lease), History())
            return
        self._starting += 1
        self._process.control.spawn(self._resume(claim))

    async def _resume(self, claim: Claim) -> None:
        process, record = self._process, claim.record
        runlog = process.store.log(claim.lease)
        now = process.clock.time()
        try:
            if record.cancel_requested:
                self._live.conclude(record, runlog, cancelled())
                return
            if record.deadline_at is not None and record.deadline_at <= now:
                self._live.conclude(record, runlog, expired(record))
                return
            history = await self.history(record.id)
            in_flight = [step for step in history.interrupted.values() if step.status == "running"]
            deaths_max = process.settings.process_deaths * (1 if in_flight else STEPLESS_DEATHS_FACTOR)
            if record.deaths >= deaths_max:
                self._give_up(record, runlog, in_flight)
                return
        finally:
            self._starting -= 1
        if not claim.fresh:
            replayed = sum(1 for entry in history.entries if entry.kind == "step")
            body = events.RunResumed(process.id, replayed)
            runlog.append(None, events.draft(body, rfc3339(now)))
        self._live.start(record, runlog, history)

    def _give_up(self, record: RunRecord, runlog: RunLog, in_flight: list[events.StepState]) -> None:
        """End a run that takes down its processes; if it is known which step does, that has failed."""
        outcome = killed(record, in_flight)
        if outcome.error is not None and outcome.error.step is not None:
            [step] = in_flight
            now = self._process.clock.time()
            body = events.StepFailed(step.name, step.key, step.attempts, 0.0, outcome.error.public())
            entry = Entry(step.key, step.name, "step", None, outcome.error, step.attempts, now)
            runlog.append(entry, events.draft(body, rfc3339(now)))
        self._live.conclude(record, runlog, outcome)

    async def history(self, run_id: str) -> History:
        """What is known of the run; a store that cannot be read for now is asked again, as the lease is held here."""
        store = self._process.store
        while True:
            try:
                steps = await steps_of(store, run_id)
                return History(
                    await store.journal(run_id),
                    {key: step for key, step in steps.items() if step.status in {"running", "retrying"}},
                    await store.signals(run_id),
                )
            except StoreError as error:
                log.error("%s cannot be resumed yet: %s", run_id, error)  # noqa: TRY400 - an operator's matter
                await sleep_for(self._process.clock, 1.0)

    def cancel(self, run_id: str) -> bool:
        """Cancel a run that is executing here."""
        return self._live.cancel(run_id)

    def notice(self, run_id: str) -> bool:
        """A signal came for a run that may be executing here: pass on what it was sent."""
        run = self._live.get(run_id)
        if run is not None:
            self._process.control.spawn(self._live.deliver(run))
        return run is not None

    def listening(self) -> list[str]:
        """The runs here that wait for something: they look again now and then, should a notification be lost."""
        return [run.record.id for run in self._live.all() if run.execution.scope.parks() is not None]

    def held(self, until: float) -> None:
        """The lease was renewed."""
        self._process.tenure.extend(until)

    async def confirm(self) -> None:
        """Ask the store about each run; of one that is lost, it tells by itself."""
        for commit in [run.log.durable() for run in self._live.all()]:
            try:
                await commit
            except LeaseLost as error:
                log.info("%s", error)

    def lost(self, lease: Lease) -> None:
        """Stop the execution whose lease is gone."""
        self._live.lost(lease)


async def steps_of(store: Store, run_id: str, *, finished: bool = False) -> dict[str, events.StepState]:
    """The steps of a run by key, from its event log."""
    frames: list[bytes] = []
    after = 0
    while True:
        part = await store.events(run_id, after, skip_deltas=True)
        if not part:
            return events.fold_steps(frames, finished=finished)
        frames += [frame.data for frame in part]
        after = part[-1].seq
