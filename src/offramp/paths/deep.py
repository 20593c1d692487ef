"""The deep path in a worker: it calls a claimed run again with its journal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from offramp.core import events
from offramp.core.claims import SUSPECT_DEATHS, LeftBy
from offramp.core.ending import STRUCK, ended_by, struck_by
from offramp.core.failure import failure_of
from offramp.core.journal import Entry, as_seen, steps_in, without_arguments
from offramp.core.run import Outcome, RunRecord
from offramp.core.seed import steps_begun
from offramp.core.sla import SLA
from offramp.core.timestamps import rfc3339
from offramp.core.waits import waits_in
from offramp.errors import LeaseLost, ObjectLost, StoreError
from offramp.execution.history import History
from offramp.execution.waiting import sleep_for
from offramp.paths.live import LiveRuns
from offramp.paths.outcomes import cancelled, expired, how_processes_ended, killed
from offramp.paths.process import Process
from offramp.ports.engine import RunHost
from offramp.ports.store import Claim, Lease, RunLog, Store
from offramp.telemetry.logs import about

if TYPE_CHECKING:
    from offramp.telemetry.run_trace import RunTrace

logger = logging.getLogger("offramp")

UNREADABLE_EVERY_S = 1.0
"""The interval of attempts to read a history that the store could not return."""
STEPLESS_DEATHS_FACTOR = 10
"""Deaths between steps are seldom the run's fault: this many times as many deaths are allowed there."""


class DeepPath(RunHost):
    """Executes claimed runs; the engine calls it."""

    def __init__(self, process: Process, live: LiveRuns) -> None:
        self._process = process
        self._live = live
        self._starting = 0
        self.ready_at = -math.inf
        """When this process was ready, in epoch seconds: a run that waited before waited for its start."""

    @property
    def starting(self) -> int:
        """Claimed runs whose history is still being read."""
        return self._starting

    @property
    def pipelines(self) -> list[str]:
        """The names this process can execute."""
        return list(self._process.pipelines)

    @property
    def classes(self) -> Mapping[str, SLA]:
        """The classes that it knows, by name."""
        return self._process.classes

    def free(self) -> int:
        """How many more deep runs fit."""
        return self._process.settings.worker_runs - self._live.count("deep") - self._starting

    def places(self) -> tuple[int, int]:
        """The places that are taken here, and how many there are."""
        most = self._process.settings.worker_runs
        return most - self.free(), most

    def execute(self, claim: Claim) -> None:
        """Begin to execute: at once if there is no journal to replay."""
        if claim.fresh:
            self._process.metrics.waited(claim.record, self._process.clock.time() - claim.record.created_at)
            self._live.first_events.of_new(claim.record)
            self._began(claim.record)
        if claim.fresh and not claim.record.cancel_requested and claim.record.deadline_at is None:
            runlog, trace = self._process.store.log(claim.lease), self._traced(claim, History(), time.time_ns())
            self._live.start(claim.record, runlog, History(), trace)
            return
        self._starting += 1
        self._process.control.spawn(self._resume(claim, self._process.lease_window.until))

    def _began(self, record: RunRecord) -> None:
        """Count a run that begins here if it waited for the start of this process."""
        since = record.created_at if record.demotion is None else record.demotion.at
        if since < self.ready_at:
            self._live.cold_started(record)

    async def _resume(self, claim: Claim, held_until: float) -> None:
        process, record = self._process, claim.record
        runlog = process.store.log(claim.lease)
        now = process.clock.time()
        began_ns = time.time_ns()  # spans use the system's clock
        try:
            ending = self._ending(record, now)
            if ending is not None and (claim.fresh or record.pipeline not in process.pipelines):
                self._conclude(claim, runlog, ending, began_ns)  # no body of the run needs cleanup
                self._live.made_room()
                return
            try:
                history = (await self.whole_history(record.id))._replace(deaths=record.deaths)
            except ObjectLost as error:
                self._conclude(claim, runlog, ending or Outcome("failed", error=failure_of(error)), began_ns)
                self._live.made_room()
                return
            struck = next((entry for entry in history.entries if entry.key == STRUCK), None)
            if struck is not None:
                ending = ended_by(struck_by(struck), record.deadline_at)
            if process.clock.monotonic() >= held_until:
                await runlog.durable()  # `confirm` does not know a run that is still starting
            alone_max = process.settings.process_deaths * (1 if history.under_way else STEPLESS_DEATHS_FACTOR)
            if record.deaths_alone >= alone_max:
                self._conclude(claim, runlog, ending or self._given_up(record, runlog, history), began_ns)
                self._live.made_room()
                return
        except LeaseLost as error:
            logger.info("%s", error)
            self._live.made_room()
            return
        finally:
            self._starting -= 1
        if not claim.fresh:
            if not history.resumed:
                self._live.first_events.of_demoted(record)
                self._began(record)
            if _is_new_retry(record):
                process.metrics.waited(record, now - record.created_at)
            replayed = _replayed(history)
            body = events.RunResumed(process.id, replayed, _why_here(record, history))
            runlog.append(None, events.draft(body, rfc3339(now)))
            logger.info("resuming %s from its journal (%d steps recorded)", record.id, replayed, extra=about(record))
            if record.deaths:
                logger.warning("%s is executed again: %s", record.id, _why_again(record), extra=about(record))
        self._live.start(record, runlog, history, self._traced(claim, history, began_ns), ending)

    @staticmethod
    def _ending(record: RunRecord, now: float) -> Outcome | None:
        """The outcome of a run that was cancelled, or reached its deadline, while no process executed it."""
        if record.cancel_requested:
            return cancelled()
        return expired(record) if record.deadline_at is not None and record.deadline_at <= now else None

    def _conclude(self, claim: Claim, runlog: RunLog, outcome: Outcome, began_ns: int) -> None:
        """End a run without executing it again."""
        trace = self._traced(claim, History(resumed=True), began_ns)
        if trace is not None:
            trace.concluded(outcome)
            trace.end()
        self._live.conclude(claim.record, runlog, outcome)

    def _traced(self, claim: Claim, history: History, began_ns: int) -> RunTrace | None:
        tracing, record = self._process.tracing, claim.record
        if tracing is None:
            return None
        # A run resumed later, after a death or a wait for example, is not part of the trace that sent it.
        first = claim.fresh or _is_new_retry(record) or (record.demotion is not None and not history.resumed)
        sent_at = record.created_at if record.demotion is None else record.demotion.at
        waited_s = self._process.clock.time() - sent_at if first else None
        return tracing.resume(record, _replayed(history), waited_s, began_ns)

    def _given_up(self, record: RunRecord, runlog: RunLog, history: History) -> Outcome:
        """The outcome of a run that takes down its processes; if one step is known to do so, that step has failed."""
        outcome = killed(record, history.under_way)
        if outcome.error is not None and outcome.error.step is not None:
            [step] = history.under_way
            now = self._process.clock.time()
            body = events.StepFailed(step.name, step.key, step.attempts, 0.0, outcome.error.public())
            entry = Entry(step.key, step.name, "step", None, outcome.error, step.attempts, now)
            runlog.append(entry, events.draft(body, rfc3339(now)))
            self._process.metrics.step(record.pipeline, step.name, "failed")
        return outcome

    async def whole_history(self, run_id: str, patience_s: float | None = None) -> History:
        """The history with every value in it, including values stored as objects; see `Values.whole_entries`."""
        history = await self.history(run_id)
        return history._replace(entries=await self._process.values.whole_entries(history.entries, patience_s))

    async def history(self, run_id: str) -> History:
        """The history of the run. Retries while the store cannot be read, as this process holds the lease."""
        store = self._process.store
        while True:
            try:
                history = await read_history(store, run_id)
                return history._replace(entries=without_arguments(history.entries))
            except StoreError as error:
                logger.error("%s cannot be resumed yet: %s", run_id, error)  # noqa: TRY400 - an operator's matter
            except Exception:
                # After any error, this process must keep the run: a worker that can read its history takes over once
                # this one is replaced.
                logger.exception("%s cannot be resumed by this process: its history cannot be read", run_id)
            await sleep_for(self._process.clock, UNREADABLE_EVERY_S)

    def cancel(self, run_id: str) -> bool:
        """Cancel a run that is executing here."""
        return self._live.cancel(run_id)

    def notice(self, run_id: str) -> bool:
        """Pass on the signals of a run, if it is executing here."""
        run = self._live.get(run_id)
        if run is not None:
            self._process.control.spawn(run.deliver())
        return run is not None

    def listening(self) -> list[str]:
        """The waiting runs here: they check again from time to time, in case a notification was lost."""
        return [run.record.id for run in self._live.all() if run.execution.scope.waits.until() is not None]

    def held(self, until: float) -> None:
        """The lease was renewed."""
        self._process.lease_window.extend(until)

    async def confirm(self) -> None:
        """Ask the store about each run; it reports a lost one by itself."""
        for commit in [run.log.durable() for run in self._live.all()]:
            try:
                await commit
            except LeaseLost as error:
                logger.info("%s", error)

    def lost(self, lease: Lease) -> None:
        """Stop the execution whose lease is lost."""
        self._live.lost(lease)


