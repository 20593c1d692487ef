"""`temporal://host:port/namespace?task_queue=…`: the Temporal service and how to connect to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from offramp.core.names import did_you_mean
from offramp.errors import SettingsError

SCHEME = "temporal"
TASK_QUEUE_DEFAULT = "offramp"
PORT_DEFAULT = 7233
_OPTIONS = ("task_queue", "tls", "tls_ca", "tls_cert", "tls_key", "tls_name", "deployment", "build_id")
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A parsed engine URL; files are paths to PEM."""

    target: str
    namespace: str
    task_queue: str
    tls: bool
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_name: str = ""
    deployment: str = ""
    build_id: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an engine URL.

        Raises:
            SettingsError: it is malformed; the message says what to change.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or PORT_DEFAULT
        except ValueError as error:
            raise SettingsError(f"engine {url!r}: {error}") from None
        if parts.scheme != SCHEME or not parts.hostname:
            raise SettingsError(f"engine {url!r}: expected temporal://host:port/namespace?task_queue=…")
        if parts.username or parts.password:
            raise SettingsError("engine temporal://…: no secrets in the URL; an API key is OFFRAMP_TEMPORAL_API_KEY")
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(given) - set(_OPTIONS))
        if unknown:
            raise SettingsError(f"engine {url!r}: no option {unknown[0]!r}; {did_you_mean(unknown[0], _OPTIONS)}")
        tls = given.pop("tls", "true" if any(name.startswith("tls_") for name in given) else "false")
        if tls not in _FLAGS:
            raise SettingsError(f"engine {url!r}: tls= is true or false; got {tls!r}")
        if bool(given.get("tls_cert")) != bool(given.get("tls_key")):
            raise SettingsError(f"engine {url!r}: tls_cert= and tls_key= come together")
        if bool(given.get("deployment")) != bool(given.get("build_id")):
            raise SettingsError(f"engine {url!r}: deployment= and build_id= come together")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        given.setdefault("task_queue", TASK_QUEUE_DEFAULT)
        return cls(target=f"{host}:{port}", namespace=parts.path.strip("/") or "default", tls=_FLAGS[tls], **given)

    def tls_config(self) -> Any:
        """The client's argument `tls=`.

        Raises:
            SettingsError: a file cannot be read.
        """
        if not self.tls:
            return False
        from temporalio.service import TLSConfig

        return TLSConfig(
            server_root_ca_cert=_read(self.tls_ca),
            domain=self.tls_name or None,
            client_cert=_read(self.tls_cert),
            client_private_key=_read(self.tls_key),
        )


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"engine temporal://…: {path} cannot be read: {error.strerror}") from error
