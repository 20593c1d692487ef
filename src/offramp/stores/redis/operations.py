"""Operations of the writer as data: the arguments of the script `apply.lua`, and how its answers are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from offramp.core.events import Draft
from offramp.core.run import RunRecord
from offramp.errors import LeaseLost, StoreError
from offramp.ports.commit import Commit
from offramp.ports.store import Lease

OK, LOST, REFUSED, FAILED = 0, 1, 2, 9
"""The codes of answers, as in apply.lua."""

encode = msgspec.msgpack.Encoder().encode
NOTHING = encode(False)
"""Replaces an abandoned operation in a batch."""

Records = dict[bytes, RunRecord]
"""The runs that the answers of a batch name."""


class Operation(msgspec.Struct, eq=False, gc=False):
    """One operation.

    `wire` goes to the script; `read` turns its answer into a value, or raises. `retained` operations belong to an
    accepted run and wait until the server is back; the others fail while it is unavailable, and `undo` takes back one
    that was applied all the same.
    """

    wire: bytes
    commit: Commit[Any] | None = None
    read: Callable[[Any, Records], Any] | None = None
    lease: Lease | None = None
    run_id: str = ""
    event: Draft | None = None
    durable: bool = False
    retained: bool = False
    size: int = 0
    """Bytes that count towards the backlog: only emitted values have any."""
    entries: int = 0
    """The number of journal entries that it records."""
    created_for: str | None = None
    claimed_by: str | None = None
    gives_up: bool = False
    """Whether applying it ends the lease."""
    is_new: bool = False
    """Whether it creates a run, which is not accepted yet."""
    asked_at: float = math.inf
    """The monotonic time since which a request has waited that must not be written late."""
    undo: Callable[[Any], list[Operation]] | None = None

    def outcome(self, answer: Any, records: Records) -> tuple[Any, BaseException | None]:
        """The value and the error of the commit."""
        if not isinstance(answer, int) and answer[0] == FAILED:
            return None, StoreError(f"Redis did not apply the write: {answer[1].decode(errors='replace')[:300]}")
        if is_lost(answer):
            return None, lost(self.lease)
        if self.read is None:
            return None, None
        try:
            return self.read(answer, records), None
        except Exception as error:  # noqa: BLE001 - raised to the waiting caller
            return None, error


def wire(*parts: Any) -> bytes:
    """An operation for the script; bytes in it have to be `raw`."""
    return encode(parts)


def raw(data: bytes) -> msgspec.Raw:
    """Bytes in a form that the script can read: MessagePack's older strings, which may hold any bytes."""
    size = len(data)
    if size < 32:
        return msgspec.Raw(bytes((0xA0 | size,)) + data)
    if size < 1 << 8:
        return msgspec.Raw(bytes((0xD9, size)) + data)
    if size < 1 << 16:
        return msgspec.Raw(b"\xda" + size.to_bytes(2, "big") + data)
    return msgspec.Raw(b"\xdb" + size.to_bytes(4, "big") + data)


def batch_of(wires: Sequence[bytes]) -> bytes:
    """Operations as one array."""
    return b"\xdd" + len(wires).to_bytes(4, "big") + b"".join(wires)


def is_lost(answer: Any) -> bool:
    """Whether the lease was lost, or is lost now because a write with it failed."""
    return answer == -1 if isinstance(answer, int) else answer[0] in {LOST, FAILED}


def lost(lease: Lease | None) -> LeaseLost:
    """The error for a lost lease."""
    return LeaseLost(f"{lease.run_id if lease else 'the run'} is owned by another process now; nothing was written")


def halves(event: Draft, run_id: str) -> tuple[msgspec.Raw, msgspec.Raw]:
    """An event's encoding before and after its number, see `core.events.frame`."""
    body, split = event.body, event.split
    return (
        raw(b'%b"run_id":"%b","seq":' % (body[:split], run_id.encode())),
        raw(b',"at":"%b",%b' % (event.at.encode(), body[split:])),
    )


def held(lease: Lease) -> tuple[str, str, int, str, int]:
    """A lease for the script."""
    return lease.run_id, lease.owner, lease.token, lease.step, lease.turn
