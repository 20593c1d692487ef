"""The one machine on which a database may be open. Its processes share memory of one kernel: on two they corrupt it.

The lock file names the machine, and each process there touches it repeatedly. Locks alone do not suffice: a network
file system may keep them separately on each machine. Containers on one machine share its kernel, and so its name here.
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
"""The interval at which a process shows that its machine has the database open."""
SILENT_S = 20.0
"""Seconds of another machine's silence, watched by this one, after which this one opens the database."""
GONE_S = 600.0
"""The same by the clocks of the two machines, which may disagree; after this long, no watching is needed."""

logger = logging.getLogger("offramp")


class OnOtherMachine(StoreError):
    """A process on another machine has the database open."""


def here() -> str:
    """The name of the running kernel; it changes with every start."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return platform.node()


class Residence:
    """Marks the database as open on this machine, until `close`.

    Args:
        file: the lock file, which exists.

    Raises:
        OnOtherMachine: it is open on another machine.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._over = threading.Event()
        name = here()
        if not _is_free(file, name):
            raise OnOtherMachine(
                f"the database in {str(file.parent)!r} is open on another machine: SQLite serves the processes of one "
                "machine. Give each machine its own folder, or keep the runs of several machines in Redis (--store)"
            )
        if _seen(file)[0] == name:
            os.utime(file)
        else:
            file.write_text(name, "utf-8")
        threading.Thread(target=self._beat, name="offramp-machine", daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a full disk, or a removed folder: the writer reports it
                os.utime(self._file)

    def close(self, *, last: bool) -> None:
        """Stop marking; the `last` process of this machine leaves the database to any machine."""
        self._over.set()
        if last:
            with contextlib.suppress(OSError):
                self._file.write_text("", "utf-8")


def _is_free(file: Path, name: str) -> bool:
    """Whether no other machine has it open; waits until that is certain."""
    before = _seen(file)
    if before[0] in {"", name} or time.time() - before[1] > GONE_S:
        return True
    logger.warning("%s was open on another machine: waiting %g s to see whether it still is", file.parent, SILENT_S)
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
    """The machine that wrote the file, and the time; reopened, so that a network file system rereads it."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(200).strip(), os.fstat(opened.fileno()).st_mtime
