"""The runs that are executing in this process, on either path: starting, ending, cancelling and losing them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from offramp.core import events, moving
from offramp.core.belief import Estimate, Progress
from offramp.core.critical import Interval
from offramp.core.departures import Departures
from offramp.core.leaving import OVER, State
from offramp.core.run import Outcome, Path, RunRecord
from offramp.core.shares import Refusal, Shares
from offramp.core.timestamps import rfc3339
from offramp.core.tracebacks import written
from offramp.errors import LeaseLost, StoreError
from offramp.execution.ending import log_failure
from offramp.execution.history import History
from offramp.execution.observer import Observer
from offramp.execution.run_facts import RunFacts
from offramp.execution.runner import Execution
from offramp.execution.scope import Scope
from offramp.paths.early import EarlyDemotion
from offramp.paths.first_events import FirstEvents
from offramp.paths.learning import Learning, fast_of
from offramp.paths.outcomes import cancelled, expired, terminal_event
from offramp.paths.process import Process
from offramp.paths.slo import ServiceLevels
from offramp.paths.stats import RunStats
from offramp.paths.verdicts import Verdicts
from offramp.ports.clock import Timer
from offramp.ports.commit import Commit, call_threadsafe
from offramp.ports.store import Lease, RunLog
from offramp.telemetry.logs import FRAMES, about

if TYPE_CHECKING:
    from offramp.telemetry.run_trace import RunTrace

logger = logging.getLogger("offramp")


class LiveRun(Observer):
    """One executing run.

    Args:
        process: this process.
        record: of the run.
        runlog: its log, with the lease under which it executes.
        history: of earlier executions.
        trace: its spans, if it is traced.
        runs: the executing runs of this process, which handle what it reports.
    """

    def __init__(
        self,
        process: Process,
        record: RunRecord,
        runlog: RunLog,
        history: History,
        trace: RunTrace | None,
        runs: LiveRuns,
    ) -> None:
        self._process = process
        self._runs = runs
        self.record = record
        self.log = runlog
        self.began = process.clock.monotonic()
        self.began_on: Path = record.path
        self.waited_s = 0.0
        """How much of its budget its request waited for its place."""
        if record.path == "fast" and record.started_at is not None:
            self.waited_s = max(0.0, record.started_at - record.created_at)
        self._before = history.entries, process.clock.time()
        self._earlier: Sequence[Interval] | None = None if history.entries else ()
        """When it moved in earlier executions, once that is asked: their journal may be long."""
        self.timers: list[Timer] = []
        self.left: Commit[None] = Commit()
        """Resolved when it no longer executes here."""
        self._changes: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        scope = Scope(
            RunFacts.of(record, process.clock, self.began),
            runlog,
            process.steps,
            process.clock,
            history,
            process.metrics,
            lease_window=process.lease_window,
            trace=trace,
            store_value=process.values.of(record.id),
            observer=self,
        )
        scope.record_arguments = process.settings.record_arguments
        self.execution = Execution(
            process.pipelines[record.pipeline],
            record.input,
            scope,
            lambda outcome, error: runs.ended(self, outcome, error),
            process.settings.max_result_bytes,
        )

    @property
    def state(self) -> State:
        """Its state in this process."""
        return self.execution.scope.gate.state

    @property
    def lease(self) -> Lease:
        """The lease that allows writing it."""
        return self.log.lease

    @property
    def trace(self) -> RunTrace | None:
        """Its spans, if it is traced."""
        return self.execution.scope.trace

    def moved(self) -> Progress:
        """How far it has come, by the time for which it has moved."""
        clock, scope = self._process.clock, self.execution.scope
        now = clock.monotonic()
        shift = clock.time() - now
        still = [(since + shift, until + shift) for since, until in scope.gate.stills(now)]
        fast = None if self.began_on == "fast" else fast_of(self.record)
        if self._earlier is None:
            self._earlier = moving.earlier(*self._before)
        within = {
            key: [(since + shift, until + shift) for since, until in waits]
            for key, waits in scope.gate.stills_within(now).items()
        }
        part = moving.Part(self.began + shift, now + shift, still, within)
        return moving.moved(part, scope.replay.journal.entries, self._earlier, fast)

    def changes(self) -> asyncio.Event:
        """An event that every change of it sets: for the one coroutine that sends it away, on its loop."""
        event = asyncio.Event()
        self._changes = asyncio.get_running_loop(), event
        return event

    async def deliver(self) -> None:
        """Give it the signals sent to it."""
        try:
            received = await self._process.store.signals(self.record.id)
        except StoreError as error:
            logger.error("signals of %s cannot be read yet: %s", self.record.id, error)  # noqa: TRY400 - tried again
            return
        self.execution.call(self.execution.scope.waits.mailbox.put, received)

    # The observer of its scope.

    def cold_started(self) -> None:
        """Count that it waited for a process."""
        self._runs.cold_started(self.record)

    def changed(self) -> None:
        """Wake the coroutine that sends it away."""
        if self._changes is not None:
            loop, event = self._changes
            call_threadsafe(loop, event.set)

    def rests(self) -> None:
        """Report that it may be sent away, or parked."""
        self._runs.waits(self, None)

    def has_to_wait(self, until: float) -> None:
        """Report that it may be sent away."""
        self._runs.waits(self, until)

    def step_ended(self) -> None:
        """Report that it may be looked at."""
        self._runs.early.step_ended(self)

    def waits_for_signal(self) -> None:
        """Check whether the signal has already arrived."""
        self._process.control.spawn(self.deliver())

    def ending_changed(self) -> None:
        """End it, even against its code, when its time to end is over."""
        ending, clock = self.execution.scope.gate.ending, self._process.clock
        if ending.outcome is None or self.state in OVER:
            return
        due = ending.until(self._process.settings.cancel_grace)
        if due > clock.monotonic():
            self.timers.append(clock.call_at(due, self.ending_changed))
        else:
            self.execution.give_up(ending.outcome)


class Watcher:
    """Gets the exception of a run that fails in this process; its creator keeps it alive."""

    def __init__(self) -> None:
        self.error: BaseException | None = None


class LiveRuns:
    """All executing runs of a process; safe to use from any thread.

    Args:
        process: this process.
        made_room: called when a run leaves, or does not begin, and so makes room for another.
        waits: called with a run and None when it seems only to wait, or the time, in epoch seconds, until which a step
            of it has to.
        doomed: see `EarlyDemotion`.
        shows_levels: whether this process's metrics show the service levels of all processes.
    """

    def __init__(
        self,
        process: Process,
        made_room: Callable[[], object],
        waits: Callable[[LiveRun, float | None], object],
        doomed: Callable[[LiveRun, Estimate, Sequence[str]], object],
        *,
        shows_levels: bool = False,
    ) -> None:
        self._process = process
        self.waits = waits
        self.made_room = made_room
        self._runs: dict[str, LiveRun] = {}
        self._lock = threading.Lock()
        self._deep = 0
        self._fast = Shares(process.settings.fast_runs, process.tenancy)
        self._fast_of_class: Counter[str] = Counter()
        self.made_fast_room: Callable[[], object] = lambda: None
        """Called, from any thread, when a place on the fast path is free."""
        self.departures = Departures(process.clock.monotonic())
        """How fast runs leave the fast path."""
        self._reserved: set[str] = set()
        self._unwritten: dict[str, float] = {}
        self.stats = RunStats(process)
        self.learning = Learning(process)
        self.verdicts = Verdicts(process, self.learning)
        self.early: EarlyDemotion[LiveRun] = EarlyDemotion(process, self.learning, self.verdicts, doomed)
        self.levels = ServiceLevels(process, self.stats, shows=shows_levels)
        self.first_events = FirstEvents(process.clock, process.metrics)
        process.store.listen(self.first_events.seen)
        process.metrics.live("fast", lambda: self.count("fast"))
        process.metrics.live("deep", lambda: self.count("deep"))
        self.watchers: weakref.WeakValueDictionary[str, Watcher] = weakref.WeakValueDictionary()
        """Receivers of the exception of a run that fails in this process, by run id."""

    def cold_started(self, record: RunRecord) -> None:
        """A run waited for a process to start, until now; from any thread."""
        self.stats.cold_started(record, self._process.clock.time())

    def start(
        self,
        record: RunRecord,
        runlog: RunLog,
        history: History,
        trace: RunTrace | None = None,
        ending: Outcome | None = None,
    ) -> LiveRun:
        """Begin to execute a run whose lease this process holds; with an `ending`, it ends so."""
        process, clock = self._process, self._process.clock
        stale = self.get(record.id)
        if stale is not None:
            self.drop(stale)  # its lease was lost, and this process claimed the run again before it noticed
        process.feed.begun(record.id)
        run = LiveRun(process, record, runlog, history, trace, self)
        execution = run.execution
        with self._lock:
            self._runs[record.id] = run
            if run.began_on == "deep":
                self._deep += 1
            elif record.id in self._reserved:
                self._reserved.remove(record.id)
            else:
                self._hold(record)
        if record.deadline_at is not None:
            due = run.began + max(0.0, record.deadline_at - clock.time())
            run.timers.append(clock.call_at(due, lambda: execution.end(expired(run.record))))
        if ending is not None:
            execution.end(ending)
        execution.start(process.loops)
        return run

    def get(self, run_id: str) -> LiveRun | None:
        """The run, if it is executing here."""
        return self._runs.get(run_id)

    def all(self) -> list[LiveRun]:
        """Every run executing here now."""
        with self._lock:
            return list(self._runs.values())

    def count(self, path: Path) -> int:
        """The number of runs that began here on this path and are executing, or are about to."""
        return self._fast.total if path == "fast" else self._deep

    def of_class(self, sla: str) -> int:
        """The number of runs of a class that have a place on the fast path."""
        return self._fast_of_class[sla]

    def fast_refusal(self, tenant: str) -> Refusal | None:
        """The reason why this tenant may not start another run on the fast path; None if it may."""
        with self._lock:
            return self._fast.refusal(tenant)

    def reserve(self, record: RunRecord) -> None:
        """Reserve a place on the fast path for a run that is about to start here."""
        with self._lock:
            self._reserved.add(record.id)
            self._hold(record)

    def give_up(self, record: RunRecord) -> None:
        """Give back the place of a run that was not started; a started run keeps its place until it leaves."""
        with self._lock:
            gives_up = record.id in self._reserved
            if gives_up:
                self._reserved.remove(record.id)
                self._let_go(record)
        if gives_up:
            self.made_fast_room()

    def _hold(self, record: RunRecord) -> None:
        self._fast.take(record.tenant)
        self._fast_of_class[record.sla] += 1

    def _let_go(self, record: RunRecord) -> None:
        self._fast.give_back(record.tenant)
        self._fast_of_class[record.sla] -= 1

    def waits_for_store(self, run_id: str) -> None:
        """Note that the run's readers wait for its outcome, or its demotion, to be written."""
        self._unwritten.setdefault(run_id, time.monotonic())

    def is_written(self, run_id: str) -> None:
        """Note that its readers can see it, or that another process writes it."""
        self._unwritten.pop(run_id, None)

    def unwritten_s(self, run_id: str) -> float:
        """Seconds of that wait, by the system's clock, which the store uses; 0 if the run does not wait."""
        since = self._unwritten.get(run_id)
        return 0.0 if since is None else time.monotonic() - since

    def ended(self, run: LiveRun, outcome: Outcome, error: BaseException | None) -> None:
        """End a run whose pipeline is over: its outcome becomes durable, then the terminal event visible."""
        if error is not None and run.execution.scope.gate.ending.outcome is not None:
            log_failure(run.record.id, outcome, error)
            error = None
        watcher = self.watchers.get(run.record.id)
        if watcher is not None:
            watcher.error = error
        if run.trace is not None:
            run.trace.concluded(outcome)
        record = run.record
        progress = run.moved() if self.learning.wants(record) or self.verdicts.wants(record) else None
        self.conclude(record, run.log, outcome, progress)
        self._forget(run)

    def conclude(
        self,
        record: RunRecord,
        runlog: RunLog,
        outcome: Outcome,
        progress: Progress | None = None,
        *,
        elsewhere: bool = False,
    ) -> Commit[None]:
        """Write a run's outcome; resolves when it is on disk.

        Args:
            record: of the run.
            runlog: its log.
            outcome: its outcome.
            progress: how far it had come; None if that is not known, or not wanted.
            elsewhere: whether its steps were executed elsewhere: then the caller learns from it.
        """
        at = self._process.clock.time()
        body = terminal_event(record, outcome)
        self.waits_for_store(record.id)
        written = runlog.finish(outcome, events.draft(body, rfc3339(at)), at)
        teaches = not elsewhere and (progress is not None or self.verdicts.counts(record))

        def settle(commit: Commit[None]) -> None:
            self._concluded(record, outcome, at, commit.error)
            if teaches and commit.error is None:
                self._learn(record, outcome, progress)

        written.then(settle)
        return written

    def _learn(self, record: RunRecord, outcome: Outcome, progress: Progress | None) -> None:
        if progress is None or not self.learning.ended(record, outcome, progress):
            self.verdicts.ended(record, outcome, progress)

    async def ended_elsewhere(self, record: RunRecord, outcome: Outcome) -> None:
        """Learn from a run whose steps were executed by an engine in many processes."""
        is_learned = False
        try:
            is_learned = await self.learning.ended_elsewhere(record, outcome)
        finally:
            if not is_learned:
                self.verdicts.ended(record, outcome, None)

    def _concluded(self, record: RunRecord, outcome: Outcome, at: float, refused: BaseException | None) -> None:
        """Count an outcome that is on disk; a refused one counts in the process that writes it."""
        self.is_written(record.id)
        if refused is None:
            self._process.feed.finished(record.id)
            self._process.metrics.ended(record, outcome, at)
            self.stats.ended(record, outcome, at)
            _log_bad_end(record, outcome)
            return
        self._process.feed.left(record.id)
        self.first_events.forget(record.id)
        if isinstance(refused, LeaseLost):
            self._process.metrics.lost()
            logger.warning("%s: its outcome was not written, as another process has taken over the run", record.id)
        else:
            logger.error("%s: its outcome was not written: %s", record.id, refused)

    def _forget(self, run: LiveRun) -> None:
        with self._lock:
            known = self._runs.get(run.record.id) is run
            if known:
                del self._runs[run.record.id]
                if run.began_on == "deep":
                    self._deep -= 1
                else:
                    self._let_go(run.record)
                    self.departures.add(self._process.clock.monotonic())
        self.early.forget(run.record.id)
        for timer in run.timers:
            timer.cancel()
        run.execution.scope.gate.let_go()
        if known:
            if run.trace is not None:
                run.trace.end()
            run.left.resolve()
            self.made_room()
            if run.began_on == "fast":
                self.made_fast_room()

    def cancel(self, run_id: str) -> bool:
        """Cancel a run; after the grace time it ends without waiting for its steps. False if it is not here."""
        run = self.get(run_id)
        if run is None:
            return False
        run.execution.end(cancelled())  # each renewal repeats the request; cleanup under way continues
        return True

    def drop(self, run: LiveRun) -> None:
        """Stop executing a run that another process owns; this one writes no more of it."""
        run.execution.drop()
        self._forget(run)
        self.is_written(run.record.id)
        self._process.feed.left(run.record.id)
        self.first_events.forget(run.record.id)

    def lost(self, lease: Lease) -> None:
        """End the execution whose lease is lost; an execution of the same run under a newer lease continues."""
        run = self.get(lease.run_id)
        # An ended run is not dropped: the store refuses its outcome, and that is logged.
        if run is not None and run.lease == lease and run.state != "ended":
            self._process.metrics.lost()
            logger.warning("%s: the lease was lost; another process continues it", lease.run_id)
            self.drop(run)


def _log_bad_end(record: RunRecord, outcome: Outcome) -> None:
    """Log the step, the code and the frames of a bad end, without the message of the error, which may hold secrets."""
    if outcome.status not in {"failed", "expired"} or outcome.error is None:
        return
    code, step, attempt = outcome.error.code, outcome.error.step, outcome.error.attempt
    where = "" if step is None else f" in step {step!r} (attempt {attempt})"
    more: dict[str, Any] = {"code": code} if step is None else {"code": code, "step": step, "attempt": attempt}
    frames = written(outcome.error, messages=False)
    if frames:
        more[FRAMES] = frames
    logger.info(
        "%s of %s %s: %s%s", record.id, record.pipeline, outcome.status, code, where, extra=about(record) | more
    )
