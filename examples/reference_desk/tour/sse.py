"""Server-sent events from bytes. Owns the wire format and nothing else; see WHATWG HTML, section 9.2.6."""

import re
from dataclasses import dataclass, field

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class Message:
    """One dispatched event; `id` is the stream's last id, which a resuming reader sends back."""

    id: str
    event: str
    data: str


@dataclass
class Parser:
    """Takes bytes as they arrive, split anywhere, and returns the completed messages.

    Lines end at CR, LF or both and nowhere else: the Unicode line separators that `str.splitlines` knows are
    data.
    """

    _rest: bytes = b""
    _last_id: str = ""
    _event: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the messages that this chunk completes."""
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        messages = (self._line(line.decode(errors="replace")) for line in lines)
        return [message for message in messages if message]

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._last_id = value
        return None

    def _dispatch(self) -> Message | None:
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Message(id=self._last_id, event=event, data="\n".join(data)) if data else None
