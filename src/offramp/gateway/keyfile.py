"""The file of API keys: hashes only, readable by its owner only, replaced as a whole, one writer at a time."""

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

from offramp.core.keys import KEYS_MAX, Key, digest_of, require_name, shown_tenant, stored_tenant
from offramp.core.names import did_you_mean
from offramp.errors import SettingsError

FILE_NAME = "keys.json"
SECRET_PREFIX = "ofk_"  # noqa: S105 - how secrets begin, so that scanners for leaked ones know them
SECRET_RANDOM_BYTES = 32


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key as it is kept; `created_at` in RFC 3339."""

    name: str
    tenant: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created_at: str

    @property
    def key(self) -> Key:
        """The key."""
        return Key(self.name, stored_tenant(self.tenant), self.sha256)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    keys: list[KeyEntry]


def read_keys(file: Path) -> list[KeyEntry]:
    """Every key in the file.

    Raises:
        SettingsError: it is not there or not what `offramp keys` writes.
    """
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_File)
    except OSError as error:
        raise SettingsError(f"the file of keys {str(file)!r} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Not `from error`: the decoder's own words may quote what somebody put there by hand.
        raise SettingsError(
            f"{str(file)!r} is not what 'offramp keys add' writes (damaged, or edited by hand): restore or remove it"
        ) from None
    if content.version != 1:
        raise SettingsError(f"{str(file)!r} has version {content.version}, this Offramp knows 1: upgrade Offramp")
    return content.keys


def add_key(file: Path, name: str, tenant: str) -> str:
    """Make a key and keep its hash; the secret is returned and nowhere else.

    Raises:
        SettingsError: the name is taken or cannot be one, there are `KEYS_MAX`, or the file cannot be used.
    """
    require_name(name, "the key's name")
    require_name(tenant, "the tenant")
    secret = SECRET_PREFIX + secrets.token_urlsafe(SECRET_RANDOM_BYTES)
    with _changing(file) as entries:
        for entry in entries:
            if entry.name == name:
                raise SettingsError(
                    f"there is a key {name!r} already, of tenant {entry.tenant!r}: choose another name, or revoke it "
                    "first"
                )
        if len(entries) >= KEYS_MAX:
            raise SettingsError(f"there are {KEYS_MAX} keys, which is the most there can be (KEYS_MAX): revoke some")
        created_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        entries.append(KeyEntry(name, shown_tenant(stored_tenant(tenant)), digest_of(secret), created_at))
    return secret


def revoke_key(file: Path, name: str) -> int:
    """Forget a key; returns how many are left.

    Raises:
        SettingsError: there is none of that name, or the file cannot be used.
    """
    if not file.exists():
        raise SettingsError(f"there is no file of keys {str(file)!r}: is this the gateway's --data?")
    with _changing(file) as entries:
        kept = [entry for entry in entries if entry.name != name]
        if len(kept) == len(entries):
            raise SettingsError(f"no key {name[:100]!r}; {did_you_mean(name, [entry.name for entry in entries])}")
        entries[:] = kept
    return len(kept)


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[list[KeyEntry]]:
    """The keys, to be changed in place: written back when the block ends well, while nobody else writes."""
    import fcntl

    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock has a file of its own: the file of keys itself is another one after each change.
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
    """Readers see the whole old file or the whole new one, also after a crash."""
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
