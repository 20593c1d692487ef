"""The file of API keys: only hashes, readable only by its owner, replaced as a whole by one writer at a time."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from offramp.core.keys import (
    KEYS_MAX,
    SCOPES_DEFAULT,
    Key,
    Scope,
    digest_of,
    require_name,
    shown_scopes,
    shown_tenant,
    stored_tenant,
)
from offramp.core.names import did_you_mean
from offramp.core.quotas import KEY_RUNS_MAX
from offramp.core.rates import Rate, parse_rate
from offramp.errors import SettingsError

FILE_NAME = "keys.json"
SECRET_PREFIX = "ofk_"  # noqa: S105 - the prefix by which scanners recognise leaked secrets
SECRET_RANDOM_BYTES = 32


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One stored key; `created_at` in RFC 3339, no `scopes` for the default ones, no limits without any."""

    name: str
    tenant: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created_at: str
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)] | None = None
    rate: str | None = None
    runs: Annotated[int, msgspec.Meta(ge=1, le=KEY_RUNS_MAX)] | None = None

    @property
    def key(self) -> Key:
        """The key."""
        scopes = frozenset(self.scopes or SCOPES_DEFAULT)
        rate = None if self.rate is None else parse_rate(self.rate, f"the rate of key {self.name!r}")
        return Key(self.name, stored_tenant(self.tenant), self.sha256, scopes, rate, self.runs)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    keys: list[KeyEntry]


def read_keys(file: Path) -> list[KeyEntry]:
    """Every key in the file.

    Raises:
        SettingsError: it does not exist, or `offramp keys` did not write it.
    """
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_File)
    except OSError as error:
        raise SettingsError(f"the file of keys {str(file)!r} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Not `from error`: the decoder's message may quote the content, which may be a secret pasted by hand.
        raise SettingsError(
            f"the file of keys {str(file)!r} is damaged or was edited by hand: restore it, or remove it"
        ) from None
    if content.version != 1:
        raise SettingsError(
            f"the file of keys {str(file)!r} has version {content.version}, this Offramp reads version 1: upgrade it"
        )
    return content.keys


def add_key(
    file: Path,
    name: str,
    tenant: str,
    scopes: frozenset[Scope] = SCOPES_DEFAULT,
    *,
    rate: Rate | None = None,
    runs: int | None = None,
) -> str:
    """Make a key and store its hash. Only the caller gets the secret.

    Args:
        file: the file of keys.
        name: the key's.
        tenant: whose runs it starts and sees.
        scopes: what it may do.
        rate: limits the requests that may start runs; None for no limit.
        runs: how many of its runs may be open at once; None for no limit.

    Raises:
        SettingsError: the name is taken or invalid, there are `KEYS_MAX` keys, or the file cannot be used.
    """
    require_name(name, "the key's name")
    require_name(tenant, "the tenant")
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_RANDOM_BYTES)
    with _changing(file) as entries:
        for entry in entries:
            if entry.name == name:
                raise SettingsError(
                    f"a key {name!r} of tenant {entry.tenant!r} exists: choose another name, or revoke that key first"
                )
        if len(entries) >= KEYS_MAX:
            raise SettingsError(f"there are {KEYS_MAX} keys, the maximum (KEYS_MAX): revoke some")
        created_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        shown = shown_tenant(stored_tenant(tenant))
        stored = None if scopes == SCOPES_DEFAULT else tuple(shown_scopes(scopes))
        limit = None if rate is None else str(rate)
        entries.append(KeyEntry(name, shown, digest_of(secret), created_at, stored, limit, runs))
    return secret


def revoke_key(file: Path, name: str) -> int:
    """Remove a key and return how many are left.

    Raises:
        SettingsError: there is no key of that name, or the file cannot be used.
    """
    if not file.exists():
        raise SettingsError(f"there is no file of keys {str(file)!r}: check that --data is the gateway's")
    with _changing(file) as entries:
        kept = [entry for entry in entries if entry.name != name]
        if len(kept) == len(entries):
            raise SettingsError(f"no key {name[:100]!r}; {did_you_mean(name, [entry.name for entry in entries])}")
        entries[:] = kept
    return len(kept)


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[KeyEntry]]:
    """The keys, to be changed in place under a lock; they are written back unless the block raises."""
    import fcntl

    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock needs its own file, because each change replaces the file of keys.
        lock = os.open(file.with_name(file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"{str(file.parent)!r} cannot be written to: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = read_keys(file) if file.exists() else []
        yield entries
        _replace(file, msgspec.json.format(msgspec.json.encode(_File(1, entries))) + b"\n")
    except OSError as error:
        raise SettingsError(f"{str(file)!r} cannot be written: {error.strerror}") from error
    finally:
        os.close(lock)


def _replace(file: Path, content: bytes) -> None:
    """Replace the file so that readers see the whole old one or the whole new one, even after a crash."""
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
