"""The body of an answer, read while it passes: the first token, an error in a stream, what the call used.

It is given the bytes of an answer in pieces cut anywhere, as the network has them, and changes none. Memory is bounded
and time is linear. What it cannot read it leaves: then the first byte is the first token, and usage is unknown.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from offramp.core.limits.headers import headers_of
from offramp.core.limits.said import Answer, Verdict, decoded, is_error, judged, verdict_of_answer

HEAD_BYTES_MAX = 65_536
"""Of a body, or an event in a stream, that are kept from its start: a longer one is no error."""
TAIL_BYTES_MAX = 32_768
"""Of a longer one, that are kept from its end, where the usage is."""
UNPACKED_BYTES_MAX = 67_108_864
"""Of a compressed body that are unpacked; the rest is not read."""
UNPACKED_AT_ONCE = 65_536
TOKENS_MAX = 10**12
"""A larger number of tokens is not believed."""

_USAGE = re.compile(rb'"usage(?:Metadata)?"\s*:\s*\{')
_ANNOUNCES = frozenset({"ping", "message_start", "response.created", "response.queued", "response.in_progress"})
"""Types of events that come before the first token."""
_LAST = frozenset({b"message_stop", b"response.completed", b"response.incomplete", b"response.failed"})
"""Names of the last event of a stream; OpenAI's chat completions end with `[DONE]`."""
_FIELD_BYTES, _NAME_BYTES_MAX = 6, 40
_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens")
_OUTPUT = ("completion_tokens", "output_tokens", "outputTokens")
_CACHED = ("cached_tokens", "cache_read_input_tokens", "cachedContentTokenCount", "cacheReadInputTokens")
_WRITTEN = ("cache_creation_input_tokens", "cacheWriteInputTokens")
_TOTAL = ("total_tokens", "totalTokenCount", "totalTokens")
_GENERATED = ("candidatesTokenCount", "thoughtsTokenCount")
_APART = ("cache_read_input_tokens", "cacheReadInputTokens")
"""Names of cached tokens that the input does not include."""
_NAMES = frozenset((*_INPUT, *_OUTPUT, *_CACHED, *_WRITTEN, *_TOTAL, *_GENERATED))


class Usage(NamedTuple):
    """The tokens of a call, as its provider counts them.

    Attributes:
        input: of the prompt, cached ones included.
        output: that were generated.
        cached: of the prompt, that were read from a cache.
        counted: that count against a limit: all, but for those that Anthropic and Bedrock read from a cache.
    """

    input: int
    output: int
    cached: int
    counted: int


def accepted_encoding(value: str) -> str:
    """An `Accept-Encoding` without what cannot be read here: gzip, deflate and identity stay."""
    wanted = (each.strip() for each in value.split(","))
    readable = [each for each in wanted if each.partition(";")[0].strip().lower() in ("gzip", "deflate", "identity")]
    return ", ".join(readable) or "identity"


