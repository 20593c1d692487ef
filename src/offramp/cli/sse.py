"""Server-sent events from bytes, as the WHATWG standard (HTML, section 9.2.6) says. Pure; knows nothing of runs."""

from __future__ import annotations

import re
from typing import NamedTuple

RETRY_DIGITS_MAX = 9
"""A longer `retry` is no time that anybody waits, and too long a number for Python to read."""
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class Message(NamedTuple):
    """One dispatched event; `id` is the last one that the stream gave."""

    id: str
    event: str
    data: bytes


class EventStream:
    """Takes bytes cut anywhere and returns the messages that are complete; `retry_ms` is what the server asked for."""

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._rest = b""
        self._is_new = True
        self._id = ""
        self._event = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that this chunk completes."""
        self._rest += chunk
        if self._is_new:
            if _BOM.startswith(self._rest):  # the first bytes of one, or nothing yet
                return []
            self._is_new, self._rest = False, self._rest.removeprefix(_BOM)
        *lines, self._rest = _LINE_END.split(self._rest)
        return [message for line in lines if (message := self._line(line)) is not None]

    def _line(self, line: bytes) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) <= RETRY_DIGITS_MAX:
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> Message | None:
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Message(self._id, event, b"\n".join(data)) if data else None
