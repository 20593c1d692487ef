"""What is read of a body while it passes: the same however it is cut and packed."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.limits import reading
from offramp.core.limits.reading import HEAD_BYTES_MAX, TAIL_BYTES_MAX, Reader, Usage, accepted_encoding
from offramp.core.limits.said import EXHAUSTED_S, Verdict

NOW = 1_700_000_000.0
STREAM = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}


def data(*events: object, end: bytes = b"\n\n") -> bytes:
    return b"".join(
        b"data: " + (each if isinstance(each, bytes) else json.dumps(each).encode()) + end for each in events
    )


def named(*events: dict) -> bytes:
    return b"".join(b"event: " + each["type"].encode() + b"\n" + data(each) for each in events)


def delta(text: str) -> dict:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}], "usage": None}


OPENAI_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
}
CHAT = data(
    {"choices": [], "prompt_filter_results": []},
    delta('he said "usage": {"total_tokens": 9} and "error": {}'),
    *(delta(f"word {number}") for number in range(20)),
    {"choices": [], "usage": OPENAI_USAGE},
    b"[DONE]",
)
CHAT_READ = (Usage(100, 20, 64, 120), Verdict("ok"))

CLAUDE = named(
    {
        "type": "message_start",
        "message": {
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 5,
                "cache_read_input_tokens": 300,
                "output_tokens": 1,
            }
        },
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 42}},
    {"type": "message_stop"},
)
CLAUDE_READ = (Usage(315, 42, 300, 57), Verdict("ok"))

RESPONSES = named(
    {"type": "response.created", "response": {"id": "r", "error": None, "usage": None}},
    {"type": "response.in_progress", "response": {"id": "r", "error": None}},
    {"type": "response.output_text.delta", "delta": "hello"},
    {
        "type": "response.completed",
        "response": {
            "error": None,
            "output": [{"text": "x" * 2 * HEAD_BYTES_MAX}],
            "usage": {
                "input_tokens": 30,
                "input_tokens_details": {"cached_tokens": 8},
                "output_tokens": 7,
                "total_tokens": 37,
            },
        },
    },
)
RESPONSES_READ = (Usage(30, 7, 8, 37), Verdict("ok"))

OVERLOADED = named(
    {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"text": "hello"}},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
)
OVERLOADED_READ = (Usage(10, 1, 0, 11), Verdict("failed", "overloaded_error"))

STREAMS = [(CHAT, CHAT_READ), (CLAUDE, CLAUDE_READ), (RESPONSES, RESPONSES_READ), (OVERLOADED, OVERLOADED_READ)]


def read(content: bytes, headers: dict, cuts: list[int] = (), status: int = 200) -> Reader:  # type: ignore[assignment]
    reader = Reader(status, headers)
    places = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    for begin, end in itertools.pairwise(places):
        reader.feed(content[begin:end])
    return reader


def outcome(reader: Reader) -> tuple[Usage | None, Verdict]:
    verdict = reader.verdict(NOW)
    return reader.usage, verdict


def raw_deflate(content: bytes) -> bytes:
    packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packed.compress(content) + packed.flush()


@pytest.mark.parametrize(("content", "wanted"), STREAMS)
@given(
    cuts=st.lists(st.integers(0, 10**6), max_size=30),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    packed=st.sampled_from(["", "gzip", "deflate"]),
)
def test_streams_however_they_are_cut_and_packed(content, wanted, cuts, end, packed):
    content, headers = content.replace(b"\n", end), dict(STREAM)
    if packed:
        content = gzip.compress(content) if packed == "gzip" else zlib.compress(content)
        headers["content-encoding"] = packed
    reader = read(content, headers, cuts)
    assert outcome(reader) == wanted
    assert reader.first
    assert reader.complete == (wanted[1].how == "ok")
    assert reader.failed == (wanted[1].how != "ok")


@pytest.mark.parametrize(("content", "wanted"), STREAMS)
def test_streams_byte_by_byte(content, wanted):
    assert outcome(read(content, STREAM, list(range(len(content)))[: 2**14])) == wanted


def firsts(content: bytes) -> bytes:
    """What had come when the first token was noticed."""
    reader = Reader(200, STREAM)
    for place in range(len(content)):
        reader.feed(content[place : place + 1])
        if reader.first:
            return content[: place + 1]
    raise AssertionError("no token")


def test_announcements_are_not_the_first_token():
    assert b'"he said' in firsts(CHAT)
    assert firsts(CLAUDE).count(b"event:") == 3
    assert firsts(CLAUDE).rstrip().endswith(b'"text": ""}}')
    assert firsts(RESPONSES).endswith(b'"hello"}\n\n')
    assert firsts(b": comment\n\nretry: 3\n\ndata: plain text\n\n").endswith(b"plain text\n\n")
    assert read(data({"x": "y" * 3 * HEAD_BYTES_MAX}), STREAM).first
    nothing = read(b": ping\n\nevent: ping\n\ndata: [DONE]\n\n", STREAM)
    assert not nothing.first
    assert nothing.complete


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"x", JSON),
        (b"{", {}),
        (b"x", {**STREAM, "content-encoding": "br"}),
        (b"x", {**JSON, "content-encoding": "zstd"}),
    ],
)
def test_where_no_tokens_are_read_the_first_byte_is_the_first_token(content, headers):
    reader = Reader(200, headers)
    reader.feed(b"")
    assert not reader.first
    reader.feed(content)
    assert reader.first
    assert outcome(reader) == (None, Verdict("ok"))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"choices": [{"message": {}}], "usage": OPENAI_USAGE}, (Usage(100, 20, 64, 120), Verdict("ok"))),
        ({"data": [0.5], "usage": {"prompt_tokens": 8, "total_tokens": 8}}, (Usage(8, 0, 0, 8), Verdict("ok"))),
        ({"type": "message", "usage": {"input_tokens": 3, "output_tokens": 4}}, (Usage(3, 4, 0, 7), Verdict("ok"))),
        (
            {
                "usageMetadata": {
                    "promptTokenCount": 9,
                    "cachedContentTokenCount": 2,
                    "candidatesTokenCount": 3,
                    "thoughtsTokenCount": 4,
                    "totalTokenCount": 16,
                }
            },
            (Usage(9, 7, 2, 16), Verdict("ok")),
        ),
        (
            {
                "output": {},
                "usage": {"inputTokens": 5, "outputTokens": 6, "totalTokens": 31, "cacheReadInputTokens": 20},
            },
            (Usage(25, 6, 20, 11), Verdict("ok")),
        ),
        ({"error": {"code": 502, "message": "upstream"}}, (None, Verdict("failed", "error event"))),
        ({"error": {"code": "insufficient_quota"}}, (None, Verdict("exhausted", "insufficient_quota", EXHAUSTED_S))),
        ({"tools": [{"properties": {"error": {"type": "string"}, "usage": {"type": "x"}}}]}, (None, Verdict("ok"))),
        ({"usage": {"total_tokens": -1, "prompt_tokens": "3", "completion_tokens": True}}, (None, Verdict("ok"))),
        (
            {"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": None, "total_tokens": 99}}},
            (Usage(3, 0, 0, 3), Verdict("ok")),
        ),
        ({"usage": {"total_tokens": 10**13}}, (None, Verdict("ok"))),
        ({"usage": [], "error": None}, (None, Verdict("ok"))),
        (["x"], (None, Verdict("ok"))),
    ],
)
@pytest.mark.parametrize("packing", [None, gzip.compress])
def test_whole_bodies(content, wanted, packing):
    plain = json.dumps(content).encode()
    if packing is None:
        assert outcome(read(plain, JSON, [3, 7])) == wanted
    else:
        assert outcome(read(packing(plain), {**JSON, "content-encoding": "gzip"}, [3, 7])) == wanted


def test_a_long_body_is_known_by_its_end():
    body = {"choices": [{"message": {"content": "x" * 10**6}}], "usage": OPENAI_USAGE, "system_fingerprint": "fp"}
    assert outcome(read(json.dumps(body).encode(), JSON, list(range(0, 10**6, 4096)))) == CHAT_READ
    chunks = json.dumps([{"usageMetadata": {"promptTokenCount": 1}}, {"usageMetadata": {"promptTokenCount": 2}}])
    assert read(chunks.encode(), JSON).verdict(NOW) == Verdict("ok")
    cut = json.dumps(body).encode()[:-200]
    assert outcome(read(cut, JSON)) == (None, Verdict("ok"))


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl"])
def test_lines_are_events(kind):
    lines = b'{"response": "a"}\n{"error": "model is gone"}\n'
    reader = read(lines, {"content-type": kind}, [1, 5, 18, 19])
    assert reader.failed
    assert reader.verdict(NOW) == Verdict("failed", "error event")
    usage = b'{"x": 1}\n{"usage": {"total_tokens": 5}}'
    assert outcome(read(usage, {"content-type": kind})) == (Usage(0, 0, 0, 5), Verdict("ok"))


def test_an_error_that_no_blank_line_ends_counts():
    reader = read(b'data: {"choices": [{}]}\n\nevent: error\ndata: {"error": {"type": "overloaded_error"}}', STREAM)
    assert outcome(reader) == (None, Verdict("failed", "overloaded_error"))
    assert outcome(read(b"event: error\ndata: out of luck\n\n", STREAM)) == (None, Verdict("failed", "error event"))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_line_may_end_in_any_way_wherever_it_is_cut(end):
    content = b'event: error\ndata: {"message":\ndata: "no"}\n\n'.replace(b"\n", end)
    for reader in (read(content, STREAM, list(range(len(content)))), read(content, STREAM)):
        assert outcome(reader) == (None, Verdict("failed", "error event"))
    lost = b'data: {"usage":\ndata: {"total_tokens": 3}}\n\n'.replace(b"\n", end)
    assert outcome(read(lost, STREAM, list(range(len(lost))))) == (Usage(0, 0, 0, 3), Verdict("ok"))


def test_the_last_name_of_an_event_counts_and_for_it_alone():
    assert not read(b"event: error\nevent: message\ndata: {}\n\n", STREAM).failed
    assert not read(b"event: error\n\ndata: {}\n\n", STREAM).failed
    assert read(b"event: message\nevent: error\ndata: {}\n\n", STREAM, [18, 22]).failed


def test_data_of_several_lines_is_one_event():
    assert outcome(read(b'data: {"error":\ndata:{"type": "server_error"}}\n\n', STREAM, [3, 9, 16, 20])) == (
        None,
        Verdict("failed", "server_error"),
    )


def test_errors_have_their_status_headers_and_body():
    body = b'{"error": {"type": "insufficient_quota", "message": "pay"}}'
    assert read(body, JSON, [5], status=429).verdict(NOW) == Verdict("exhausted", "429 insufficient_quota", EXHAUSTED_S)
    packed = read(gzip.compress(body), {**JSON, "content-encoding": "gzip"}, [5], status=429)
    assert packed.verdict(NOW).how == "exhausted"
    assert read(b"", {"retry-after": "3"}, status=503).verdict(NOW) == Verdict("failed", "503", 3.0)
    for status in (400, 429):
        assert read(body, STREAM, status=status).verdict(NOW).how == "exhausted"
    assert read(b'{"error": 1, "usage": {"total_tokens": 3}}', JSON, status=400).verdict(NOW) == Verdict("ok", "400")
    limited = read(CHAT, {**STREAM, "x-ratelimit-remaining": "0", "x-ratelimit-reset": "4"})
    assert limited.verdict(NOW) == Verdict("ok", blocked_s=4.0)


@given(
    st.lists(st.binary(max_size=30) | st.sampled_from([b"data:", b"event: error\n", b"\n", b"\r", b'{"error"', b"{"])),
    st.sampled_from(
        [STREAM, JSON, {**STREAM, "content-encoding": "gzip"}, {**JSON, "content-encoding": "deflate"}, {}]
    ),
    st.sampled_from([200, 400, 429, 500]),
)
def test_no_body_raises(chunks, headers, status):
    reader = Reader(status, headers)
    for chunk in chunks:
        reader.feed(chunk)
    assert reader.verdict(NOW).how in ("ok", "failed", "throttled", "exhausted")
    assert reader.usage is None or reader.usage.counted >= 0


def test_members_of_gzip_may_follow_one_another():
    half = len(CHAT) // 2
    packed = gzip.compress(CHAT[:half]) + gzip.compress(CHAT[half:])
    assert outcome(read(packed, {**STREAM, "content-encoding": "gzip"}, [len(packed) // 3])) == CHAT_READ


@pytest.mark.parametrize("packed", [raw_deflate(CHAT), b"no gzip at all", gzip.compress(CHAT)[:-9] + b"garbage!!"])
def test_what_cannot_be_unpacked_is_left(packed):
    reader = read(packed, {**STREAM, "content-encoding": "gzip"})
    assert reader.first
    assert reader.verdict(NOW) == Verdict("ok")


def test_a_body_that_unpacks_to_too_much_is_left(monkeypatch):
    monkeypatch.setattr(reading, "UNPACKED_BYTES_MAX", 200_000)
    usage = json.dumps({"content": "x" * 300_000, "usage": OPENAI_USAGE}).encode()
    assert outcome(read(gzip.compress(usage), {**JSON, "content-encoding": "gzip"})) == (None, Verdict("ok"))
    usage = json.dumps({"content": "x" * 100_000, "usage": OPENAI_USAGE}).encode()
    assert outcome(read(gzip.compress(usage), {**JSON, "content-encoding": "gzip"})) == CHAT_READ


@pytest.mark.parametrize("headers", [STREAM, JSON, {}, {**JSON, "content-encoding": "gzip"}])
def test_memory_is_bounded_whatever_comes(headers):
    """A line, an event and a body without end."""
    chunk, bound = b"x" * 16_384, 8 * (HEAD_BYTES_MAX + TAIL_BYTES_MAX)
    packed = "content-encoding" in headers
    compress = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    reader = Reader(200, headers)
    reader.feed(compress.compress(b"x") + compress.flush(zlib.Z_SYNC_FLUSH) if packed else b"data: ")
    tracemalloc.start()
    try:
        for _ in range(256):
            reader.feed(compress.compress(chunk) + compress.flush(zlib.Z_SYNC_FLUSH) if packed else chunk)
            reader.feed(b"" if packed else b"\ndata: " + chunk)
        assert tracemalloc.get_traced_memory()[0] < bound
    finally:
        tracemalloc.stop()
    reader.verdict(NOW)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("gzip, deflate, br, zstd", "gzip, deflate"),
        ("gzip, deflate", "gzip, deflate"),
        ("GZIP;q=0.5, *;q=0", "GZIP;q=0.5"),
        ("identity", "identity"),
        ("br", "identity"),
        ("", "identity"),
    ],
)
def test_only_what_can_be_read_is_accepted(given, wanted):
    assert accepted_encoding(given) == wanted
