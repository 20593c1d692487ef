"""What the processes of a data directory call a credential: the same in all of them, and of no use to others.

The digest of a weak password could be found by trying; without the key in the directory this one cannot.
"""

from __future__ import annotations

import functools
import hmac
import os
from pathlib import Path

KEY_FILE = "limits.key"
KEY_BYTES = 32
NAME_LENGTH = 32


def keyed(data: Path, digest: str) -> str:
    """The name for a credential of this digest."""
    return hmac.new(_key(data), digest.encode(), "sha256").hexdigest()[:NAME_LENGTH]


@functools.lru_cache(maxsize=8)
def _key(data: Path) -> bytes:
    """The key of a data directory, made by the first process that needs it."""
    path = data / KEY_FILE
    if not path.exists():
        made = data / f".{KEY_FILE}-{os.getpid()}-{os.urandom(6).hex()}"
        made.touch(0o600, exist_ok=False)
        made.write_bytes(os.urandom(KEY_BYTES))
        try:
            os.link(made, path)
        except FileExistsError:  # another process was first
            pass
        finally:
            made.unlink()
    return path.read_bytes()
