"""Admits requests: by API key if there are keys, else only for this machine's own host names.

Owns the reading of credentials. It passes a secret to the keyring and to nothing else.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from offramp.core.addresses import is_loopback
from offramp.core.keys import SCOPES, Key, Scope, shown_scopes
from offramp.core.origins import ANY_ORIGIN, parse_origins
from offramp.core.shares import Tenancy
from offramp.errors import Forbidden, SettingsError, Unauthenticated
from offramp.gateway.descriptors import streams_max
from offramp.gateway.keyring import Keyring
from offramp.gateway.problems import WrongHost
from offramp.gateway.slots import Streams
from offramp.settings import Settings

Guard = Literal["health", "public", "key", "operator"]
"""Which requests an endpoint admits: all, for any host name (`health`); all (`public`); those with a key (`key`); those
with a key of the default tenant (`operator`)."""
EVERY_SCOPE: frozenset[Scope] = frozenset(SCOPES)


class Rule(NamedTuple):
    """Which requests an endpoint admits; if it needs a key, one with any of `scopes`."""

    guard: Guard = "key"
    scopes: frozenset[Scope] = EVERY_SCOPE


ANY_HOST = "*"
SUBPROTOCOL = "offramp.v1"
"""The subprotocol that a browser, which cannot send headers with a WebSocket, offers beside its key."""
SUBPROTOCOL_KEY = "offramp.bearer."
_INVALID = 'Bearer error="invalid_token"'


class Access:
    """Admits the requests of one gateway.

    Args:
        keyring: the keys; without one, requests need no key.
        hosts: the host names it answers to without keys, beside those of loopback; None for all.
        origins: the origins whose pages may use the API; `*` for all, without keys.

    Raises:
        SettingsError: `origins` has `*`, and there are keys.
    """

    def __init__(
        self,
        keyring: Keyring | None = None,
        hosts: frozenset[str] | None = None,
        origins: frozenset[str] = frozenset(),
    ) -> None:
        self._keyring = keyring or Keyring()
        self._hosts = None if hosts is None or ANY_HOST in hosts else hosts
        self._origins = origins
        if ANY_ORIGIN in origins and self._keyring.closed:
            raise SettingsError(
                "cors_origins is '*', but requests need an API key: name the origins of your pages instead, such as "
                "https://app.example (--cors, OFFRAMP_CORS_ORIGINS)"
            )
        self.streams = Streams(streams_max())

    @classmethod
    def of(cls, settings: Settings, host: str | None = None) -> Access:
        """Build it from the settings, for a gateway that binds `host`; None if another server binds.

        Raises:
            SettingsError: a key or the file of keys cannot be used, or pages of all origins may use it despite keys.
        """
        named = frozenset(name.strip().lower() for name in settings.allow_hosts.split(",") if name.strip())
        local = host is not None and is_loopback(host)
        return cls(Keyring.of(settings), named if named or local else None, parse_origins(settings.cors_origins))

    @property
    def closed(self) -> bool:
        """Whether requests need a key."""
        return self._keyring.closed

    @property
    def origins(self) -> frozenset[str]:
        """The origins whose pages may use the API; none instead of `*` once there are keys."""
        return frozenset() if ANY_ORIGIN in self._origins and self.closed else self._origins

    def divide(self, tenancy: Tenancy) -> None:
        """Share the room for streams among tenants by `tenancy`, if requests need a key."""
        tenancy.is_keyed = lambda: self.closed
        self.streams.share_by(tenancy)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every valid key."""
        return self._keyring.keys

    def is_good(self, key: Key | None) -> bool:
        """Whether a request with this key, or without one, would be admitted now."""
        return not self.closed if key is None else self._keyring.knows(key)

    def admit(self, connection: HTTPConnection, rule: Rule) -> Key | None:
        """Return the key of an admitted request; None if there are no keys or the request needs none.

        Raises:
            Unauthenticated: it has no key, or an invalid one.
            Forbidden: its key has none of the scopes, or is not of the default tenant, as the endpoint demands.
            WrongHost: there are no keys, and the host name is not this machine's.
        """
        guard = rule.guard
        if not self._keyring.closed:
            if self._hosts is not None and guard != "health":
                _require_host(connection, self._hosts, self._origins)
            return None
        if guard in {"health", "public"}:
            return None
        key = self._keyring.find(_secret(connection))
        if key is None:
            raise Unauthenticated("the API key is not known; it may have been revoked", _INVALID)
        if guard == "operator" and key.tenant:
            raise Forbidden("this endpoint covers all tenants: use a key of the default tenant")
        require_scope(key, rule.scopes)
        return key


def require_scope(key: Key | None, scopes: frozenset[Scope]) -> None:
    """Refuse a key that has none of `scopes`; without keys everything is allowed.

    Raises:
        Forbidden: it has none of them.
    """
    if key is None or key.scopes & scopes:
        return
    needed = shown_scopes(scopes)
    both = shown_scopes(key.scopes | {needed[0]})
    raise Forbidden(
        f"this needs an API key with the scope {' or '.join(map(repr, needed))}; the one sent has "
        f"{', '.join(shown_scopes(key.scopes))}. A key has the scopes listed for it alone: make one with "
        f"'offramp keys add NAME --scope {','.join(both)}', or as name+{'+'.join(both)}:secret in OFFRAMP_API_KEYS"
    )


def _require_host(connection: HTTPConnection, hosts: frozenset[str], origins: frozenset[str]) -> None:
    """Refuse other host names: a web page whose name was pointed here (DNS rebinding) would be of our origin."""
    given = connection.headers.getlist("host")
    if len(given) != 1 or not _is_of(given[0], hosts):
        raise WrongHost(
            "without API keys this gateway answers to this machine's own names (localhost, 127.0.0.1); for another "
            "one, add a key with 'offramp keys add NAME', or serve with --allow-host"
        )
    # Browsers send WebSockets, and requests without a body, to other origins without a preflight request.
    for origin in connection.headers.getlist("origin"):
        if not (origins & {origin, ANY_ORIGIN} or _is_of(_netloc(origin), hosts)):
            raise WrongHost(
                "without API keys this gateway refuses pages of other sites; allow their origin with --cors (a page "
                "without one, such as a file, needs a key), add a key with 'offramp keys add NAME', or serve with "
                "--allow-host"
            )


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # not a URL, and so of no host
        return ""


def _is_of(netloc: str, hosts: frozenset[str]) -> bool:
    """Whether `host[:port]` names loopback or one of these hosts."""
    host = netloc.lower()
    name, colon, port = host.rpartition(":")
    if colon and port.isascii() and port.isdigit() and (":" not in name or name.endswith("]")):
        host = name
    return host in hosts or is_loopback(host)


def _secret(connection: HTTPConnection) -> str:
    """The bearer token of a request; a WebSocket without the header may send it as a subprotocol."""
    given = connection.headers.getlist("authorization")
    if not given and connection.scope["type"] == "websocket":
        offered: list[str] = connection.scope.get("subprotocols", [])
        found = [name.removeprefix(SUBPROTOCOL_KEY) for name in offered if name.startswith(SUBPROTOCOL_KEY)]
        given = [f"Bearer {secret}" for secret in found]
    if not given:
        raise Unauthenticated("an API key is needed: send it as 'Authorization: Bearer KEY'")
    scheme, _, secret = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("one API key is needed: send it as 'Authorization: Bearer KEY'")
    return secret.strip()


def chosen_subprotocol(offered: list[str]) -> str | None:
    """The subprotocol to answer with: never the one that contains the key."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None
