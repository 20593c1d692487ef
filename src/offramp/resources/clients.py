"""Clients of httpx and httpx2 whose transports take permits; every option of theirs works as without."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from offramp.core.limits.reading import accepted_encoding
from offramp.errors import MissingExtra
from offramp.resources.requests import Requests
from offramp.resources.transports import Wrap, awaited, plain

CONNECTIONS_MIN = 100
"""The least connections of a client, as httpx has them; as many as `concurrency` where that is more."""
CONNECTIONS_DEFAULT = 1_000
"""The connections of a client for a resource without `concurrency`."""

LIBRARIES = ("httpx", "httpx2")


def client(requests: Requests, library: str | None, options: dict[str, Any]) -> Any:
    """A plain client."""
    module = _module(library)
    return _limited(module.Client(**_with_connections(module, requests, options)), plain(module, requests))


def async_client(requests: Requests, library: str | None, options: dict[str, Any]) -> Any:
    """An async client."""
    module = _module(library)
    return _limited(module.AsyncClient(**_with_connections(module, requests, options)), awaited(module, requests))


def _module(library: str | None) -> Any:
    if library is None:
        library = "httpx2" if importlib.util.find_spec("httpx2") is not None else "httpx"
    if library not in LIBRARIES:
        raise ValueError(f"library= is 'httpx' or 'httpx2', got {library!r}")
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"library={library!r} needs that package: pip install {library}") from error


def _with_connections(module: Any, requests: Requests, options: dict[str, Any]) -> dict[str, Any]:
    """The resource bounds the calls at once; a pool with fewer connections would hold permits that wait for one."""
    connections = max(CONNECTIONS_MIN, requests.spec.concurrency or CONNECTIONS_DEFAULT)
    limits = module.Limits(max_connections=connections, max_keepalive_connections=CONNECTIONS_MIN)
    return {"limits": limits, **options}


def _limited(made: Any, transport: Wrap) -> Any:
    # The libraries have no public way to put something around the transports that a client makes from its options
    # (`verify`, `proxy`, `http2`, proxies of the environment); OpenTelemetry's instrumentation does the same.
    made._transport = transport(made._transport)  # noqa: SLF001
    mounts = made._mounts  # noqa: SLF001
    made._mounts = {pattern: each and transport(each) for pattern, each in mounts.items()}  # noqa: SLF001
    made.headers["accept-encoding"] = accepted_encoding(made.headers.get("accept-encoding", ""))
    return made
