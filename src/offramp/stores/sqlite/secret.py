"""The file of the secret that the processes of a data folder share, readable by its owner alone."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from offramp.errors import StoreError

FILE_NAME = "secret.key"


def shared_secret(folder: Path, offered: bytes) -> bytes:
    """The secret in the folder; `offered` if there was none.

    Raises:
        StoreError: the file cannot be read or written, or is damaged.
    """
    file = folder / FILE_NAME
    try:
        secret = _read(file) or _keep(file, offered)
    except OSError as error:
        raise StoreError(f"the secret that signs tickets, {str(file)!r}, cannot be used: {error.strerror}") from error
    if len(secret) != len(offered):
        raise StoreError(f"{str(file)!r} is damaged: remove it; tickets that it signed are then refused")
    return secret


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _keep(file: Path, offered: bytes) -> bytes:
    """Write the file as a whole, unless another process was faster, and return its content."""
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(offered)
        with suppress(FileExistsError):
            os.link(temporary, file)
        return file.read_bytes()
    finally:
        Path(temporary).unlink()
