"""`redis://user:password@host:port/db?prefix=…`: the address of a Redis server, and how to connect to it.

Owns the URL. It may hold a password, so neither errors nor `repr` show more of it than host, port and number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from offramp.core.names import did_you_mean
from offramp.errors import SettingsError

SCHEMES = ("redis", "rediss")
PORT_DEFAULT = 6379
PREFIX_DEFAULT = "offramp"
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_OPTIONS = ("prefix", "ca", "cert", "key", "fsync")
_FLAGS = {"1": True, "true": True, "0": False, "false": False}
_EXPECTED = "expected redis://user:password@host:port/db?prefix=…, or rediss:// for TLS"


def is_redis(url: str) -> bool:
    """Whether a store setting names Redis, well-formed or not."""
    return url.partition(":")[0] in SCHEMES


def without_password(url: str) -> str:
    """A URL fit to be shown: without anything before an @."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{'…@' if '@' in rest else ''}{rest.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A parsed store URL.

    Args:
        prefix: begins the names of all keys, in braces: one slot of a cluster.
        ca: a PEM file of certificates that verify the server's; the system's by default.
        cert: a file with the client's own certificate, with its `key`.
        fsync: whether a durable write waits until it is in Redis' append-only file on disk.
    """

    host: str
    port: int = PORT_DEFAULT
    db: int = 0
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: bool = False
    prefix: str = PREFIX_DEFAULT
    ca: str = ""
    cert: str = ""
    key: str = ""
    fsync: bool = False

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a store URL.

        Raises:
            SettingsError: it is invalid; the message says what to change, and holds no password.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or PORT_DEFAULT
        except ValueError:
            raise SettingsError(f"store redis://…: {_EXPECTED}") from None
        if parts.scheme not in SCHEMES or not host:
            raise SettingsError(f"store redis://…: {_EXPECTED}")
        if parts.fragment or url.endswith("#"):
            raise SettingsError("store redis://…: no #fragment; write a # in the password as %23")
        where = f"store {parts.scheme}://{_shown(host)}:{port}"
        number = parts.path.strip("/") or "0"
        if not number.isdecimal():
            raise SettingsError(f"{where}: after the / must follow the number of a database, got {number[:20]!r}")
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        tls = parts.scheme == "rediss"
        _check_options(where, given, tls=tls)
        return cls(
            host=host,
            port=port,
            db=int(number),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=tls,
            prefix=given.get("prefix", PREFIX_DEFAULT),
            ca=given.get("ca", ""),
            cert=given.get("cert", ""),
            key=given.get("key", ""),
            fsync=_FLAGS[given.get("fsync", "0")],
        )

    @property
    def shown(self) -> str:
        """The address without credentials, for messages."""
        return f"{SCHEMES[self.tls]}://{_shown(self.host)}:{self.port}/{self.db}"

    @property
    def tag(self) -> str:
        """The prefix of every key and channel: a hash tag, so that all are in one slot."""
        return f"{{{self.prefix}}}:"

    def key_of(self, *parts: str) -> str:
        """The full name of a key or channel."""
        return self.tag + ":".join(parts)

    def tls_options(self) -> dict[str, Any]:
        """The client's TLS options.

        Raises:
            SettingsError: a file cannot be read.
        """
        if not self.tls:
            return {}
        for path in filter(None, (self.ca, self.cert, self.key)):
            try:
                with Path(path).open("rb"):
                    pass
            except OSError as error:
                raise SettingsError(f"store {self.shown}: {path} cannot be read: {error.strerror}") from error
        return {
            "ssl": True,
            "ssl_ca_certs": self.ca or None,
            "ssl_certfile": self.cert or None,
            "ssl_keyfile": self.key or None,
        }


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_options(where: str, given: dict[str, str], *, tls: bool) -> None:
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise SettingsError(f"{where}: no option {unknown[0][:40]!r}; {did_you_mean(unknown[0], _OPTIONS)}")
    if not _PREFIX.fullmatch(given.get("prefix", PREFIX_DEFAULT)):
        raise SettingsError(f"{where}: prefix= must be 1 to 64 letters, digits and ._:-")
    if given.get("fsync", "0") not in _FLAGS:
        raise SettingsError(f"{where}: fsync= must be true or false, got {given['fsync'][:20]!r}")
    if bool(given.get("cert")) != bool(given.get("key")):
        raise SettingsError(f"{where}: cert= and key= must both be given")
    if not tls and any(given.get(option) for option in ("ca", "cert", "key")):
        raise SettingsError(f"{where}: ca=, cert= and key= are for TLS: write rediss://")
