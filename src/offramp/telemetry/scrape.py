"""Serves metrics for a scraper, and pages for probes, from a process without a gateway.

A small server on its own threads, so that it answers even while event loops are blocked.
"""

from __future__ import annotations

import http
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

from offramp.core.addresses import PORT_MAX, parse_listen
from offramp.ports import forks

logger = logging.getLogger("offramp")

METRICS = "/metrics"


class Page(NamedTuple):
    """An answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Pages = Mapping[str, Callable[[], Page]]


@contextmanager
def scraped(
    collectors: Iterable[Collector], listen: str, index: int = 0, pages: Pages | None = None
) -> Iterator[WSGIServer | None]:
    """Serve metrics while the block runs; yields the server, or None without one.

    If the address cannot be used, it logs that and continues: no process stops for the sake of its metrics.

    Args:
        collectors: the metrics.
        listen: `HOST:PORT`; "" for no server.
        index: added to the port, unless that is 0.
        pages: other pages by path; each is made on a thread of the server.
    """
    address = parse_listen(listen)
    server = None if address is None else _started(_application(collectors, pages or {}), *address, index)
    try:
        yield server
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


def _started(application: Any, host: str, port: int, index: int) -> WSGIServer | None:
    wanted = port + index if port else 0
    try:
        if wanted > PORT_MAX:
            raise OSError(0, f"there is no such port, the last is {PORT_MAX}")
        family, *_, (address, *_) = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
        server = (_Server6 if family is socket.AF_INET6 else _Server)((str(address), wanted), _Silent)
    except OSError as error:
        logger.error("no metrics here, cannot listen on %s port %d: %s", host, wanted, error.strerror or error)  # noqa: TRY400
        return None
    server.set_app(application)
    threading.Thread(target=server.serve_forever, name="offramp-metrics", daemon=True).start()
    shown = f"[{host}]" if ":" in host else host
    logger.info("metrics at http://%s:%d%s", shown, server.server_port, METRICS)
    return server


def _application(collectors: Iterable[Collector], pages: Pages) -> Any:
    """The WSGI application (PEP 3333)."""
    registry = CollectorRegistry(auto_describe=True)
    for collector in collectors:
        registry.register(collector)
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == METRICS:
            return metrics(environ, start_response)  # type: ignore[no-any-return]
        page = pages[path]() if path in pages else _unknown(pages)
        start_response(f"{page.status} {http.HTTPStatus(page.status).phrase}", page.headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else page.body]

    return application


def _unknown(pages: Pages) -> Page:
    body = f"served here: {', '.join([METRICS, *pages])}\n".encode()
    return Page(404, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))], body)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        forks.on_fork(self)

    def forked(self) -> None:
        """In a forked child: the port is the parent's."""
        forks.close_copy(self.fileno())


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - overrides
        """Log nothing: probes come every few seconds."""
