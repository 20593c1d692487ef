from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from offramp.core import events
from offramp.core.events import Frame, draft, frame
from offramp.gateway.native.framing import FIRST, HEARTBEAT, RETRY_MS, NativeEncoder
from tests.gateway.fake import AT
from tests.gateway.wire import parse_sse

encode = NativeEncoder(until_deep=False).encode

RUN = "run_" + "0" * 26
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def delta(seq, raw):
    return Frame(seq, frame(draft(events.StepDelta("s", "s#1", 1, msgspec.Raw(raw)), AT), RUN, seq))


@given(st.lists(JSON, max_size=5), st.sampled_from([None, 0, 2]), st.lists(st.booleans(), max_size=6))
def test_frames_survive_the_wire(values, indent, heartbeats):
    # Line breaks between tokens, as an encoder of the user's own may put them, must not end a field.
    frames = [
        delta(seq, json.dumps(value, indent=indent).replace("\n", "\r\n").encode())
        for seq, value in enumerate(values, 1)
    ]
    raw = FIRST + b"".join(HEARTBEAT for beat in heartbeats if beat)
    chunk, count, ended = encode(frames)
    found, retry, comments = parse_sse(raw + chunk)
    assert (count, ended) == (len(values), False)
    assert retry == RETRY_MS
    assert comments == ["heartbeat"] * sum(heartbeats)
    assert [(seq, kind) for seq, kind, _ in found] == [(str(n), "step.delta") for n in range(1, len(values) + 1)]
    assert [json.loads(data)["delta"] for _, _, data in found] == values
    assert [json.loads(data)["seq"] for _, _, data in found] == list(range(1, len(values) + 1))


def test_the_data_is_the_frame_itself():
    one = delta(7, b'"text"')
    assert encode([one])[0] == b"id: 7\nevent: step.delta\ndata: " + one.data + b"\n\n"


def test_nothing_is_sent_after_the_event_that_ends_the_stream():
    last = Frame(2, frame(draft(events.RunCompleted(result=msgspec.Raw(b"1")), AT), RUN, 2))
    chunk, count, ended = encode([delta(1, b"1"), last, delta(3, b"1")])
    assert (count, ended) == (2, True)
    assert [seq for seq, _, _ in parse_sse(chunk)[0]] == ["1", "2"]
