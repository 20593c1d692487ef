"""The gateway's own Prometheus metrics, in a registry of its own: two gateways in one process do not clash.

Owns names and labels; label values are route templates and statuses, never what a client made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Meter:
    """Counts what the gateway does."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._requests = Counter(
            "offramp_http_requests",
            "Requests by route and status",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "offramp_http_response_seconds",
            "Seconds until the answer began",
            ["route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._streams = Gauge(
            "offramp_open_streams", "Streams now open, by transport", ["transport"], registry=self.registry
        )
        self._events = Counter(
            "offramp_events_sent", "Events sent to readers, by transport", ["transport"], registry=self.registry
        )
        self._extra: list[Collector] = []

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """An answer began."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    @contextmanager
    def streaming(self, transport: str) -> Iterator[Counter]:
        """A stream is open; the counter takes the events sent through it."""
        gauge = self._streams.labels(transport)
        gauge.inc()
        try:
            yield self._events.labels(transport)
        finally:
            gauge.dec()

    def include(self, collectors: Iterable[Collector]) -> None:
        """Show these as well, in place of those of a service that ran before."""
        for collector in self._extra:
            self.registry.unregister(collector)
        self._extra = list(collectors)
        for collector in self._extra:
            self.registry.register(collector)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, as Accept prefers."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
