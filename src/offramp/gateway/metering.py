"""The gateway's metrics, in their own registry so that two gateways in one process do not clash.

Label values are route templates and statuses, never text from a client. The table of instruments has the names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from offramp.telemetry import names
from offramp.telemetry.bridge import show
from offramp.telemetry.instruments import GATEWAY, Board


class Meter:
    """The gateway's instruments."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        board = self._board = Board(GATEWAY)
        for collector in board.collectors:
            self.registry.register(collector)
        self._requests = board[names.HTTP_REQUESTS]
        self._seconds = board[names.HTTP_RESPONSE]
        self._streams = board[names.OPEN_STREAMS]
        self._events = board[names.EVENTS_SENT]
        self._extra: list[Collector] = []

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record an answer that began."""
        self._requests[method, route, str(status)].inc()
        self._seconds[route,].observe(seconds)

    @contextmanager
    def streaming(self, transport: str) -> Iterator[Counter]:
        """Count a stream as open during the block; yields the counter of its events."""
        gauge = self._streams[transport,]
        gauge.inc()
        try:
            yield self._events[transport,]
        finally:
            gauge.dec()

    def show(self) -> None:
        """Export to OpenTelemetry too, if the program has set a meter provider by now."""
        show(self._board)

    def include(self, collectors: Iterable[Collector]) -> None:
        """Expose these as well, in place of those of an earlier service."""
        for collector in self._extra:
            self.registry.unregister(collector)
        self._extra = list(collectors)
        for collector in self._extra:
            self.registry.register(collector)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that Accept prefers, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type