class Reader:
    """Reads one answer.

    Args:
        status: its HTTP status.
        headers: as a mapping, or pairs, of text or bytes.

    Attributes:
        first: the first token has come: the first data of a stream that is neither a ping nor an announcement, or the
            first byte of another body.
        failed: the stream has reported an error.
        complete: the last event of a stream has come. A client that closes it now has lost nothing.
    """

    def __init__(self, status: int, headers: object) -> None:
        self.status = status
        self.headers = headers_of(headers)
        self.first = self.failed = self.complete = False
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        self._events: _Events | None = None
        if status < 400 and kind in ("text/event-stream", "application/x-ndjson", "application/jsonl"):
            self._events = _Events(self._event, each_line=kind != "text/event-stream")
        self._body = _Kept()
        self._unpacked: _Unpacked | None = None
        self._is_readable = True
        packed = self.headers.get("content-encoding", "").lower()
        if packed in ("gzip", "x-gzip", "deflate"):
            self._unpacked = _Unpacked()
        elif packed not in ("", "identity"):
            self._is_readable = False
        self._used: dict[str, int] = {}
        self._error: Any = None

    def feed(self, chunk: bytes) -> None:
        """The next bytes, as the network has them: still compressed if `Content-Encoding` says so."""
        if not chunk:
            return
        if self._events is None or not self._is_readable:
            self.first = True
        if not self._is_readable:
            return
        if self._unpacked is None:
            self._read(chunk)
            return
        try:
            for data in self._unpacked.feed(chunk):
                self._read(data)
        except zlib.error:
            self._is_readable, self.first = False, True

    def verdict(self, now: float) -> Verdict:
        """What the answer says. The body has ended, or no more of it is read; `now` is in epoch seconds."""
        if self._events is not None:
            self._events.end()
        elif self.status < 400:
            self._take(self._body, None)
        if self.failed:
            return judged(Answer(self.status, self.headers, self._error), now) or Verdict("failed", "error event")
        return verdict_of_answer(self.status, self.headers, self._body.whole() or b"", now=now)

    @property
    def usage(self) -> Usage | None:
        """What the call used, as far as it is known; in full after `verdict`. None if the provider has not said so."""
        return _usage(self._used)

    def _read(self, data: bytes) -> None:
        if self._events is None:
            self._body.add(data)
        else:
            self._events.feed(data)

    def _event(self, name: bytes, data: _Kept) -> None:
        """An event of a stream is complete."""
        self._take(data, name)
        if name in _LAST or data.head.startswith(b"[DONE]"):
            self.complete = True

    def _take(self, part: _Kept, name: bytes | None) -> None:
        """Look at an event, or a whole body: decode it only if it may have what is wanted."""
        data = part.whole()
        if data is None:
            self.first = True
            self._used |= _numbers(_last_usage(part.end()))
            return
        may_be_error = name == b"error" or b'"error"' in data
        has_usage = _USAGE.search(data) is not None
        if self.first and not may_be_error and not has_usage:
            return
        content = decoded(data)
        if may_be_error and (name == b"error" or is_error(content, self.status)):
            self.failed, self._error = True, content
            return
        self.first = self.first or _is_token(content, data)
        if isinstance(content, Mapping):
            for each in _usages(content):
                self._used |= _numbers(each)
        elif has_usage:
            self._used |= _numbers(_last_usage(part.end()))


class _Kept:
    """Bytes, of which the start and, past it, the end is kept."""

    __slots__ = ("_is_cut", "head", "tail")

    def __init__(self) -> None:
        self.head, self.tail, self._is_cut = bytearray(), bytearray(), False

    def add(self, data: bytes) -> None:
        """More."""
        room = HEAD_BYTES_MAX - len(self.head)
        if len(data) <= room:
            self.head += data
            return
        self.head += data[:room]
        self.tail += data[room:]
        if len(self.tail) > 2 * TAIL_BYTES_MAX:
            del self.tail[:-TAIL_BYTES_MAX]
            self._is_cut = True

    def whole(self) -> bytes | None:
        """All of it; None if the middle is missing."""
        return None if self._is_cut else bytes(self.head + self.tail if self.tail else self.head)

    def end(self) -> bytes:
        """The end of it."""
        return bytes(self.tail or self.head)[-TAIL_BYTES_MAX:]


