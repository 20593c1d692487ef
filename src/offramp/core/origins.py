"""The origins whose web pages may use the gateway (CORS), as browsers write them in `Origin`. Pure."""

from __future__ import annotations

import ipaddress
import re

ANY_ORIGIN = "*"
PORT_MAX = 65_535
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
)


def parse_origins(text: str) -> frozenset[str]:
    """Origins separated by commas, in the form that browsers send: lower case, without a scheme's default port.

    Raises:
        ValueError: an entry is no origin, or stands beside `*`; the message says what to write.
    """
    origins = frozenset(_origin(entry.strip()) for entry in text.split(",") if entry.strip())
    if ANY_ORIGIN in origins and len(origins) > 1:
        raise ValueError("'*' allows every page: write it alone, or name the origins without it")
    return origins


def _origin(given: str) -> str:
    if given == ANY_ORIGIN:
        return given
    match = _ORIGIN.fullmatch(given.lower())
    host = None if match is None else _host(match["host"])
    if match is None or host is None or int(match["port"] or 0) > PORT_MAX:
        raise ValueError(
            f"{given[:100]!r} is no origin: write scheme, host and perhaps port, such as https://app.example, without "
            "a path and in ASCII (xn--…)"
        )
    origin = f"{match['scheme']}://{host}"
    port = None if match["port"] is None else int(match["port"])
    return origin if port in {None, _DEFAULT_PORTS.get(match["scheme"])} else f"{origin}:{port}"


def _host(given: str) -> str | None:
    """The host as browsers write it; None if its brackets hold no IPv6 address."""
    if not given.startswith("["):
        return given
    try:
        return f"[{ipaddress.IPv6Address(given[1:-1]).compressed}]"
    except ValueError:
        return None
