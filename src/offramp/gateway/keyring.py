"""The valid keys of a running gateway: from the settings, and from the file of keys, which is watched for changes.

Fails closed: once there was a key or a file of keys, every request needs a key until the process ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from offramp.core.keys import Key, find, parse_keys
from offramp.errors import SettingsError
from offramp.gateway.keyfile import FILE_NAME, read_keys
from offramp.settings import Settings

CHECK_EVERY_S = 1.0
"""How long a change of the file may stay unnoticed."""

logger = logging.getLogger("offramp.gateway")


class Keyring:
    """Keys by their secrets.

    Args:
        fixed: keys that do not change while the process runs.
        file: the file of keys, which may appear later; None for none.
        monotonic: the clock for checking the file again.

    Raises:
        SettingsError: the file cannot be used.
    """

    def __init__(
        self, fixed: Sequence[Key] = (), file: Path | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = tuple(fixed)
        self._file = file
        self._monotonic = monotonic
        self._keys = self._fixed
        self._known = frozenset(self._keys)
        self._closed = bool(self._fixed)
        self._seen: object = None
        self._look_at = monotonic() + CHECK_EVERY_S
        self._look()

    @classmethod
    def of(cls, settings: Settings) -> Keyring:
        """The keys in the settings and in the file of keys.

        Raises:
            SettingsError: a key or the file cannot be used, or the settings name a file that does not exist.
        """
        fixed = parse_keys(settings.api_keys, "OFFRAMP_API_KEYS") if settings.api_keys else ()
        file = file_of(settings)
        if settings.api_keys_file and not file.exists():
            raise SettingsError(
                f"OFFRAMP_API_KEYS_FILE: there is no file {settings.api_keys_file!r}; create it with 'offramp keys add "
                "NAME', or unset the variable"
            )
        return cls(fixed, file)

    def __repr__(self) -> str:
        return f"<keyring of {len(self._keys)} keys>"

    @property
    def closed(self) -> bool:
        """Whether a request needs a key."""
        self._refresh()
        return self._closed

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every valid key."""
        self._refresh()
        return self._keys

    def find(self, secret: str) -> Key | None:
        """The valid key with this secret, if there is one."""
        return find(secret, self.keys)

    def knows(self, key: Key) -> bool:
        """Whether this key is still valid."""
        self._refresh()
        return key in self._known

    def _refresh(self) -> None:
        now = self._monotonic()
        if now < self._look_at:
            return
        self._look_at = now + CHECK_EVERY_S
        try:
            self._look()
        except SettingsError as error:
            logger.error("%s; the keys read before stay valid", error)  # noqa: TRY400 - the operator needs no traceback

    def _look(self) -> None:
        """Read the file if it has changed."""
        if self._file is None:
            return
        try:
            state = self._file.stat()
        except FileNotFoundError:
            seen = None
        except OSError as error:
            raise SettingsError(f"the file of keys {str(self._file)!r} cannot be read: {error.strerror}") from error
        else:
            seen = (state.st_mtime_ns, state.st_ino, state.st_size)
        if seen == self._seen:
            return
        self._seen = seen  # before reading it, so that a change in the meantime is noticed
        if seen is not None:
            self._closed = True  # even if it is empty or damaged
        entries = [] if seen is None else [entry.key for entry in read_keys(self._file)]
        self._keys = (*self._fixed, *entries)
        self._known = frozenset(self._keys)


def file_of(settings: Settings) -> Path:
    """The path of the file of keys: from the settings, else in the data folder."""
    from offramp.wiring import data_folder

    return Path(settings.api_keys_file) if settings.api_keys_file else data_folder(settings) / FILE_NAME
