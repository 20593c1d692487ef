"""`offramp doctor` on API keys: which clients could reach the gateway. Never shows a secret."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from offramp.cli.findings import Finding
from offramp.cli.output import counted
from offramp.core.keys import shown_tenant
from offramp.errors import SettingsError
from offramp.settings import Settings

TENANTS_SHOWN_MAX = 5
_OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_keys(settings: Settings, host: str) -> Iterator[Finding]:
    """The keys that a gateway on `host` would have."""
    from offramp.core.addresses import is_loopback
    from offramp.gateway.keyring import Keyring, file_of

    try:
        keyring = Keyring.of(settings)
    except SettingsError as error:
        yield Finding("broken", "keys", str(error), "correct the variable, or add a key with 'offramp keys add NAME'")
        return
    yield from _origins(settings, is_keyed=keyring.closed)
    file = file_of(settings)
    if file.exists():
        yield from _permissions(file)
    if keyring.keys:
        tenants = sorted({shown_tenant(key.tenant) for key in keyring.keys})
        shown = ", ".join(tenants[:TENANTS_SHOWN_MAX]) + (", …" if len(tenants) > TENANTS_SHOWN_MAX else "")
        yield Finding("ok", "keys", f"{counted(len(keyring.keys), 'API key')}; tenants: {shown}")
        if not is_loopback(host):
            says = f"{host} is reachable by others, and keys travel in the clear without TLS"
            yield Finding("note", "keys", says, "put a proxy with TLS in front of it")
    elif keyring.closed:
        says = f"{file} holds no key: every request is refused"
        yield Finding("risk", "keys", says, "'offramp keys add NAME', or remove it")
    elif is_loopback(host):
        yield Finding("ok", "keys", "no API keys: the gateway serves this machine only")
    else:
        yield Finding(
            "risk",
            "keys",
            f"{host} is reachable by others and there are no API keys: serve refuses to start",
            "add one with 'offramp keys add NAME', serve on 127.0.0.1, or use --insecure",
        )


def _origins(settings: Settings, *, is_keyed: bool) -> Iterator[Finding]:
    """The pages that may use the gateway, if any."""
    from offramp.core.origins import ANY_ORIGIN, parse_origins

    origins = parse_origins(settings.cors_origins)
    if ANY_ORIGIN in origins and is_keyed:
        says = "cors_origins is '*', but requests need an API key: serve refuses to start"
        yield Finding("broken", "keys", says, "name the origins of your pages")
    elif ANY_ORIGIN in origins:
        says = (
            "cors_origins is '*' and there are no API keys: any page in a browser on this machine may use the gateway"
        )
        yield Finding("risk", "keys", says, "name the origins of your pages")
    elif origins:
        yield Finding("ok", "keys", f"pages that may use the gateway: {', '.join(sorted(origins))}")


def _permissions(file: Path) -> Iterator[Finding]:
    mode = file.stat().st_mode
    if mode & _OTHERS_MAY_WRITE:
        yield Finding("broken", "keys", f"others may write {file}: they could add keys", f"chmod 600 {file}")
    elif mode & _OTHERS_MAY_READ:
        yield Finding("risk", "keys", f"others may read {file} (hashes and names)", f"chmod 600 {file}")
