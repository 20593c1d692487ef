"""On which machine a database is open. Its processes share memory that only one kernel has: on two they corrupt it.

The lock file names the machine, and each process there touches it again and again. Locks alone do not tell: a network
file system may keep them on each machine by itself. Containers on one machine share its kernel, and so its name here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
from pathlib import Path

from offramp.errors import StoreError

BEAT_S = 5.0
"""How often a process shows that its machine has the database open."""
SILENT_S = 20.0
"""How long another machine has to be silent, while this one looks, before its database is opened here."""
GONE_S = 600.0
"""The same by the clocks of the two machines, which need not agree: then there is nothing to look for."""

logger = logging.getLogger("offramp")


class OnOtherMachine(StoreError):
    """A process on another machine has the database open."""


def here() -> str:
    """What the running kernel is called; it has another name after it was started again."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return platform.node()


class Residence:
    """Says that the database is open on this machine, until `close`.

    Args:
        file: the lock file, which exists.

    Raises:
        OnOtherMachine: it is open elsewhere.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._over = threading.Event()
        name = here()
        if not _is_free(file, name):
            raise OnOtherMachine(
                f"the database in {str(file.parent)!r} is open on another machine: SQLite serves the processes of one "
                "machine. Give each machine a folder of its own, or keep the runs of several in Redis (--store)"
            )
        if _seen(file)[0] == name:
            os.utime(file)
        else:
            file.write_text(name, "utf-8")
        threading.Thread(target=self._beat, name="offramp-machine", daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a full disk, or a folder that is gone: the writer tells of that
                os.utime(self._file)

    def close(self, *, last: bool) -> None:
        """Say no more; the `last` process of this machine leaves the database to any."""
        self._over.set()
        if last:
            with contextlib.suppress(OSError):
                self._file.write_text("", "utf-8")


def _is_free(file: Path, name: str) -> bool:
    """Whether no other machine has it open; waits until that is known."""
    before = _seen(file)
    if before[0] in {"", name} or time.time() - before[1] > GONE_S:
        return True
    logger.warning("%s was open on another machine: waiting %g s for a sign that it still is", file.parent, SILENT_S)
    ends = time.monotonic() + SILENT_S
    while time.monotonic() < ends:
        time.sleep(BEAT_S / 10)
        after = _seen(file)
        if after[0] in {"", name}:
            return True
        if after != before:
            return False
    return True


def _seen(file: Path) -> tuple[str, float]:
    """Which machine wrote the file, and when; opened anew, so that a network file system looks again."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(200).strip(), os.fstat(opened.fileno()).st_mtime
