"""Server-sent events from bytes, as the WHATWG standard (HTML, section 9.2.6) says. Pure; knows nothing of runs."""

from __future__ import annotations

import re
from typing import NamedTuple

RETRY_DIGITS_MAX = 9
"""A longer `retry` is no sensible time, and may be too long for Python to parse."""
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Of one message, whether it has ended or not. No event of a gateway comes near it."""
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Message(NamedTuple):
    """One dispatched event; `id` is the last id in the stream."""

    id: str
    event: str
    data: bytes


class MessageTooLarge(ValueError):
    """A message has more bytes than `MESSAGE_BYTES_MAX`."""


class EventStream:
    """Parses chunks cut anywhere into complete messages; `retry_ms` is the server's wish."""

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._held = b""
        self._line_begun: list[bytes] = []
        self._is_new = True
        self._id = ""
        self._event = ""
        self._data: list[bytes] = []
        self._line_size = self._data_size = 0

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that this chunk completes.

        Raises:
            MessageTooLarge: the message that it belongs to has too many bytes.
        """
        chunk, self._held = self._held + chunk, b""
        if self._is_new:
            if _BOM.startswith(chunk):  # the first bytes of a mark, or nothing yet
                self._held = chunk
                return []
            self._is_new, chunk = False, chunk.removeprefix(_BOM)
        if chunk.endswith(b"\r"):  # perhaps half of a line end
            chunk, self._held = chunk[:-1], b"\r"
        # A line may come in any number of chunks: each byte is scanned once.
        *lines, rest = _LINE_END.split(chunk)
        if lines:
            lines[0] = b"".join([*self._line_begun, lines[0]])
            self._line_begun, self._line_size = [], 0
        self._line_begun.append(rest)
        self._line_size += len(rest)
        found = [message for line in lines if (message := self._line(line)) is not None]
        if self._line_size + self._data_size > MESSAGE_BYTES_MAX:
            raise MessageTooLarge(f"a message of the stream has more than {MESSAGE_BYTES_MAX} bytes")
        return found

    def _line(self, line: bytes) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_size += len(value) + 1
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) <= RETRY_DIGITS_MAX:
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> Message | None:
        event, data = self._event or "message", self._data
        self._event, self._data, self._data_size = "", [], 0
        return Message(self._id, event, b"\n".join(data)) if data else None
