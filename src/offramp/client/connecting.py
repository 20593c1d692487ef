"""What both clients need of httpx: a checked address and key, timeouts, and what went wrong with a connection."""

from __future__ import annotations

import os
import random
import secrets
import ssl
import time
from typing import Any, NamedTuple

import httpx

from offramp.client.effects import Head, Lost, Request
from offramp.client.talk import Talk
from offramp.errors import RequestError, SettingsError

URL_DEFAULT = "http://127.0.0.1:8000"
CONNECT_S_MAX = 10.0
PATIENCE_S = 60.0
SILENCE_S = 75.0
"""A gateway sends a heartbeat at least every minute, and every 5 s by default."""
AGENT = "offramp-client"
_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Setup(NamedTuple):
    """Where a client connects, and how."""

    url: str
    shown: str
    headers: dict[str, str]
    options: dict[str, Any]
    talk: Talk


def set_up(url: str | None, key: str | None, patience: float, silence: float) -> Setup:
    """Check what a client was given, with `OFFRAMP_URL` and `OFFRAMP_API_KEY` for what it was not.

    Raises:
        SettingsError: the address, the key or a time cannot be used.
    """
    url = url or os.environ.get("OFFRAMP_URL") or URL_DEFAULT
    key = os.environ.get("OFFRAMP_API_KEY") if key is None else key
    address = _address(url)
    for name, seconds in (("patience", patience), ("silence", silence)):
        if not seconds >= 0 or (name == "silence" and not seconds):
            raise SettingsError(f"{name} is a time in seconds, got {seconds!r}")
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if key:
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise SettingsError("the API key cannot be sent in a header: it has characters other than printable ASCII")
        headers["Authorization"] = f"Bearer {key}"
    options = {
        # Reading the certificates takes longer than a request.
        "verify": address.scheme == "https",
        # A proxy cannot reach a gateway on this machine's loopback address.
        "trust_env": address.host not in _LOOPBACK,
        # Each stream holds a connection.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
    }
    shown = str(address.copy_with(username=None, password=None)).rstrip("/")
    talk = Talk(
        shown,
        patience_s=patience,
        silence_s=silence,
        now=time.monotonic,
        draw=random.random,
        make_key=lambda: secrets.token_hex(16),
    )
    return Setup(str(address).rstrip("/"), shown, headers, options, talk)


def _address(url: str) -> httpx.URL:
    shown = "the address, which has a password," if "@" in url else repr(url)
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError):
        raise SettingsError(f"{shown} is not an address: use for example {URL_DEFAULT}") from None
    if address.scheme not in {"http", "https"} or not address.host or address.query or address.fragment:
        raise SettingsError(f"{shown} is not an address of a gateway: use for example {URL_DEFAULT}")
    return address


def sent(setup: Setup, request: Request) -> dict[str, Any]:
    """The request as arguments of httpx's `build_request`.

    Raises:
        RequestError: its path or query cannot be part of an address, or is too long for one.
    """
    try:
        url = httpx.URL(setup.url + request.path).copy_merge_params(dict(request.params))
    except (httpx.InvalidURL, UnicodeError) as error:
        raise RequestError(f"a request for {request.path[:100]!r} has an impossible path or query: {error}") from error
    return {
        "method": request.method,
        "url": url,
        "headers": {**setup.headers, **request.headers},
        "content": request.content,
        "timeout": httpx.Timeout(request.silence_s, connect=min(CONNECT_S_MAX, request.silence_s), pool=None),
    }


def head_of(answer: httpx.Response) -> Head:
    """The start of an answer."""
    return Head(answer.status_code, answer.reason_phrase, answer.headers)


def lost(error: httpx.RequestError) -> Lost:
    """A connection that failed, for a conversation."""
    made = Lost(
        str(error) or type(error).__name__,
        connecting=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)),
        silent=isinstance(error, httpx.ReadTimeout),
        hopeless=isinstance(error, _HOPELESS) or _distrusted(error),
    )
    made.__cause__ = error
    return made


def _distrusted(error: BaseException | None) -> bool:
    """Whether the server's certificate was refused."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
