"""The messages between a process and the coordinator of its data directory, and their framing.

A frame is four bytes of its length, big-endian, and a message in msgpack.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from offramp.core.limits.memory import Memory
from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.ports.limits import Answer, Ask, Done, Level

VERSION = 1
"""Of these messages. Processes of another version wait until the coordinator's own clients have left."""
MESSAGE_BYTES_MAX = 64 << 20
"""Of one message. The longest is what a process remembers: about 40 bytes for each call within the longest windows."""

_LENGTH = 4


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first message of a process.

    Attributes:
        version: of its messages.
        client: its id, which outlives the coordinator.
        pid: of the process.
        declared_at: when its service began, in epoch seconds: of two declarations of a resource the later one counts.
        resources: what it uses.
        classes: those of its app.
    """

    version: int
    client: str
    pid: int
    declared_at: float
    resources: tuple[ResourceSpec, ...]
    classes: tuple[SLA, ...]


class Recalled(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What a process remembers, on every connection that it makes."""

    memory: Memory


class Asking(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """See `Limits.ask`."""

    ask: Ask


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """See `Limits.withdraw`."""

    id: str


class Written(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """See `Limits.written`; that was so many seconds ago."""

    id: str
    ago_s: float = 0.0


class Slow(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """See `Limits.slow`."""

    id: str


class Over(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """See `Limits.done`."""

    id: str
    done: Done


class Lifting(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """See `Limits.lift`."""

    run_id: str
    sla: str
    priority: int


class Watching(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The process wants the levels as they change."""


class Looking(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The process wants the levels now, with this number."""

    number: int


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The process has received nothing for a while."""


FromClient = Hello | Recalled | Asking | Withdrawn | Written | Slow | Over | Lifting | Watching | Looking | Ping


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The answer to `Hello`: the process sends what it remembers, then anything else.

    Attributes:
        version: of the coordinator's messages; the process closes the connection if its own differs.
        pid: of the coordinator.
        waits: whether it has just taken over, and grants nothing yet.
    """

    version: int
    pid: int
    waits: bool


class Answered(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The answer to an ask."""

    id: str
    answer: Answer


class Levels(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The levels: for the `Looking` of this number, or for all processes that watch if it is 0."""

    number: int
    levels: tuple[Level, ...]


class Shared(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What all processes remember together: an encoded `State`, which no process reads before it has to hand it on."""

    state: msgspec.Raw


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer to `Ping`."""


FromCoordinator = Welcome | Answered | Levels | Shared | Pong

_encode = msgspec.msgpack.Encoder().encode


def frame(message: object) -> bytes:
    """The message, framed."""
    data = _encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


class FrameError(Exception):
    """The bytes are no message, or too large a one."""


class Frames:
    """Cuts what arrives into messages.

    Args:
        kind: the messages that are expected.
    """

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are complete with this data.

        Raises:
            FrameError: the bytes are no message, or one of more than `MESSAGE_BYTES_MAX`.
        """
        if self._rest:
            # Appended in place: a message that comes byte by byte costs no more than one that comes whole.
            self._rest += data
            if not _end(self._rest, 0):
                return
            data = bytes(self._rest)
            self._rest.clear()
        at = 0
        while end := _end(data, at):
            try:
                yield self._decode(data[at + _LENGTH : end])
            except msgspec.MsgspecError as error:
                raise FrameError(f"bytes that are no message: {error}") from error
            at = end
        self._rest += data[at:]


def _end(data: bytes | bytearray, at: int) -> int:
    """The end of the message that begins here; 0 if it is not complete."""
    if len(data) - at < _LENGTH:
        return 0
    size = int.from_bytes(data[at : at + _LENGTH], "big")
    if size > MESSAGE_BYTES_MAX:
        raise FrameError(f"a message of {size} bytes, where at most {MESSAGE_BYTES_MAX} are allowed")
    end = at + _LENGTH + size
    return end if end <= len(data) else 0
