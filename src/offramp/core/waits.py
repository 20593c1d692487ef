"""The waits of a run, from its event log: those that are open, and the signals that they received or refused."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec

from offramp.core.events import Draft, Frame

ASK_BYTES_MAX = 16 * 1024
"""The limit of what `offramp.signal(ask=)` asks, as JSON."""
SCHEMA_BYTES_MAX = 16 * 1024
"""The limit of `offramp.signal(schema=)` as JSON Schema."""
WAITS_SHOWN_MAX = 100
"""The waits that a run document shows."""

Kind = Literal["signal", "time"]
WaitState = Literal["sleep", "signal"]
_KINDS: dict[str, Kind] = {"signal": "signal", "sleep": "time"}
BITS: dict[WaitState, int] = {"signal": 1, "sleep": 2}
"""Stores keep the kinds of a run's open waits as a mask of these."""
_NULL = msgspec.Raw(b"null")
_PREFIXES = (b'{"type":"wait.', b'{"type":"signal.')


class OpenWait(NamedTuple):
    """A wait that has begun and not ended; `ask` and `schema` are JSON."""

    kind: Kind
    name: str | None
    since: str
    until: str | None
    ask: msgspec.Raw
    schema: msgspec.Raw


class Waits(NamedTuple):
    """The waits of a run.

    Attributes:
        open: those that have begun and not ended, by key, in the order in which they began.
        received: how many signals of each name a wait has received.
        refused: the signals that came before a wait that they do not fit, as `refusal` writes them.
    """

    open: dict[str, OpenWait]
    received: Counter[str]
    refused: dict[str, str]

    def named(self, name: str) -> list[OpenWait]:
        """The waits for a signal of this name."""
        return [wait for wait in self.open.values() if wait.kind == "signal" and wait.name == name]

    def taken(self, name: str) -> int:
        """How many signals of this name need no further wait: received ones, and ones that fitted none."""
        misfits = {refused.rpartition(" ")[2] for refused, of in self.refused.items() if of == name}
        return self.received[name] + len(misfits)

    def document(self) -> list[dict[str, Any]]:
        """`waiting_for` of a run document: the waits that began first."""
        return [wait._asdict() for wait in itertools.islice(self.open.values(), WAITS_SHOWN_MAX)]


class _Seen(msgspec.Struct):
    type: str
    at: str
    key: str
    wait: str = "signal"
    name: str | None = None
    until: str | None = None
    reason: str = ""
    signal: int = 0
    ask: msgspec.Raw = _NULL
    schema: msgspec.Raw = _NULL


_seen = msgspec.json.Decoder(_Seen).decode


def refusal(key: str, number: int) -> str:
    """The mark of a signal, by its place among those of its run, that does not fit the call with this key."""
    return f"{key} {number}"


def waits_in(frames: Iterable[Frame]) -> Waits:
    """The waits of a run, from its events."""
    waits = Waits({}, Counter(), {})
    for frame in frames:
        if not frame.data.startswith(_PREFIXES):
            continue
        seen = _seen(frame.data)
        if seen.type == "wait.started":
            waits.open[seen.key] = OpenWait(
                _KINDS[seen.wait], seen.name, seen.at, seen.until, seen.ask.copy(), seen.schema.copy()
            )
        elif seen.type == "wait.ended":
            waits.open.pop(seen.key, None)
            if seen.reason == "received" and seen.name is not None:
                waits.received[seen.name] += 1
        elif seen.type == "signal.refused" and seen.name is not None:
            waits.refused[refusal(seen.key, seen.signal)] = seen.name
    return waits


def marks_of(waits: Waits) -> list[str]:
    """The open waits, as `Change` marks them."""
    return [Change("signal" if wait.kind == "signal" else "sleep", key).mark for key, wait in waits.open.items()]


def kinds_in(mask: int) -> list[Kind]:
    """The kinds of waits in a mask of `BITS`."""
    return [_KINDS[wait] for wait, bit in BITS.items() if mask & bit]


class Change(msgspec.Struct, frozen=True):
    """The start or end of a wait, as a store counts it."""

    wait: WaitState
    key: str
    begins: bool = False

    @property
    def mark(self) -> str:
        """The wait among those of its run: its kind, a space, its key."""
        return f"{self.wait} {self.key}"


class _Changed(msgspec.Struct):
    wait: WaitState
    key: str


_changed = msgspec.json.Decoder(_Changed).decode


def change_in(event: Draft) -> Change | None:
    """The start or end of a wait that an event states; None in others."""
    if not event.type.startswith("wait."):
        return None
    made = _changed(event.body)
    return Change(made.wait, made.key, event.type == "wait.started")
