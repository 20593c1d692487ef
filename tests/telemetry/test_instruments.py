"""The table of metrics is sound, and both worlds show the same."""

from __future__ import annotations

import re

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from offramp.gateway.metering import Meter
from offramp.telemetry import bridge, names
from offramp.telemetry.instruments import GATEWAY, INSTRUMENTS, RUNTIME, Board, Instrument
from offramp.telemetry.metrics import Metrics


def test_every_name_has_one_instrument():
    named = [value for value in vars(names).values() if isinstance(value, str) and value.startswith("offramp_")]
    assert sorted(named) == sorted(instrument.name for instrument in INSTRUMENTS)


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda instrument: instrument.name)
def test_an_instrument_is_well_formed(instrument):
    assert re.fullmatch(r"offramp(_[a-z]+)+", instrument.name)
    assert instrument.meaning
    assert bool(instrument.buckets) == (instrument.kind == "histogram")
    assert list(instrument.buckets) == sorted(set(instrument.buckets))
    assert instrument.name.endswith("_seconds") == (instrument.unit == "s")
    assert instrument.name.endswith("_ratio") == (instrument.unit == "1")
    assert re.fullmatch(r"offramp\.[a-z_]+", instrument.otel_name)
    assert set(instrument.labels) <= {value for value in vars(names).values() if isinstance(value, str)}


def test_names_are_distinct_in_opentelemetry_too():
    assert len({instrument.otel_name for instrument in INSTRUMENTS}) == len(INSTRUMENTS)


def test_a_series_finds_a_child_once():
    series = Board(RUNTIME)[names.DEMOTIONS]
    first = series["budget",]
    assert series["budget",] is first is series.metric.labels("budget")
    assert series["drain",] is not first


