"""Every metric in one table, from which Prometheus and OpenTelemetry get the same instruments.

Label values are declared names or members of small sets, never text from a client.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from offramp.telemetry import names

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 6.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_SOON_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_LATE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
_WEBHOOK_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0)
_START_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_OPERATIONS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000)

_SUFFIXES = ("_seconds", "_ratio")


class Instrument(NamedTuple):
    """One metric; `name` is Prometheus' (counters are shown with `_total`), `unit` in UCUM.

    A unit in braces counts things. Gauges of unit `1` are shares, and end in `_ratio`.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()

    @property
    def otel_name(self) -> str:
        """The name in OpenTelemetry, without the unit; OpenTelemetry's Prometheus exporters restore it."""
        name = self.name
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix)
        return name.replace("offramp_", "offramp.", 1)

    @property
    def adds_up(self) -> bool:
        """Whether a sum over several parts of a process is meaningful: for counts it is, for shares it is not."""
        return self.kind == "counter" or self.unit.startswith("{")

    @property
    def shown_name(self) -> str:
        """The name that a scraper sees."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_OF_RUN = (names.PIPELINE, names.CLASS, names.PATH)
_OF_STEP = (names.PIPELINE, names.STEP)

RUNTIME: tuple[Instrument, ...] = (
    Instrument(names.RUNS_ACCEPTED, "counter", "{run}", "runs accepted here, by the path they were routed to", _OF_RUN),
    Instrument(
        names.CLASSIFIER,
        "counter",
        "{call}",
        "calls of rules, classifiers and feature functions: `answered`, `none`, or passed over as `failed`, `invalid`, "
        "`late` or `skipped`",
        (names.OUTCOME,),
    ),
    Instrument(names.RUNS_ENDED, "counter", "{run}", "runs that ended here", (*_OF_RUN, names.OUTCOME)),
    Instrument(
        names.RUN_DURATION,
        "histogram",
        "s",
        "seconds from acceptance to outcome, of runs that ended here",
        (names.CLASS, names.PATH),
        _SECONDS,
    ),
    Instrument(
        names.FIRST_EVENT,
        "histogram",
        "s",
        "seconds from acceptance until a reader can see the first event after run.accepted",
        (names.CLASS, names.PATH),
        _SOON_SECONDS,
    ),
    Instrument(
        names.QUEUE_WAIT,
        "histogram",
        "s",
        "seconds that runs sent deep at once waited until this worker took them",
        (names.CLASS,),
        _SECONDS,
    ),
    Instrument(
        names.ADMISSION_WAIT,
        "histogram",
        "s",
        "seconds that requests waited for a place on the fast path, because the queue had none for their runs",
        (names.CLASS,),
        _SECONDS,
    ),
    Instrument(
        names.ADMISSION_WAITING, "gauge", "{request}", "requests that wait here for a place now", (names.CLASS,)
    ),
    Instrument(
        names.ADMISSION_REFUSED,
        "counter",
        "{request}",
        "requests for runs that were refused with 429 or 503, by the code of the error",
        (names.CLASS, names.REASON),
    ),
    Instrument(names.RUNS_LIVE, "gauge", "{run}", "runs executing here now, by the path they began on", (names.PATH,)),
    Instrument(
        names.RUNS_WAITING,
        "gauge",
        "{run}",
        "runs that wait for a signal or a time, of all processes, as this gateway last saw them",
        (names.PIPELINE, names.KIND),
    ),
    Instrument(names.RUNS_PURGED, "counter", "{run}", "runs whose data was removed at the end of their retention"),
    Instrument(names.DEMOTIONS, "counter", "{run}", "runs that left the fast path here", (names.REASON,)),
    Instrument(
        names.DEMOTION_DELAY,
        "histogram",
        "s",
        "seconds from the end of the budget to the durable run.demoted event",
        (),
        _LATE_SECONDS,
    ),
    Instrument(
        names.DEMOTION_GAP,
        "histogram",
        "s",
        "seconds from a demotion until a reader can see the first event of the worker that resumes the run",
        (names.REASON,),
        _SECONDS,
    ),
    Instrument(
        names.ROUTE_RUNS,
        "counter",
        "{run}",
        "runs that the router left on the fast path, demoted early or sent deep, and that made or missed their budget",
        (names.PIPELINE, names.CLASS, names.DECISION, names.RESULT),
    ),
    Instrument(
        names.ROUTE_WAITED,
        "counter",
        "s",
        "seconds that clients waited on the fast path for runs that then left it, at the end of their budget or early",
        (names.PIPELINE, names.CLASS),
    ),
    Instrument(
        names.ROUTE_WRONG,
        "gauge",
        "1",
        "share of the runs that make their budget that the router took off the fast path, of all processes",
        (names.PIPELINE, names.CLASS),
    ),
    Instrument(names.STEPS, "counter", "{step}", "steps that ended here", (*_OF_STEP, names.OUTCOME)),
    Instrument(names.STEP_RETRIES, "counter", "{attempt}", "failed attempts that are followed by another", _OF_STEP),
    Instrument(names.STEP_TIMEOUTS, "counter", "{attempt}", "attempts that reached their step's timeout", _OF_STEP),
    Instrument(
        names.STEPS_ABANDONED,
        "counter",
        "{attempt}",
        "attempts whose code outlived `cancel_grace` after a timeout or cancellation",
        _OF_STEP,
    ),
    Instrument(names.THREADS_HELD, "gauge", "{thread}", "threads that timed-out or cancelled steps still hold here"),
    Instrument(
        names.LOOP_BLOCKS, "counter", "{block}", "times a run loop was blocked for `blocked_after` or longer", _OF_STEP
    ),
    Instrument(
        names.LOOP_BLOCKED, "counter", "s", "seconds that run loops were blocked, counted as they pass", _OF_STEP
    ),
    Instrument(names.COMMIT_DURATION, "histogram", "s", "seconds of one group commit", (), _COMMIT_SECONDS),
    Instrument(names.COMMIT_OPERATIONS, "histogram", "{operation}", "operations in one group commit", (), _OPERATIONS),
    Instrument(names.LEASES_LOST, "counter", "{lease}", "runs that this process lost to another one"),
    Instrument(
        names.COLD_START,
        "histogram",
        "s",
        "seconds from the start of a process until it can work: a worker, or one of a process lane",
        (names.KIND,),
        _START_SECONDS,
    ),
    Instrument(
        names.COLD_STARTS,
        "counter",
        "{wait}",
        "times that a run waited here for a worker, or a process of a process lane, to start",
        (names.CLASS,),
    ),
    Instrument(names.WORKERS_WARM, "gauge", "{process}", "processes that take deep runs, as this one sees them"),
    Instrument(names.WORKERS_WANTED, "gauge", "{process}", "worker processes that this gateway keeps (`--workers`)"),
    Instrument(
        names.WORKERS_NEEDED,
        "gauge",
        "{process}",
        "workers that the deep runs of all processes need, as this gateway last saw them: for a scaler",
    ),
    Instrument(
        names.WEBHOOK_ATTEMPTS,
        "counter",
        "{attempt}",
        "attempts to deliver a webhook message, by result",
        (names.RESULT,),
    ),
    Instrument(
        names.WEBHOOKS_GIVEN_UP, "counter", "{message}", "webhook messages that were not delivered within a day"
    ),
    Instrument(
        names.WEBHOOK_DELAY,
        "histogram",
        "s",
        "seconds from an event to the delivery of its webhook message",
        (),
        _WEBHOOK_SECONDS,
    ),
    Instrument(
        names.RESOURCE_WAIT,
        "histogram",
        "s",
        "seconds that calls waited here for a permit, by the resource and the class of the run",
        (names.RESOURCE, names.CLASS),
        _SECONDS,
    ),
    Instrument(
        names.RESOURCE_WAITING,
        "gauge",
        "{call}",
        "calls that wait for a permit, of all processes",
        (names.RESOURCE, names.CLASS),
    ),
    Instrument(names.RESOURCE_IN_USE, "gauge", "{call}", "permits in use, of all processes", (names.RESOURCE,)),
    Instrument(
        names.RESOURCE_LIMIT,
        "gauge",
        "{permit}",
        "what a limit of a resource allows, as scaled now: calls at once, or calls or tokens in its window",
        (names.RESOURCE, names.LIMIT),
    ),
    Instrument(
        names.RESOURCE_SCALE,
        "gauge",
        "",
        "part of its declared limits that a resource uses, after the refusals of its provider",
        (names.RESOURCE,),
    ),
    Instrument(
        names.RESOURCE_THROTTLED, "counter", "{call}", "calls that a provider refused here with 429", (names.RESOURCE,)
    ),
    Instrument(names.RESOURCE_TOKENS, "counter", "{token}", "tokens that calls used here", (names.RESOURCE,)),
    Instrument(
        names.RESOURCE_CALLS,
        "counter",
        "{call}",
        "calls of a resource that ended here, by how",
        (names.RESOURCE, names.OUTCOME),
    ),
    Instrument(
        names.BREAKER_STATE,
        "gauge",
        "",
        "1 for the state that the breaker of a resource is in: `closed`, `open` or `half-open`",
        (names.RESOURCE, names.STATE),
    ),
    Instrument(
        names.FAILOVERS,
        "counter",
        "{attempt}",
        "attempts of failovers here that left a target for the next one",
        (names.REASON,),
    ),
    Instrument(
        names.HEDGES, "counter", "{call}", "second calls of hedged steps here, by whether they won", (names.WON,)
    ),
    Instrument(names.SLA_TARGET, "gauge", "s", "target for 95% of a class's runs, if it has one", (names.CLASS,)),
    Instrument(
        names.SLO_RUNS,
        "counter",
        "{run}",
        "runs that ended here and count for their class's target: good within it, bad otherwise",
        (names.CLASS, names.RESULT),
    ),
    Instrument(
        names.SLO_WITHIN_TARGET,
        "gauge",
        "1",
        "share of a class's runs within target, of all processes; NaN without runs",
        (names.CLASS, names.WINDOW),
    ),
    Instrument(
        names.SLO_BURN_RATE,
        "gauge",
        "",
        "rate at which a class spends its error budget, of all processes: 1 spends it exactly",
        (names.CLASS, names.WINDOW),
    ),
)

GATEWAY: tuple[Instrument, ...] = (
    Instrument(
        names.HTTP_REQUESTS,
        "counter",
        "{request}",
        "requests by route and status",
        (names.METHOD, names.ROUTE, names.STATUS),
    ),
    Instrument(names.HTTP_RESPONSE, "histogram", "s", "seconds until the answer began", (names.ROUTE,), _HTTP_SECONDS),
    Instrument(names.OPEN_STREAMS, "gauge", "{stream}", "streams now open, by transport", (names.TRANSPORT,)),
    Instrument(names.EVENTS_SENT, "counter", "{event}", "events sent to readers, by transport", (names.TRANSPORT,)),
)

INSTRUMENTS = RUNTIME + GATEWAY

_KINDS: dict[Kind, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class Series(dict[Labels, Any]):
    """One instrument of a process: its children by label values, made at first use.

    Finding a child with `labels()` costs ten times as much as counting; this is a plain look-up.
    """

    def __init__(self, instrument: Instrument) -> None:
        super().__init__()
        self.instrument = instrument
        more = {"buckets": instrument.buckets} if instrument.kind == "histogram" else {}
        # In no registry yet: several services may share a process, each with its own registry.
        self.metric: MetricWrapperBase = _KINDS[instrument.kind](
            instrument.name, instrument.meaning, instrument.labels, registry=None, **more
        )
        self._record: Any = None

    def __missing__(self, values: Labels) -> Any:
        child: Any = self.metric.labels(*values) if values else self.metric
        if self._record is not None:
            child = _Twin(child, self._record, dict(zip(self.instrument.labels, values, strict=True)))
        self[values] = child
        return child

    def twin(self, record: Any) -> None:
        """From now on, also call `record(value, attributes)`: OpenTelemetry cannot read a histogram's values."""
        self._record = record
        self.clear()


class _Twin:
    """A child of a histogram that records for Prometheus and OpenTelemetry."""

    __slots__ = ("_attributes", "_observe", "_record")

    def __init__(self, child: Histogram, record: Any, attributes: dict[str, str]) -> None:
        self._observe = child.observe
        self._record = record
        self._attributes = attributes

    def observe(self, value: float) -> None:
        self._observe(value)
        self._record(value, self._attributes)


class Board:
    """The instruments of one part of a process, ready to record."""

    def __init__(self, table: tuple[Instrument, ...]) -> None:
        self._series = {instrument.name: Series(instrument) for instrument in table}

    def __getitem__(self, name: str) -> Series:
        """The instrument of that name."""
        return self._series[name]

    def __contains__(self, name: object) -> bool:
        """Whether this part has the metric."""
        return name in self._series

    @property
    def series(self) -> list[Series]:
        """All instruments, in the table's order."""
        return list(self._series.values())

    @property
    def collectors(self) -> list[MetricWrapperBase]:
        """All collectors, for a Prometheus registry."""
        return [series.metric for series in self._series.values()]
