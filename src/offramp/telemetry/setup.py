"""Switches telemetry on for a process, by the standard `OTEL_*` variables, and off at its end, in bounded time.

An existing provider wins; the program that set it also ends it. No request calls this module.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from offramp.errors import SettingsError
from offramp.ports.extras import install

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

CLOSE_S_MAX = 2.0
"""How long a final export may take when a process ends; the rest is lost."""
LANE_CLOSE_S_MAX = 1.0
"""The same for a lane's process, which its parent waits for."""
LANE_DELAY_MS = 500
"""How long spans of a lane's process wait to be exported; short, since a step's timeout kills it."""
TOLD_EVERY_S = 60.0
"""At most one complaint of the exporters is logged in this time."""

logger = logging.getLogger("offramp.telemetry")


class Plan(NamedTuple):
    """The requested exporters, by the names of their entry points, and the variable that requests them."""

    traces: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    because: str = ""

    def __bool__(self) -> bool:
        return bool(self.traces or self.metrics)


def plan(environment: Mapping[str, str]) -> Plan:
    """Read the requested exporters from the environment.

    `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER` name them; without them, an OTLP endpoint for all signals or for
    one requests OTLP. `OTEL_SDK_DISABLED=true` switches everything off.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Plan()
    traces, because_traces = _wanted(environment, "TRACES")
    metrics, because_metrics = _wanted(environment, "METRICS")
    return Plan(traces, metrics, because_traces or because_metrics)


def _wanted(environment: Mapping[str, str], signal: str) -> tuple[tuple[str, ...], str]:
    variable = f"OTEL_{signal}_EXPORTER"
    named = [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]
    if not named:
        endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        variable = next((name for name in endpoints if environment.get(name)), "")
        named = ["otlp"] if variable else []
    found = tuple(_entry_point(environment, signal, name) for name in named if name.lower() != "none")
    return found, variable if found else ""


def _entry_point(environment: Mapping[str, str], signal: str, name: str) -> str:
    if name != "otlp":
        return name
    for_all = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    protocol = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or for_all
    return "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"


class Telemetry:
    """The providers that `set_up` installed."""

    def __init__(self) -> None:
        self._shutdowns: list[Callable[[], object]] = []

    def add(self, shutdown: Callable[[], object]) -> None:
        """A provider that can be shut down."""
        self._shutdowns.append(shutdown)

    def close(self, within_s: float = CLOSE_S_MAX) -> None:
        """Export the remaining data within a bounded time: a dead backend must not delay the exit."""
        threads = [threading.Thread(target=each, name="offramp-telemetry", daemon=True) for each in self._shutdowns]
        self._shutdowns = []
        ends = time.monotonic() + within_s
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))


def set_up(service: str, kind: str, delay_ms: float | None = None) -> Telemetry:
    """Install the providers that the environment requests, if this process has none.

    Args:
        service: `service.name`, unless the environment names another.
        kind: of this process: gateway, worker, lane, local.
        delay_ms: how long spans wait to be exported together, unless `OTEL_BSP_SCHEDULE_DELAY` is set.

    Raises:
        SettingsError: the SDK or a requested exporter is not installed, or a variable is invalid.
    """
    wanted = plan(os.environ)
    telemetry = Telemetry()
    if not wanted:
        return telemetry
    try:
        import opentelemetry.sdk.resources  # noqa: F401 - whether it is installed
    except ImportError:
        raise SettingsError(
            f"{wanted.because} is set, but the OpenTelemetry SDK is not installed: {install('otel')}, or unset it"
        ) from None
    try:
        resource = _resource(service, kind)
        if wanted.traces:
            _set_up_traces(telemetry, wanted.traces, resource, delay_ms)
        if wanted.metrics:
            _set_up_metrics(telemetry, wanted.metrics, resource)
    except ValueError as error:
        raise SettingsError(f"an OTEL_* variable is invalid: {error}") from error
    _quieten()
    return telemetry


def _resource(service: str, kind: str) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    named = OTELResourceDetector().detect().attributes
    ours = {
        "service.name": service,
        "service.instance.id": f"{kind}-{socket.gethostname()}-{os.getpid()}",
        "offramp.process.kind": kind,
    }
    return Resource.create({name: value for name, value in ours.items() if name not in named})


def _set_up_traces(
    telemetry: Telemetry, exporters: tuple[str, ...], resource: Resource, delay_ms: float | None
) -> None:
    from opentelemetry import propagate, trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from offramp.telemetry.session import SessionProcessor

    propagate.get_global_textmap()  # imported here: it fails if OTEL_PROPAGATORS names one that is not installed
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        logger.info("telemetry: the application's own TracerProvider is used")
        return
    made = [exporter_class("traces", name)() for name in exporters]
    if os.environ.get("OTEL_BSP_SCHEDULE_DELAY"):
        delay_ms = None
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(SessionProcessor())
    for exporter in made:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
    trace.set_tracer_provider(provider)
    telemetry.add(provider.shutdown)


def _set_up_metrics(telemetry: Telemetry, exporters: tuple[str, ...], resource: Resource) -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    if isinstance(metrics.get_meter_provider(), MeterProvider):
        logger.info("telemetry: the application's own MeterProvider is used")
        return
    made = [exporter_class("metrics", name)() for name in exporters]
    readers = [each if isinstance(each, MetricReader) else PeriodicExportingMetricReader(each) for each in made]
    provider = MeterProvider(readers, resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    telemetry.add(provider.shutdown)


def endpoint(environment: Mapping[str, str], signal: str) -> str:
    """Where OTLP over HTTP sends `traces` or `metrics` (OTLP Exporter, "Endpoint URLs for OTLP/HTTP")."""
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
    own = environment.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return own or f"{base.removesuffix('/')}/v1/{signal}"


def exporter_class(signal: str, name: str) -> Any:
    """The class of an installed exporter, by the name of its entry point.

    Raises:
        SettingsError: no exporter of this name is installed.
    """
    found = list(metadata.entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
    if not found:
        known = sorted({each.name for each in metadata.entry_points(group=f"opentelemetry_{signal}_exporter")})
        hint = "pip install opentelemetry-exporter-otlp-proto-grpc, or unset OTEL_EXPORTER_OTLP_PROTOCOL"
        raise SettingsError(
            f"no exporter {name!r} for {signal} is installed; installed: {', '.join(known) or 'none'}"
            + (f"; {hint}" if name == "otlp_proto_grpc" else f"; {install('otel')} adds otlp")
        )
    return found[0].load()


class Quiet(logging.Handler):
    """Logs complaints of exporters as single lines at a bounded rate: a backend may be dead for days."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + TOLD_EVERY_S
            logger.warning("telemetry: %s", " ".join(record.getMessage().split())[:300])


def _quieten() -> None:
    handler = Quiet()
    for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, Quiet) for each in logger.handlers):
            logger.addHandler(handler)
            logger.propagate = False
