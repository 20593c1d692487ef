"""Exports the instruments to OpenTelemetry, if the program has set a meter provider.

The provider reads counters and gauges when it collects, so counting costs no more than for Prometheus alone. Histograms
cannot be read that way and are recorded twice.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from offramp.ports import forks
from offramp.telemetry.instruments import INSTRUMENTS, Board, Instrument

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, Observation

SCOPE = "offramp"
Readings = dict[tuple[tuple[str, str], ...], float]


def show(board: Board) -> Callable[[], None]:
    """Export a board from now on; returns the function that ends it and retains its counters.

    Does nothing without a meter provider; a provider that is set later does not get the board.
    """
    from opentelemetry.metrics import get_meter_provider

    provider = get_meter_provider()
    if type(provider).__module__.startswith("opentelemetry.metrics"):
        return lambda: None  # the API's own meters, which do nothing
    shown = _shown(provider.get_meter(SCOPE, metadata.version("offramp")))
    shown.add(board)
    return functools.partial(shown.remove, board)


@functools.cache
def _shown(meter: Meter) -> _Shown:
    # A provider retains the first callback of an instrument and ignores others, so one serves all boards.
    return _Shown(meter)


class _Shown:
    """The instruments of one meter; each exports all boards together."""

    def __init__(self, meter: Meter) -> None:
        self._boards: weakref.WeakSet[Board] = weakref.WeakSet()
        self._past: dict[str, Readings] = {}
        self._lock = threading.Lock()
        forks.on_fork(self)
        self._histograms: dict[str, Any] = {}
        for instrument in INSTRUMENTS:
            given = {"unit": instrument.unit, "description": instrument.meaning}
            observe = functools.partial(self._observe, instrument)
            if instrument.kind == "counter":
                meter.create_observable_counter(instrument.otel_name, [observe], **given)
            elif instrument.kind == "gauge":
                meter.create_observable_gauge(instrument.otel_name, [observe], **given)
            else:
                self._histograms[instrument.name] = meter.create_histogram(
                    instrument.otel_name, **given, explicit_bucket_boundaries_advisory=list(instrument.buckets)
                )

    def forked(self) -> None:
        """In a forked child, whose provider keeps exporting: leave the parent's counts to the parent."""
        self._lock = threading.Lock()
        self._boards.clear()
        self._past.clear()

    def add(self, board: Board) -> None:
        """Export this board too."""
        for series in board.series:
            if series.instrument.kind == "histogram":
                series.twin(self._histograms[series.instrument.name].record)
        with self._lock:
            self._boards.add(board)

    def remove(self, board: Board) -> None:
        """Export the board no longer; its counts remain, because a counter never decreases."""
        with self._lock:
            if board not in self._boards:
                return
            self._boards.discard(board)
            for series in board.series:
                if series.instrument.kind == "counter":
                    _add(self._past.setdefault(series.instrument.name, {}), _read(board, series.instrument))

    def _observe(self, instrument: Instrument, _options: object) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        with self._lock:
            found = dict(self._past.get(instrument.name, {}))
            for board in self._boards:
                if instrument.adds_up:
                    _add(found, _read(board, instrument))
                else:
                    found.update(_read(board, instrument))
        return [Observation(value, dict(labels)) for labels, value in found.items() if math.isfinite(value)]


def _add(to: Readings, more: Readings) -> None:
    for labels, value in more.items():
        to[labels] = to.get(labels, 0.0) + value


def _read(board: Board, instrument: Instrument) -> Readings:
    if instrument.name not in board:
        return {}
    return {
        tuple(sample.labels.items()): sample.value
        for family in board[instrument.name].metric.collect()
        for sample in family.samples
        if sample.name == instrument.shown_name
    }
