from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.client.sse import EventStream, Message
from offramp.core.events import TYPES, Frame
from offramp.gateway.native.framing import FIRST, HEARTBEAT, RETRY_MS, NativeEncoder
from tests.gateway.wire import parse_sse

STREAM = (
    b'retry: 2000\n\n: heartbeat\n\nid: 1\nevent: run.accepted\ndata: {"seq":1}\n\n'
    b"id: 2\r\nevent: step.delta\r\ndata: a\r\ndata:  b\xe2\x80\xa8c\r\n\r\ndata: last\n\n"
)  # fmt: skip
MESSAGES = [
    Message("1", "run.accepted", b'{"seq":1}'),
    Message("2", "step.delta", b"a\n b\xe2\x80\xa8c"),
    Message("2", "message", b"last"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_a_stream_reads_the_same_however_it_is_cut(size):
    stream = EventStream()
    parts = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [message for part in parts for message in stream.feed(part)] == MESSAGES
    assert stream.retry_ms == 2000


def test_what_was_not_ended_is_not_an_event():
    assert EventStream().feed(b"data: half\n") == []


def cut_at(data, places):
    """The same bytes in pieces."""
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(marks)]


def read(parts):
    stream = EventStream()
    return [message for part in parts for message in stream.feed(part)], stream.retry_ms


PLACES = st.lists(st.integers(0, 1 << 16), max_size=8)
TEXT = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)
FIELD = st.tuples(
    st.sampled_from(["data", "event", "id", "retry", "", "dat", "data ", "Data"]),
    st.sampled_from(["", ":", ": ", ":  ", "::"]),
    TEXT | st.sampled_from(["7", "0" * 9, "9" * 5000, "²", "-1", "a\0b"]),
).map("".join)
LINES = st.lists(st.tuples(FIELD | st.just(""), st.sampled_from(["\n", "\r", "\r\n"])).map("".join), max_size=30)


@given(LINES, st.sampled_from(["", "\ufeff"]), PLACES)
def test_it_reads_what_the_standard_says_however_the_stream_is_cut(lines, mark, places):
    # The blank line keeps a last "\r" from being half of an end of line, which is waited for.
    raw = (mark + "".join(lines) + ":\n").encode()
    found, retry_ms = read(cut_at(raw, places))
    expected, retry, _ = parse_sse(raw)
    assert [(message.id, message.event, message.data.decode()) for message in found] == expected
    assert retry_ms == retry


@given(st.binary(max_size=300) | st.text("da:t \r\n\ufeffié", max_size=300).map(str.encode), PLACES)
def test_it_takes_any_bytes(raw, places):
    assert read(cut_at(raw, places)) == read([raw])


@given(st.lists(st.tuples(st.sampled_from(TYPES), st.text()), max_size=8), st.booleans(), PLACES)
def test_what_a_gateway_sends_is_what_is_read(events, beats, places):
    bodies = [b'{"type":"%b","text":%b}' % (kind.encode(), json.dumps(text).encode()) for kind, text in events]
    frames = [Frame(number, body) for number, body in enumerate(bodies, 1)]
    encode = NativeEncoder(until_deep=False).encode
    raw = FIRST + b"".join((HEARTBEAT if beats else b"") + encode([frame])[0] for frame in frames)
    found, retry_ms = read(cut_at(raw, places))
    assert found == [Message(str(frame.seq), frame.type, frame.data) for frame in frames]
    assert retry_ms == RETRY_MS
