"""Where a coordinator is met: its socket, its lock, its files in the data directory, and whom it lets in.

<data>/limits.lock      held by the coordinator while it lives; holds its pid
<data>/limits/          for this user alone
socket              where it listens
clients             the processes that a successor waits for
state               what it has counted
log                 its own log
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from offramp.errors import SettingsError

LOCK = "limits.lock"
FOLDER = "limits"
SOCKET = "socket"
CLIENTS = "clients"
STATE = "state"
LOG = "log"
SOCKET_PATH_BYTES_MAX = 103
"""The longest path that every system takes as the address of a socket; longer ones are reached by a detour."""
BACKLOG = 1024
"""Processes that may wait to be let in."""


def open_folder(data: Path) -> Path:
    """The coordinator's folder, made if it is missing.

    Raises:
        SettingsError: another user owns it.
        OSError: it cannot be made.
    """
    folder = data / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise SettingsError(f"{folder} belongs to another user; the limits of a service are shared by one user alone")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def connect(folder: Path) -> socket.socket:
    """A connection to the coordinator, which does not block.

    Raises:
        OSError: there is none, or it takes no more connections, or another user runs it.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        with _short(folder) as path:
            made.connect(path)
        if not is_own(made):
            raise PermissionError(f"another user listens at {folder / SOCKET}")
    except BaseException:
        made.close()
        raise
    return made


def listen(folder: Path) -> socket.socket:
    """The socket of a coordinator that holds the lock; a dead one's is replaced.

    Raises:
        OSError: the folder cannot be written, or has no sockets.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        with _short(folder) as path:
            with contextlib.suppress(FileNotFoundError):
                (folder / SOCKET).unlink()
            made.bind(path)
            (folder / SOCKET).chmod(0o600)
            made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the socket that is short enough, while this is entered."""
    path = str(folder / SOCKET)
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield path
    elif sys.platform == "linux":
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{opened}/{SOCKET}"
        finally:
            os.close(opened)
    else:
        beside = tempfile.mkdtemp(prefix="offramp-", dir="/tmp")
        try:
            link = Path(beside) / "f"
            link.symlink_to(folder, target_is_directory=True)
            yield str(link / SOCKET)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def is_own(connected: socket.socket) -> bool:
    """Whether the process at the other end is of this user, as far as the system says."""
    if hasattr(socket, "SO_PEERCRED"):
        _pid, uid, _gid = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return bool(uid == os.getuid())
    return True  # other systems tell in other ways; the folder lets no other user in


def peer_pid(connected: socket.socket) -> int | None:
    """The id of the process at the other end; 0 if it cannot be seen from here, None if the system does not say."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, _uid, _gid = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)
    return None


def take_lock(data: Path) -> int | None:
    """A descriptor that holds the lock, also in every process that inherits it; None while another process holds it.

    Raises:
        OSError: the file cannot be opened.
    """
    import fcntl

    opened = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(opened, 0)
    except BlockingIOError:
        os.close(opened)
        return None
    except BaseException:
        os.close(opened)
        raise
    return opened


def sign_lock(lock: int) -> None:
    """Write this process's id into the lock that it holds."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def may_hold(data: Path, pid: int) -> bool:
    """Whether the lock is that of this process, by its id as seen from here: it has the file open.

    Its signature alone does not say so: it is an id among the processes that the coordinator sees.
    """
    if sys.platform != "linux":
        return holder(data) == pid
    lock = os.stat(data / LOCK)  # noqa: PTH116 - beside the other
    for opened in _open_files(pid):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(opened), lock):  # noqa: PTH116 - a descriptor, not a path of ours
                return True
    return False


def _open_files(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    try:
        return [f"{folder}/{number}" for number in os.listdir(folder)]  # noqa: PTH208 - see above
    except OSError:
        return []


def holder(data: Path) -> int | None:
    """The id of the coordinator's process; None while none is known."""
    try:
        text = (data / LOCK).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.strip().isdigit() and int(text) > 1 else None
