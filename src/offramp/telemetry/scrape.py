"""Metrics of a process that speaks no HTTP of its own: a small server on a thread of its own, for a scraper."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

from offramp.core.addresses import PORT_MAX, parse_listen

log = logging.getLogger("offramp")


@contextmanager
def scraped(collectors: Iterable[Collector], listen: str, index: int = 0) -> Iterator[WSGIServer | None]:
    """Serve metrics while the block runs; gives the server, None where there is none.

    An address that cannot be listened on is said in the log and no more: nothing stops for the sake of its metrics.

    Args:
        collectors: what is shown.
        listen: `HOST:PORT`, "" for nowhere.
        index: added to the port, unless that is 0.
    """
    address = parse_listen(listen)
    server = None if address is None else _started(collectors, *address, index)
    try:
        yield server
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


def _started(collectors: Iterable[Collector], host: str, port: int, index: int) -> WSGIServer | None:
    registry = CollectorRegistry(auto_describe=True)
    for collector in collectors:
        registry.register(collector)
    wanted = port + index if port else 0
    try:
        if wanted > PORT_MAX:
            raise OSError(0, f"there is no such port, the last is {PORT_MAX}")
        server, _ = start_http_server(wanted, host, registry)
    except OSError as error:
        log.error("no metrics here, cannot listen on %s port %d: %s", host, wanted, error.strerror or error)  # noqa: TRY400
        return None
    shown = f"[{host}]" if ":" in host else host
    log.info("metrics at http://%s:%d/metrics", shown, server.server_port)
    return server
