"""Prometheus metrics of one process. They count what happens in this process; a scraper adds processes up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from offramp.core.run import Outcome, RunRecord
from offramp.telemetry import names

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 6.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_LATE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
_WEBHOOK_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0)
_OPERATIONS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000)


class Metrics:
    """What is counted; `collectors` go into a registry."""

    def __init__(self) -> None:
        kinds = [names.PIPELINE, names.CLASS, names.PATH]
        self._accepted = _made(
            Counter, names.RUNS_ACCEPTED, "runs accepted here, by the path they were routed to", kinds
        )
        self._ended = _made(Counter, names.RUNS_ENDED, "runs that ended here", [*kinds, names.OUTCOME])
        self._duration = _made(
            Histogram,
            names.RUN_DURATION,
            "seconds from acceptance to outcome, of runs that ended here",
            [names.CLASS, names.PATH],
            buckets=_SECONDS,
        )
        self._live = _made(
            Gauge, names.RUNS_LIVE, "runs that execute here now, by the path they began on", [names.PATH]
        )
        self._demotions = _made(Counter, names.DEMOTIONS, "runs that left the fast path here", [names.REASON])
        self._delay = _made(
            Histogram,
            names.DEMOTION_DELAY,
            "seconds from the end of the budget to the durable run.demoted event",
            [],
            buckets=_LATE_SECONDS,
        )
        self._commit = _made(
            Histogram, names.COMMIT_DURATION, "seconds of one group commit", [], buckets=_COMMIT_SECONDS
        )
        self._operations = _made(
            Histogram, names.COMMIT_OPERATIONS, "operations in one group commit", [], buckets=_OPERATIONS
        )

        self._webhook_attempts = _made(
            Counter,
            names.WEBHOOK_ATTEMPTS,
            "attempts to deliver a webhook message, by what came of them",
            [names.RESULT],
        )
        self._webhooks_given_up = _made(
            Counter, names.WEBHOOKS_GIVEN_UP, "webhook messages that were not delivered within a day", []
        )
        self._webhook_delay = _made(
            Histogram,
            names.WEBHOOK_DELAY,
            "seconds from an event to the delivery of its webhook message",
            [],
            buckets=_WEBHOOK_SECONDS,
        )

    @property
    def collectors(self) -> list[Any]:
        """Everything, for a Prometheus registry."""
        return list(vars(self).values())

    def accepted(self, record: RunRecord) -> None:
        """A request became a run."""
        self._accepted.labels(record.pipeline, record.sla, record.path).inc()

    def ended(self, record: RunRecord, outcome: Outcome, now: float) -> None:
        """A run got its outcome at `now`, in epoch seconds."""
        self._ended.labels(record.pipeline, record.sla, record.path, outcome.status).inc()
        self._duration.labels(record.sla, record.path).observe(max(0.0, now - record.created_at))

    def live(self, path: str, count: Callable[[], int]) -> None:
        """Where to ask how many runs execute."""
        self._live.labels(path).set_function(count)

    def demoted(self, reason: str, late_s: float | None) -> None:
        """A run was demoted, `late_s` seconds after the end of its budget if that was the reason."""
        self._demotions.labels(reason).inc()
        if late_s is not None:
            self._delay.observe(max(0.0, late_s))

    def committed(self, operations: int, seconds: float) -> None:
        """The store committed a batch."""
        self._operations.observe(operations)
        self._commit.observe(seconds)

    def announced(self, result: str, delay_s: float, *, given_up: bool) -> None:
        """An attempt to deliver a webhook message was over, `delay_s` seconds after its event."""
        self._webhook_attempts.labels(result).inc()
        if result == "delivered":
            self._webhook_delay.observe(max(0.0, delay_s))
        if given_up:
            self._webhooks_given_up.inc()


def _made(kind: Any, name: str, meaning: str, labels: list[str], **options: Any) -> Any:
    # Into no registry yet: several services may live in one process, each with its own.
    made = kind(name, meaning, labels, registry=None, **options)
    # Looking a child up takes longer than counting. Labels are few: what is declared, and words of ours.
    made.labels = functools.cache(made.labels)
    return made
