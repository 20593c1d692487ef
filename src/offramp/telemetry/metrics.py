"""Counts the events of one process; a scraper sums up processes.

Each method records one event of the runtime; the table of instruments defines the metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, get_args

from offramp.core.run import Outcome, RunRecord
from offramp.core.sla import SLA
from offramp.ports.limits import BreakerState, Level
from offramp.telemetry import names
from offramp.telemetry.bridge import show
from offramp.telemetry.instruments import RUNTIME, Board

CONCURRENCY = "concurrency"
"""The label of the limit on calls at once, beside the notations of windows."""


class Metrics:
    """The metrics of a process; `collectors` go into a registry.

    Args:
        classes: the SLA classes.
    """

    def __init__(self, classes: Mapping[str, SLA] | None = None) -> None:
        board = self._board = Board(RUNTIME)
        self._accepted = board[names.RUNS_ACCEPTED]
        self._ended = board[names.RUNS_ENDED]
        self._duration = board[names.RUN_DURATION]
        self._first_event = board[names.FIRST_EVENT]
        self._queue_wait = board[names.QUEUE_WAIT]
        self._steps = board[names.STEPS]
        self._slo_runs = board[names.SLO_RUNS]
        self._commit = board[names.COMMIT_DURATION][()]
        self._operations = board[names.COMMIT_OPERATIONS][()]
        self._expected: dict[str, float] = {}
        self._lock = threading.Lock()
        self._hide: Callable[[], None] = lambda: None
        for sla in (classes or {}).values():
            if sla.p95 is not None:
                board[names.SLA_TARGET][sla.name,].set(sla.p95)

    @property
    def collectors(self) -> list[Any]:
        """All collectors, for a Prometheus registry."""
        return self._board.collectors

    def open(self) -> None:
        """Export to OpenTelemetry too, if the program has set a meter provider."""
        self._hide = show(self._board)
        # Every commit records these two, so they need no look-up.
        self._commit = self._board[names.COMMIT_DURATION][()]
        self._operations = self._board[names.COMMIT_OPERATIONS][()]

    def close(self) -> None:
        """Stop exporting to OpenTelemetry."""
        self._hide()

    # Runs.

    def accepted(self, record: RunRecord) -> None:
        """A request was accepted as a run."""
        self._accepted[record.pipeline, record.sla, record.path].inc()

    def admitted(self, sla: str, seconds: float) -> None:
        """A request of this class waited so long for a place on the fast path, with or without success."""
        self._board[names.ADMISSION_WAIT][sla,].observe(seconds)

    def admitting(self, sla: str, count: Callable[[], int]) -> None:
        """Where to ask how many requests of a class wait for a place."""
        self._board[names.ADMISSION_WAITING][sla,].set_function(count)

    def refused(self, sla: str, code: str) -> None:
        """A request for a run of this class was refused with the error of this code."""
        self._board[names.ADMISSION_REFUSED][sla, code].inc()

    def advised(self, outcome: str) -> None:
        """A rule, a classifier or a feature function was asked about a request."""
        self._board[names.CLASSIFIER][outcome,].inc()

    def ended(self, record: RunRecord, outcome: Outcome, now: float) -> None:
        """A run got its outcome at `now`, in epoch seconds."""
        self._ended[record.pipeline, record.sla, record.path, outcome.status].inc()
        self._duration[record.sla, record.path].observe(max(0.0, now - record.created_at))

    def live(self, path: str, count: Callable[[], int]) -> None:
        """Where to ask how many runs execute."""
        self._board[names.RUNS_LIVE][path,].set_function(count)

    def waiting(self, counts: Mapping[tuple[str, str], int]) -> None:
        """So many runs wait now, by pipeline and kind of wait; of others, none."""
        gauges = self._board[names.RUNS_WAITING]
        for labels in {*gauges, *counts}:
            gauges[labels].set(counts.get(labels, 0))

    def first_event(self, record: RunRecord, seconds: float) -> None:
        """The first event after run.accepted became visible to readers this long after the acceptance."""
        self._first_event[record.sla, record.path].observe(max(0.0, seconds))

    def waited(self, record: RunRecord, seconds: float) -> None:
        """This worker took a run that was sent deep at once, after this time."""
        self._queue_wait[record.sla,].observe(max(0.0, seconds))

    def purged(self, runs: int) -> None:
        """The data of this many runs was removed at the end of their retention."""
        self._board[names.RUNS_PURGED][()].inc(runs)

    # Demotions.

    def demoted(self, reason: str, late_s: float | None) -> None:
        """A run was demoted, `late_s` seconds after the end of its budget if that was the reason."""
        self._board[names.DEMOTIONS][reason,].inc()
        if late_s is not None:
            self._board[names.DEMOTION_DELAY][()].observe(max(0.0, late_s))

    def went_on(self, reason: str, seconds: float) -> None:
        """A worker's first event of a demoted run became visible to readers this long after the demotion."""
        self._board[names.DEMOTION_GAP][reason,].observe(max(0.0, seconds))

    def routed(self, record: RunRecord, decision: str, *, made: bool, wrong_share: float | None) -> None:
        """A run ended, of which the router had decided so; `wrong_share` as `offramp_route_wrong_ratio` has it."""
        labels = record.pipeline, record.sla
        self._board[names.ROUTE_RUNS][*labels, decision, "made" if made else "missed"].inc()
        if record.demotion is not None:
            self._board[names.ROUTE_WAITED][labels].inc(record.demotion.elapsed_ms / 1000)
        if wrong_share is not None:
            self._board[names.ROUTE_WRONG][labels].set(wrong_share)

    # Steps.

    def step(self, pipeline: str, step: str, outcome: Literal["completed", "failed"]) -> None:
        """A step ended."""
        self._steps[pipeline, step, outcome].inc()

    def retrying(self, pipeline: str, step: str) -> None:
        """An attempt failed and another one will follow."""
        self._board[names.STEP_RETRIES][pipeline, step].inc()

    def timed_out(self, pipeline: str, step: str) -> None:
        """An attempt reached its step's timeout."""
        self._board[names.STEP_TIMEOUTS][pipeline, step].inc()

    def abandoned(self, pipeline: str, step: str) -> None:
        """An attempt's code was abandoned because it did not end."""
        self._board[names.STEPS_ABANDONED][pipeline, step].inc()

    def threads_held(self, count: Callable[[], int]) -> None:
        """Where to ask how many threads are held by steps that are over."""
        self._board[names.THREADS_HELD][()].set_function(count)

    def blocked(self, pipeline: str, step: str, seconds: float, *, newly: bool) -> None:
        """A run loop was blocked for this long since the last check; unknown names are empty."""
        if newly:
            self._board[names.LOOP_BLOCKS][pipeline, step].inc()
        self._board[names.LOOP_BLOCKED][pipeline, step].inc(max(0.0, seconds))

    # The store and its leases.

    def committed(self, operations: int, seconds: float) -> None:
        """The store committed a batch."""
        self._operations.observe(operations)
        self._commit.observe(seconds)

    def lost(self) -> None:
        """Another process took a run from this one."""
        self._board[names.LEASES_LOST][()].inc()

    # Processes.

    def cold_start(self, kind: Literal["worker", "lane"], seconds: float) -> None:
        """A process became ready, this long after its start."""
        self._board[names.COLD_START][kind,].observe(max(0.0, seconds))

    def cold_started(self, sla: str) -> None:
        """A run of this class waited for a process to start."""
        self._board[names.COLD_STARTS][sla,].inc()

    def workers_wanted(self, count: int) -> None:
        """This process keeps this many workers running."""
        self._board[names.WORKERS_WANTED][()].set(count)

    def workers_needed(self, count: int) -> None:
        """The deep runs of all processes need this many workers."""
        self._board[names.WORKERS_NEEDED][()].set(count)

    def worker_started(self, owner: str, at: float) -> None:
        """This process started a worker, `at` on the monotonic clock; its start is recorded once it is warm."""
        with self._lock:
            self._expected[owner] = at

    def worker_ended(self, owner: str) -> None:
        """A worker that this process started has ended."""
        with self._lock:
            self._expected.pop(owner, None)

    def workers_warm(self, owners: Collection[str], at: float) -> None:
        """These processes execute deep runs, seen `at` on the monotonic clock."""
        self._board[names.WORKERS_WARM][()].set(len(owners))
        with self._lock:
            new = [self._expected.pop(owner) for owner in owners if owner in self._expected]
        for since in new:
            self.cold_start("worker", at - since)

    # Resources.

    def permitted(self, resource: str, sla: str, waited_s: float) -> None:
        """A call of a run of this class got a permit, after this time."""
        self._board[names.RESOURCE_WAIT][resource, sla].observe(max(0.0, waited_s))

    def called(self, resource: str, how: str, tokens: int) -> None:
        """A call of a resource ended; `tokens` is 0 if it is unknown how many it used."""
        self._board[names.RESOURCE_CALLS][resource, how].inc()
        self._board[names.RESOURCE_TOKENS][resource,].inc(tokens)
        if how in {"throttled", "exhausted"}:
            self._board[names.RESOURCE_THROTTLED][resource,].inc()

    def levels(self, levels: Iterable[Level]) -> None:
        """The resources as they are now, of all processes."""
        board = self._board
        for level in levels:
            name = level.name
            board[names.RESOURCE_IN_USE][name,].set(level.in_use)
            board[names.RESOURCE_SCALE][name,].set(level.scale)
            if level.concurrency is not None:
                board[names.RESOURCE_LIMIT][name, CONCURRENCY].set(level.concurrency)
            for window in level.windows:
                board[names.RESOURCE_LIMIT][name, f"{window.limit} {window.of}"].set(window.scaled)
            waiting = board[names.RESOURCE_WAITING]
            for labels in {*waiting, *((name, sla) for sla in level.waiting)}:
                if labels[0] == name:
                    waiting[labels].set(level.waiting[labels[1]].count if labels[1] in level.waiting else 0)
            if level.breaker is not None:
                for state in get_args(BreakerState):
                    board[names.BREAKER_STATE][name, state].set(level.breaker.state == state)

    def failed_over(self, reason: str) -> None:
        """An attempt of a failover left its target for the next one."""
        self._board[names.FAILOVERS][reason,].inc()

    def hedged(self, *, won: bool) -> None:
        """A second call of a hedged step was decided: it won, or the first one did."""
        self._board[names.HEDGES]["true" if won else "false",].inc()

    # Webhooks.

    def announced(self, result: str, delay_s: float, *, given_up: bool) -> None:
        """An attempt to deliver a webhook message ended, `delay_s` seconds after its event."""
        self._board[names.WEBHOOK_ATTEMPTS][result,].inc()
        if result == "delivered":
            self._board[names.WEBHOOK_DELAY][()].observe(max(0.0, delay_s))
        if given_up:
            self._board[names.WEBHOOKS_GIVEN_UP][()].inc()

    # Service levels.

    def counted(self, sla: str, *, good: bool) -> None:
        """A run that ended in this process counts for its class's target."""
        self._slo_runs[sla, "good" if good else "bad"].inc()

    def service_level(self, sla: str, window: str, within: float | None, burn_rate: float) -> None:
        """The outcomes of a class's runs over a window, in all processes."""
        self._board[names.SLO_WITHIN_TARGET][sla, window].set(float("nan") if within is None else within)
        self._board[names.SLO_BURN_RATE][sla, window].set(burn_rate)
