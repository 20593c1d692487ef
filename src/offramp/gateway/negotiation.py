"""The request headers that select an answer: Prefer, Accept, Idempotency-Key, Last-Event-ID, trace context.

Pure functions over header values. They ignore what the standards say to ignore, and refuse the rest if it is not exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from offramp.errors import RequestError
from offramp.gateway.problems import HeadTooLarge

LIST_LENGTH_MAX = 16 * 1024
"""Characters of all `Prefer`, or all `Accept`, headers of a request together; past it 431."""
LIST_PARTS_MAX = 256
"""Commas and semicolons in them; past it 431."""
WAIT_S_MAX = 10**9
"""A larger `Prefer: wait=N` has the same meaning: longer than any budget."""
IDEMPOTENCY_KEY_LENGTH_MAX = 255
IDEMPOTENCY_KEY_PATTERN = (
    rf"^(?:[!#-~]{{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}"
    rf'|"(?:[ !#-\[\]-~]|\\["\\]){{1,{IDEMPOTENCY_KEY_LENGTH_MAX}}}")$'
)
"""The values that `idempotency_key` accepts, for JSON Schema."""
TRACE_LENGTH_MAX = {"traceparent": 256, "tracestate": 4096, "baggage": 8192}
"""Characters; a longer header is dropped, as W3C Trace Context asks of receivers that cannot use it."""
SEQ_DIGITS_MAX = 15
SEQ_MAX = 10**SEQ_DIGITS_MAX - 1

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SF_STRING = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_BARE_KEY = re.compile(r"[\x21\x23-\x7e]+")

_SSE = ("text", "event-stream")
_JSON = ("application", "json")


class Preference(NamedTuple):
    """The preferences in `Prefer` (RFC 7240); `wait` in whole seconds."""

    respond_async: bool = False
    wait: int | None = None

    @property
    def at_once(self) -> bool:
        """Whether the answer is `202` without waiting: `wait` with `respond-async` still waits (RFC 7240, 4.3)."""
        return self.respond_async and self.wait is None

    def applied(self, status: int) -> str | None:
        """The value of Preference-Applied for an answer with `status`."""
        names = ["respond-async"] if self.respond_async and status == 202 else []
        if self.wait is not None:
            names.append(f"wait={self.wait}")
        return ", ".join(names) or None


def prefer(values: Sequence[str]) -> Preference:
    """Read all Prefer headers. The first value of a preference counts; unknown preferences are ignored.

    Raises:
        HeadTooLarge: they exceed `LIST_LENGTH_MAX` or `LIST_PARTS_MAX`.
    """
    seen: dict[str, str] = {}
    for value in _bounded("Prefer", values):
        for item in _split(value, ","):
            name, value_of = _pair(_split(item, ";")[0])
            if name:
                seen.setdefault(name, value_of)
    wait = seen.get("wait", "")
    seconds = min(int(wait), WAIT_S_MAX) if wait.isascii() and wait.isdigit() and len(wait) < 1000 else None
    return Preference("respond-async" in seen, seconds)


def _pair(text: str) -> tuple[str, str]:
    """Split `name`, `name=token` or `name="quoted"`; anything else gives an empty name."""
    name, _, value = text.partition("=")
    name, value = name.strip(" \t").lower(), value.strip(" \t")
    if not _TOKEN.fullmatch(name):
        return "", ""
    if value.startswith('"'):
        return (name, re.sub(r"\\(.)", r"\1", value[1:-1])) if len(value) > 1 and value.endswith('"') else ("", "")
    return (name, value) if not value or _TOKEN.fullmatch(value) else ("", "")


def _bounded(name: str, values: Sequence[str]) -> Sequence[str]:
    """Return the values of a list header, unless parsing them would cost more than the rest of the request."""
    if sum(map(len, values)) > LIST_LENGTH_MAX:
        raise HeadTooLarge(f"the {name} headers have more than {LIST_LENGTH_MAX} characters together")
    if sum(value.count(",") + value.count(";") for value in values) > LIST_PARTS_MAX:
        raise HeadTooLarge(f"the {name} headers have more than {LIST_PARTS_MAX} commas and semicolons together")
    return values


def _splitter(separator: str) -> re.Pattern[str]:
    # Possessive, and an unclosed quote ends with the text: one pass over any input.
    return re.compile(rf'((?:[^"{separator}]++|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z))*+)(?:{separator}|\Z)', re.DOTALL)


_SPLITTERS = {separator: _splitter(separator) for separator in ",;"}


def _split(text: str, separator: str) -> list[str]:
    """Split at `separator` outside of quoted strings."""
    return text.split(separator) if '"' not in text else _SPLITTERS[separator].findall(text)


class _Range(NamedTuple):
    kind: tuple[str, str]
    quality: float
    position: int


def wants_stream(values: Sequence[str]) -> bool:
    """Whether Accept prefers `text/event-stream` to JSON, which is the default (RFC 9110, 12.5.1).

    If both are equally good, a named type wins over one covered by a wildcard, then the one named first.

    Raises:
        HeadTooLarge: they exceed `LIST_LENGTH_MAX` or `LIST_PARTS_MAX`.
    """
    if not values:
        return False
    ranges = list(_ranges(",".join(_bounded("Accept", values))))
    stream, json = _best(ranges, _SSE), _best(ranges, _JSON)
    if stream is None or stream.quality == 0:
        return False
    if json is None or stream.quality != json.quality:
        return json is None or stream.quality > json.quality
    if stream.kind == _SSE and json.kind == _JSON:
        return stream.position < json.position
    return stream.kind == _SSE


def _ranges(text: str) -> Iterator[_Range]:
    for position, item in enumerate(_split(text, ",")):
        media, *parameters = _split(item, ";")
        kind, _, subtype = media.strip(" \t").lower().partition("/")
        quality = 1.0
        for parameter in parameters:
            name, value = _pair(parameter)
            if name == "q":
                quality = float(value) if _QVALUE.fullmatch(value) else -1.0
        if quality >= 0 and _TOKEN.fullmatch(kind) and _TOKEN.fullmatch(subtype):
            yield _Range((kind, subtype), quality, position)


def _best(ranges: Sequence[_Range], media: tuple[str, str]) -> _Range | None:
    """The most specific range that covers `media`."""
    for kind in (media, (media[0], "*"), ("*", "*")):
        matches = [each for each in ranges if each.kind == kind]
        if matches:
            return max(matches, key=lambda each: (each.quality, -each.position))
    return None


def idempotency_key(values: Sequence[str]) -> str | None:
    """Read the key, a quoted string (RFC 8941) or bare.

    Raises:
        RequestError: it is empty, too long, sent twice or not printable ASCII.
    """
    if not values:
        return None
    if len(values) > 1:
        raise RequestError("Idempotency-Key was sent more than once; send it once")
    text = values[0].strip(" \t")
    quoted = _SF_STRING.fullmatch(text)
    if quoted:
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _BARE_KEY.fullmatch(text):
        key = text
    else:
        raise RequestError(
            "Idempotency-Key must be printable ASCII, best as a quoted string: "
            'Idempotency-Key: "8e03978e-40d5-43dd-bc93-6894a57f9324"'
        )
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX:
        raise RequestError(f"Idempotency-Key has 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} characters, got {len(key)}")
    return key


def position(last_event_id: str | None, starting_after: str | None = None, in_query: str | None = None) -> int:
    """The number of the event after which a stream starts.

    Args:
        last_event_id: the header Last-Event-ID; a browser sends it when it reconnects, so it wins.
        starting_after: where the address says to start.
        in_query: `?lastEventId=`, which clients that cannot send the header add to the address when they reconnect.

    Raises:
        RequestError: one is not an event number.
    """
    after = 0
    given = (("starting_after", starting_after), ("lastEventId", in_query), ("Last-Event-ID", last_event_id))
    for name, text in given:
        if text:
            if not (text.isascii() and text.isdigit() and len(text) <= SEQ_DIGITS_MAX):
                raise RequestError(f"{name} must be the number of the last event seen, 0 or more, got {text[:50]!r}")
            after = int(text)
    return after


def trace_context(headers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """`traceparent`, `tracestate` and `baggage` as received, within bounds; lists sent in parts are joined."""
    context = {}
    for name, length_max in TRACE_LENGTH_MAX.items():
        values = headers.get(name, ())
        text = ",".join(values)
        unique = name != "traceparent" or len(values) == 1
        if text and unique and len(text) <= length_max:
            context[name] = text
    return context