def _why_here(record: RunRecord, history: History) -> Literal["demotion", "retry"] | LeftBy | None:
    """The reason why a run resumes, in another process or in this one."""
    if _is_new_retry(record):
        return "retry"
    handed_over = record.left_by == "exit" and record.demotion is not None and not history.resumed
    return "demotion" if handed_over else record.left_by


def _is_new_retry(record: RunRecord) -> bool:
    """Whether the records of a run are another one's: it retries that, and no process has executed it."""
    return record.retry_of is not None and record.left_by is None


def _why_again(record: RunRecord) -> str:
    """For an operator: how the processes that executed the run ended, and how many suspects execute beside it now."""
    ended = how_processes_ended(record)
    if record.deaths < SUSPECT_DEATHS:
        return f"{ended} while it was under way"
    beside = record.company - 1
    others = f"at most {beside} other suspects" if beside else "no other suspect"
    return f"{ended} while it was under way; it may be the cause, and executes here beside {others}"


def _replayed(history: History) -> int:
    return steps_in(history.entries)


async def steps_of(store: Store, run_id: str, *, finished: bool = False) -> dict[str, events.StepState]:
    """The steps of a run by key, from its event log."""
    return events.fold_steps([frame.data for frame in await log_of(store, run_id)], finished=finished)


async def read_history(store: Store, run_id: str) -> History:
    """The history of a run, with references to large values, and the arguments that no replay needs."""
    frames = await log_of(store, run_id)
    entries, waits = as_seen(await store.journal(run_id)), waits_in(frames)
    steps = steps_begun(entries) | events.fold_steps([frame.data for frame in frames])
    return History(
        entries,
        {key: step for key, step in steps.items() if step.status in {"running", "retrying"}},
        await store.signals(run_id),
        resumed=any(frame.type == "run.resumed" for frame in frames),
        waiting=frozenset(waits.open),
        refused=frozenset(waits.refused),
    )


async def log_of(store: Store, run_id: str) -> list[events.Frame]:
    """The event log of a run, without emitted values."""
    frames: list[events.Frame] = []
    while part := await store.events(run_id, frames[-1].seq if frames else 0, skip_deltas=True):
        frames += part
    return frames