class _Events:
    """The events of a stream, or the lines of one, from pieces cut anywhere (WHATWG HTML, server-sent events).

    Args:
        emit: called with each event's name and data.
        each_line: a line is an event.
    """

    def __init__(self, emit: Callable[[bytes, _Kept], None], *, each_line: bool) -> None:
        self._emit = emit
        self._each_line = each_line
        self._begun = b""
        self._field: bytes | None = None
        self._name = b""
        self._data: _Kept | None = None
        self._after_return = False

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        if self._after_return and data.startswith(b"\n"):
            data = data[1:]
        self._after_return = data.endswith(b"\r")
        for line in data.splitlines(keepends=True):
            is_ended = line.endswith((b"\n", b"\r"))
            self._piece(line.rstrip(b"\r\n") if is_ended else line, is_ended)

    def end(self) -> None:
        """There is no more: what has come counts as an event."""
        self._piece(b"", is_ended=True)
        self._dispatch()

    def _piece(self, piece: bytes, is_ended: bool) -> None:  # noqa: FBT001 - private, and called for every line
        """A part of a line, or all of it."""
        field = self._field
        if field is None:
            piece = self._begun + piece
            if len(piece) < _FIELD_BYTES and not is_ended:
                self._begun = piece
                return
            self._begun = b""
            if not piece:
                self._dispatch()
                return
            field, piece = self._field_of(piece)
        if field == b"data" and self._data is not None:
            self._data.add(piece)
        elif field == b"event":
            self._name = (self._name + piece)[:_NAME_BYTES_MAX]
        self._field = None if is_ended else field
        if is_ended and self._each_line:
            self._dispatch()

    def _field_of(self, line: bytes) -> tuple[bytes, bytes]:
        """The field of a line that begins so, and what has come of its value."""
        if self._each_line:
            self._data = _Kept()
            return b"data", line
        if line.startswith(b"data:"):
            if self._data is None:
                self._data = _Kept()
            else:
                self._data.add(b"\n")
            return b"data", line[6:] if line[5:6] == b" " else line[5:]
        if line.startswith(b"event:"):
            self._name = b""
            return b"event", line[6:].lstrip(b" ")
        return b"", b""

    def _dispatch(self) -> None:
        name, data = self._name, self._data
        self._name, self._data = b"", None
        if data is not None:
            self._emit(name.strip(), data)


class _Unpacked:
    """Unpacks gzip and deflate, a bounded piece at a time, up to a bound in all."""

    def __init__(self) -> None:
        self._packed = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        self._bytes = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What these bytes unpack to.

        Raises:
            zlib.error: they have another form, or unpack to too much.
        """
        while chunk:
            data = self._packed.decompress(chunk, UNPACKED_AT_ONCE)
            self._bytes += len(data)
            if self._bytes > UNPACKED_BYTES_MAX:
                raise zlib.error("more than is unpacked")
            if data:
                yield data
            chunk = self._packed.unconsumed_tail
            if self._packed.eof:  # another member may follow
                chunk, self._packed = self._packed.unused_data, zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)


def _is_token(content: Any, data: bytes) -> bool:
    """Whether an event is more than an announcement."""
    if not isinstance(content, Mapping):
        return not data.startswith(b"[DONE]")
    return content.get("type") not in _ANNOUNCES and content.get("choices") != []


def _usages(content: Mapping[str, Any]) -> Iterator[Any]:
    """Where providers put the usage: at the top, or in the message, response or extension of an event."""
    yield content.get("usageMetadata")
    for each in (content.get("message"), content.get("response"), content.get("x_groq"), content):
        if isinstance(each, Mapping):
            yield each.get("usage")


def _last_usage(end: bytes) -> Any:
    """The last usage in the end of a body that is too long to decode."""
    places = [match.end() - 1 for match in _USAGE.finditer(end)]
    if not places:
        return None
    try:
        return json.JSONDecoder().raw_decode(end[places[-1] :].decode("utf-8", "replace"))[0]
    except (ValueError, RecursionError):
        return None


def _numbers(usage: Any) -> dict[str, int]:
    """The numbers of a usage and of its details."""
    numbers: dict[str, int] = {}
    if isinstance(usage, Mapping):
        for name, value in usage.items():
            if isinstance(value, Mapping):
                numbers |= {each: number for each, number in value.items() if each in _CACHED and _is_count(number)}
            elif name in _NAMES and _is_count(value):
                numbers[name] = value
    return numbers


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX


def _usage(used: Mapping[str, int]) -> Usage | None:
    if not any(name in used for name in (*_INPUT, *_OUTPUT, *_TOTAL, *_GENERATED)):
        return None
    prompt, output, apart, written = (_first(used, names) for names in (_INPUT, _OUTPUT, _APART, _WRITTEN))
    output = output or sum(used.get(name, 0) for name in _GENERATED)
    counted = prompt + written + output
    if not apart and not written:
        counted = max(counted, _first(used, _TOTAL))
    return Usage(prompt + apart + written, output, _first(used, _CACHED), counted)


def _first(used: Mapping[str, int], names: Iterable[str]) -> int:
    return next((used[name] for name in names if name in used), 0)
