import pytest

from offramp.cli.sse import EventStream, Message

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
