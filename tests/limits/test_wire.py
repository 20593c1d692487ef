"""Frames: cut anywhere, they are the same messages; what is none is refused, and costs no more than it is long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.limits import wire
from offramp.limits.wire import MESSAGE_BYTES_MAX, FrameError, Frames, FromClient, frame
from offramp.ports.limits import Ask, Done

MESSAGES = [
    wire.Asking(Ask(id="run-1:1", resource="openai", tokens=10, within=("run-1:0",))),
    wire.Written("run-1:1"),
    wire.Over("run-1:1", Done(how="throttled", blocked_s=1.5)),
    wire.Lifting("run-1", "high", 10),
    wire.Withdrawn("run-1:1"),
    wire.Looking(7),
    wire.Ping(),
]


@given(st.lists(st.sampled_from(MESSAGES), max_size=20), st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_messages_cut_anywhere_arrive_whole(messages, cuts):
    data = b"".join(map(frame, messages))
    frames, arrived, at = Frames(FromClient), [], 0
    for cut in cuts:
        arrived += frames.feed(data[at : at + cut])
        at += cut
    arrived += frames.feed(data[at:])
    assert arrived == messages


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\1\xc1", b"\0\0\0\0", frame(["no", "message"]), frame([99]), frame({}), b"GET / HTTP/1.1\r\n\r\n"],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(FrameError):
        list(Frames(FromClient).feed(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_refused(data):
    frames = Frames(FromClient)
    try:
        for message in frames.feed(data):
            assert isinstance(message, FromClient)
    except FrameError:
        pass


def test_a_message_that_is_too_large_is_refused_before_it_comes():
    with pytest.raises(FrameError, match=f"a message of {MESSAGE_BYTES_MAX + 1} bytes"):
        list(Frames(FromClient).feed((MESSAGE_BYTES_MAX + 1).to_bytes(4, "big")))
    assert list(Frames(FromClient).feed(MESSAGE_BYTES_MAX.to_bytes(4, "big"))) == []
