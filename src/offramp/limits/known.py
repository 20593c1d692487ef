"""The files of a coordinator for the next one: the processes that it serves, and what it had counted at its end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from offramp.core.limits.memory import Called, State
from offramp.limits.address import CLIENTS, STATE

STATE_AGE_S_MAX = 86_400.0
"""What was counted longer ago counts in no window any more."""

logger = logging.getLogger("offramp.limits")


class Client(msgspec.Struct, frozen=True):
    """A connected process: its name; its id, 0 if this system does not show it; when it began, 0 if that is unknown."""

    name: str
    pid: int
    began: int = 0


def client(name: str, pid: int) -> Client:
    """A process that lives."""
    found = _stat(pid) if pid else None
    return Client(name, pid, 0 if found is None else found[1])


class Counted(msgspec.Struct, frozen=True):
    """What a coordinator had counted at a time, in epoch seconds: for all, and the calls of each connected process."""

    at: float
    state: State
    calls: dict[str, tuple[Called, ...]] = {}


_clients = msgspec.json.Decoder(list[Client])
_counted = msgspec.msgpack.Decoder(Counted)


def write_clients(folder: Path, clients: list[Client]) -> None:
    """Replace the list; before a process is let in, so that none holds a permit and is missing."""
    _replace(folder / CLIENTS, msgspec.json.encode(clients))


def living_clients(folder: Path) -> list[Client]:
    """The processes that the last coordinator served and that may still live."""
    try:
        listed = _clients.decode((folder / CLIENTS).read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        logger.warning("%s: %s; a successor cannot wait for what it does not know", folder / CLIENTS, error)
        return []
    return [client for client in listed if lives(client)]


def write_state(folder: Path, encoded: bytes) -> None:
    """Leave what counts to a successor: an encoded `Counted`."""
    _replace(folder / STATE, encoded)


def read_state(folder: Path, epoch: float) -> tuple[Counted, float] | None:
    """What the last coordinator had counted, and how many seconds ago. It stays until this one has counted."""
    path = folder / STATE
    try:
        counted = _counted.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        logger.warning("%s: %s; calls that were made before count no more", path, error)
        return None
    age_s = epoch - counted.at
    # A clock that was set back says nothing about the age: as if no time had passed, which is never too late.
    return (counted, max(0.0, age_s)) if age_s <= STATE_AGE_S_MAX else None


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f"{path.name}.new")
    opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(data)
    beside.replace(path)


def lives(client: Client) -> bool:
    """Whether a process may still live."""
    if not client.pid:
        return True
    try:
        os.kill(client.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    found = _stat(client.pid)
    if found is None:
        return True
    state, began = found
    # A dead child that its parent has not waited for is listed, and the id of another may be of a new process.
    return state not in {"Z", "X"} and client.began in {0, began}


def _stat(pid: int) -> tuple[str, int] | None:
    """The state of a process, and when it began, in ticks since the system did; None if that is not shown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