class Seen:
    """What a meter provider collects: values by instrument and attributes."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def points(self):
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            (metric.name, frozenset(point.attributes.items())): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    def value(self, name, **attributes):
        return self.points()[name, frozenset(attributes.items())].value


@pytest.fixture
def otel(monkeypatch):
    seen = Seen()
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: seen.provider)
    yield seen
    seen.provider.shutdown()


def record_everything(board):
    for series in board.series:
        child = series[tuple(f"a {label}" for label in series.instrument.labels)]
        if series.instrument.kind == "histogram":
            child.observe(0.3)
            child.observe(7.0)
        else:
            child.inc(3)


@pytest.mark.parametrize("table", [RUNTIME, GATEWAY], ids=["runtime", "gateway"])
def test_what_prometheus_shows_opentelemetry_shows(otel, table):
    board = Board(table)
    registry = CollectorRegistry()
    for collector in board.collectors:
        registry.register(collector)
    bridge.show(board)
    record_everything(board)
    points = otel.points()
    for instrument in table:
        labels = {label: f"a {label}" for label in instrument.labels}
        point = points.pop((instrument.otel_name, frozenset(labels.items())))
        if instrument.kind == "histogram":
            assert point.explicit_bounds == instrument.buckets
            assert (point.count, point.sum) == (2, 7.3)
            for suffix, value in (("_count", 2), ("_sum", 7.3)):
                assert registry.get_sample_value(instrument.name + suffix, labels) == value
            for place, bound in enumerate(instrument.buckets):
                shown = f"{bound:.1f}" if float(bound).is_integer() else str(bound)
                assert registry.get_sample_value(f"{instrument.name}_bucket", labels | {"le": shown}) == sum(
                    point.bucket_counts[: place + 1]
                )
        else:
            assert point.value == registry.get_sample_value(instrument.shown_name, labels) == 3
    assert points == {}


def test_units_and_meanings_are_told(otel):
    bridge.show(Board(RUNTIME))
    board = Board(RUNTIME)
    bridge.show(board)
    record_everything(board)
    told = {
        metric.name: (metric.unit, metric.description)
        for resource in otel.reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert told == {each.otel_name: (each.unit, each.meaning) for each in RUNTIME}


def test_without_a_provider_nothing_is_shown_and_nothing_is_kept():
    board = Board(RUNTIME)
    bridge.show(board)()
    child = board[names.RUN_DURATION]["quick", "fast"]
    assert child is board[names.RUN_DURATION].metric.labels("quick", "fast")


def test_what_was_counted_before_a_provider_collects_is_shown(otel):
    metrics_of_process = Metrics()
    metrics_of_process.step("research", "search", "completed")
    metrics_of_process.open()
    metrics_of_process.step("research", "search", "completed")
    assert otel.value("offramp.steps", pipeline="research", step="search", outcome="completed") == 2


def test_two_services_in_one_process_add_up_and_a_counter_never_goes_back(otel):
    one, two = Metrics(), Metrics()
    one.open()
    two.open()
    one.live("fast", lambda: 4)
    two.live("fast", lambda: 5)
    for each in (one, two, two):
        each.demoted("budget", None)
    assert otel.value("offramp.demotions", reason="budget") == 3
    assert otel.value("offramp.runs_live", path="fast") == 9
    two.close()
    two.close()
    assert otel.value("offramp.demotions", reason="budget") == 3
    assert otel.value("offramp.runs_live", path="fast") == 4
    three = Metrics()
    three.open()
    three.demoted("budget", None)
    assert otel.value("offramp.demotions", reason="budget") == 4


def test_shares_of_two_services_do_not_add_up(otel):
    both = [Metrics(), Metrics()]
    for each in both:
        each.open()
        each.service_level("quick", "1h", 0.9, 2.0)
    assert otel.value("offramp.slo_within_target", **{"class": "quick", "window": "1h"}) == 0.9
    assert otel.value("offramp.slo_burn_rate", **{"class": "quick", "window": "1h"}) == 2.0


def test_a_gateways_metrics_are_shown_from_its_start_on(otel):
    meter = Meter()
    meter.answered("GET", "/healthz", 200, 0.001)
    meter.show()
    meter.answered("GET", "/healthz", 200, 0.002)
    with meter.streaming("sse") as sent:
        sent.inc(4)
        assert otel.value("offramp.open_streams", transport="sse") == 1
    assert otel.value("offramp.events_sent", transport="sse") == 4
    assert otel.value("offramp.http_requests", method="GET", route="/healthz", status="200") == 2
    (seconds,) = [point for (name, _), point in otel.points().items() if name == "offramp.http_response"]
    assert (seconds.count, seconds.sum) == (1, 0.002)  # histograms from then on, counters from their beginning
    assert 'offramp_http_response_seconds_count{route="/healthz"} 2.0' in meter.exposition("")[0].decode()


def test_only_the_start_of_a_worker_that_became_warm_counts():
    made = Metrics()
    registry = CollectorRegistry()
    for collector in made.collectors:
        registry.register(collector)

    def starts():
        names_of = ("offramp_cold_start_seconds_count", "offramp_cold_start_seconds_sum")
        return [registry.get_sample_value(name, {"kind": "worker"}) for name in names_of]

    made.worker_started("one", 10.0)
    made.worker_started("two", 11.0)
    made.workers_warm([], 12.0)
    assert starts() == [None, None]
    made.worker_ended("two")
    made.workers_warm(["one", "two", "by hand"], 12.5)
    made.workers_warm(["one", "two", "by hand"], 20.0)
    assert starts() == [1, 2.5]
    assert registry.get_sample_value("offramp_workers_warm") == 3


def test_a_share_of_no_runs_is_no_number(otel):
    made = Metrics()
    made.open()
    made.service_level("quick", "1h", None, 0.0)
    registry = CollectorRegistry()
    for collector in made.collectors:
        registry.register(collector)
    assert b'offramp_slo_within_target_ratio{class="quick",window="1h"} NaN' in generate_latest(registry)
    labels = frozenset({"class": "quick", "window": "1h"}.items())
    assert ("offramp.slo_within_target", labels) not in otel.points()


def test_a_unit_is_no_part_of_the_name_in_opentelemetry():
    made = Instrument("offramp_run_duration_seconds", "histogram", "s", "…", (), (1.0,))
    assert (made.otel_name, made.shown_name) == ("offramp.run_duration", "offramp_run_duration_seconds")
    assert Instrument("offramp_steps", "counter", "{step}", "…").shown_name == "offramp_steps_total"
