"""Starts the coordinator of a data directory, once among all processes that want it, and ends one that has hung.

The process that gets the lock passes it on to the coordinator, which so holds it from its first moment.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, cast

from offramp.limits import address

READY = b"ready\n"
"""What a coordinator writes to its stdout, once it listens."""
START_S_MAX = 20.0
"""Seconds that a coordinator may take to listen; then it is killed."""
LOG_BYTES_MAX = 1 << 20
"""Of the coordinator's log, which begins anew at the start of one that finds it larger."""
LOG_SHOWN_CHARACTERS = 500
"""Of the end of its log that an error message shows."""

_KEPT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV")
_LOOK_S = 0.1
_KEPT_PREFIXES = ("LC_", "PYTHON")


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of the coordinator: what Python needs, and no secrets."""
    kept = {name: value for name, value in own.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    kept.pop("PYTHONSTARTUP", None)
    paths = [os.path.abspath(path) for path in own.get("PYTHONPATH", "").split(os.pathsep) if path]  # noqa: PTH100
    root = Path(__file__).resolve().parents[2]
    if root.name not in {"site-packages", "dist-packages"}:
        paths.append(str(root))
    return kept | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


class Start:
    """A coordinator that is being started.

    Args:
        data: the data directory.
        lock: a descriptor that holds its lock; it is closed here.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, data: Path, lock: int) -> None:
        self._log = data / address.FOLDER / address.LOG
        try:
            with self._open_log() as log:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                    [*_command(), "--data", str(data), "--lock", str(lock)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment(os.environ),
                    cwd="/",
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    def wait(self, given_up: Callable[[], bool]) -> str | None:
        """Wait until the coordinator listens, or until this is given up.

        Returns:
            why it does not listen; None if it does, or was given up.
        """
        process = self._process
        with cast("IO[bytes]", process.stdout) as stdout:
            ends, ready = time.monotonic() + START_S_MAX, False
            while not ready and not given_up() and time.monotonic() < ends:
                ready = bool(select.select([stdout], [], [], _LOOK_S)[0])
            words = os.read(stdout.fileno(), len(READY)) if ready else b""
        if words == READY or given_up():
            process.wait()  # the coordinator is its child, and this one ends at once
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not ready:
            return f"it does not listen after {START_S_MAX:g} s"
        return f"it ended: {last_words(self._log.parent)}"

    def _open_log(self) -> IO[bytes]:
        log = open(self._log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))  # noqa: SIM115
        if log.tell() > LOG_BYTES_MAX:
            log.truncate(0)
        return log


def last_words(folder: Path) -> str:
    """The last line of the coordinator's log in this folder."""
    try:
        text = (folder / address.LOG).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return str(error)
    return text[-LOG_SHOWN_CHARACTERS:].strip().rpartition("\n")[2] or "it wrote nothing to its log"


def _command() -> list[str]:
    # -P: a module of the user's beside the service's program is not taken for one of ours.
    return [sys.executable, "-P", "-m", "offramp.limits.coordinator"]


def end_hung(data: Path, pid: int) -> bool:
    """Kill the coordinator of this id, if it still holds the lock; False if it does not, or cannot be seen from here.

    A dead process's id may have been given to another, and in another container it is one of another process.
    """
    if sys.platform != "linux":
        return _kill(data, pid, lambda: os.kill(pid, signal.SIGKILL))
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return _kill(data, pid, lambda: signal.pidfd_send_signal(process, signal.SIGKILL))
    finally:
        os.close(process)


def _kill(data: Path, pid: int, kill: Callable[[], object]) -> bool:
    lock = address.take_lock(data)
    if lock is not None:  # it has ended by itself
        os.close(lock)
        return False
    if not address.may_hold(data, pid):
        return False
    with contextlib.suppress(ProcessLookupError):
        kill()
    return True
