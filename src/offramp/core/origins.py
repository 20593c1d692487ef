"""The origins whose web pages may use the gateway (CORS), as browsers write them in `Origin`. Pure."""

from __future__ import annotations

import re

ANY_ORIGIN = "*"
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
)


def parse_origins(text: str) -> frozenset[str]:
    """Origins separated by commas, in the form that browsers send: lower case, without a scheme's default port.

    Raises:
        ValueError: an entry is no origin; the message says what to write.
    """
    return frozenset(_origin(entry.strip()) for entry in text.split(",") if entry.strip())


def _origin(given: str) -> str:
    if given == ANY_ORIGIN:
        return given
    match = _ORIGIN.fullmatch(given.lower())
    if match is None:
        raise ValueError(
            f"{given[:100]!r} is no origin: write scheme, host and perhaps port, such as https://app.example, without "
            "a path and in ASCII (xn--…)"
        )
    if match["port"] == _DEFAULT_PORTS.get(match["scheme"]):
        return f"{match['scheme']}://{match['host']}"
    return match[0]
