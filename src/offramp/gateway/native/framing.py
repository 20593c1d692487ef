"""A run's events as the native API sends them over SSE: each frame as it is stored, without decoding it.

Some parsers yield an empty event at each empty line. So `retry:` and heartbeats have none of their own: they are the
first lines of the next event.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from offramp.core.events import TERMINAL, Frame
from offramp.gateway.streams import DEMOTED

RETRY_MS = 1000
"""How long a reader waits before it reconnects."""
HEARTBEAT = b": heartbeat\n"
FIRST = b"retry: %d\n" % RETRY_MS

_TYPE_AT = len(b'{"type":"')
_TERMINAL = frozenset(name.encode() for name in TERMINAL)
_ACCEPTED = b"run.accepted"
_ENDS_UNLESS_FOLLOWED = _TERMINAL | {DEMOTED.encode(), _ACCEPTED}
_LINE_ENDS = [(char.encode(), b"\\u%04x" % ord(char)) for char in "\u0085\u2028\u2029"]
"""Where Unicode, and so `str.splitlines`, ends a line as well; JSON escapes the others."""


class _Accepted(msgspec.Struct):
    path: str


_accepted = msgspec.json.Decoder(_Accepted).decode


class NativeEncoder:
    """Frames as server-sent events whose id is the event's number.

    Args:
        until_deep: end at `run.demoted`, or at the `run.accepted` of a run that begins on the deep path, and not only
            at the terminal event.
    """

    opening = FIRST
    heartbeat = HEARTBEAT

    def __init__(self, *, until_deep: bool) -> None:
        self._ends = _ENDS_UNLESS_FOLLOWED if until_deep else _TERMINAL

    def encode(self, frames: Sequence[Frame]) -> tuple[bytes, int, bool]:
        """One chunk up to and with the first frame that ends the stream; how many events; whether one ends it."""
        parts: list[bytes] = []
        for frame in frames:
            data = frame.data
            kind = data[_TYPE_AT : data.index(b'"', _TYPE_AT)]
            if b"\n" in data or b"\r" in data:
                # Only between tokens: JSON escapes them inside of strings. A line break would end the field.
                data = data.replace(b"\n", b" ").replace(b"\r", b" ")
            if not data.isascii():
                for char, escaped in _LINE_ENDS:
                    data = data.replace(char, escaped)
            parts.append(b"id: %d\nevent: %b\ndata: %b\n\n" % (frame.seq, kind, data))
            if kind in self._ends and (kind != _ACCEPTED or _accepted(frame.data).path == "deep"):
                return b"".join(parts), len(parts), True
        return b"".join(parts), len(parts), False
