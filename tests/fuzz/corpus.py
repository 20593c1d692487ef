"""What attacks are made of: paths, headers, bodies and frames that a gateway has to refuse, or to bear."""

from __future__ import annotations

import json
import struct

BODY_BYTES_MAX = 1 << 20
# fmt: off
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "get", "G\tET", "")
NUMBERS = ("", "-1", "x", "1.5", "9" * 15, "9" * 16, "9" * 5000, "0x1", "1 2", "+1", "%00", "\u0663", "null", "NaN")
IDS = (
    "run_" + "0" * 26, "run_", "run_" + "u" * 26, "run_" + "0" * 25 + "%00", "%00", "..", "x" * 3000, "%ff%fe",
    "run_%2e%2e%2f", "null", "'%20OR%201=1;%20--", "run_" + "Z" * 26, "%F0%9F%98%80",
)
TEXTS = (
    "", "\x00", "\ud83d", "a\u0000b", "x" * 100_000, "{}", "\u202e", "$ref", "__proto__", "%s%n", "../../etc/passwd",
)
TAILS = ("", "/events", "/result", "/ws", "/cancel", "/signals/go", "/signals/9", "/nothing", "/", "//")
PATHS = (
    "/", "//", "/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/../metrics", "/v1//runs", "/v1/runs/",
    "/%00", "/healthz%00", "/healthz\\", "/healthz;x=1", "/healthz#f", "/healthz?%", "/%", "/%zz", "/%ff", "/\x7f",
    "/v1/runs?limit=0", "/v1/runs?limit=" + "9" * 5000, "/v1/runs?status=x", "/v1/runs?after=x", "/v1/runs?x=1",
    "/v1/runs?session_id=" + "x" * 201, "/v1/runs?session_id=%ff%00", "/v1/runs?limit=1&limit=2", "*", "http://[::1",
    "/v1/runs?" + "&" * 5000, "/v1/runs?" + "a=1&" * 5000, "/" + "a/" * 5000, "/" + "x" * 60_000, "http://evil/",
    "http://evil/healthz", "evil:443", "/v1/pipelines/%00", "/v1/pipelines/" + "x" * 9000, "/docs/..",
)
HEADERS = (
    "Content-Type: text/plain", "Content-Type: application/json; charset=utf-16", "Content-Type: ;;;", "Content-Type:",
    "Content-Type: application/json\r\nContent-Type: text/html", "Content-Encoding: gzip", "Expect: 200-maybe",
    "Expect: 100-continue", "Accept: ;q=", "Accept: text/event-stream;q=nan", 'Accept: "', "Accept: " + "a/b," * 2000,
    "Accept: application/openmetrics-text; version=99; escaping=;;", "Accept: text/event-stream, " * 9,
    "Prefer: wait=" + "9" * 5000, "Prefer: wait=-1", 'Prefer: "', "Prefer: respond-async, respond-async;x",
    "Prefer: ,;=,", "Idempotency-Key:", 'Idempotency-Key: "', "Idempotency-Key: " + "k" * 300,
    "Idempotency-Key: a\r\nIdempotency-Key: b", "Idempotency-Key: \xe9", "Last-Event-ID: x", "Last-Event-ID: \xff",
    "Last-Event-ID: 99999999999999999", "traceparent: 00-" + "0" * 32, "traceparent: " + "x" * 9000,
    "baggage: " + "x" * 9000, "tracestate: \x80", "Authorization: Basic Og==", "Authorization: Bearer",
    "Authorization: Bearer \xe9", "Authorization: Bearer x y", "Host: evil", "Host:", "Host: a\r\nHost: b",
    "Connection: upgrade\r\nUpgrade: h2c", "Connection: \x01", "Upgrade: x", "Origin: null",
    "X: \x00", "X: \x7f", "X : y", "X", ": y", " X: y", "X\xe9: y", "X: a\n y", "X: a\r y", "X: " + "y" * 70_000,
    "Content-Length: -1", "Content-Length: +5", "Content-Length: 1e3", "Content-Length: " + "9" * 30,
    "Content-Length: 0x5", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 5",
    "Transfer-Encoding: chunked\r\nContent-Length: 5", "Transfer-Encoding: gzip", "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked, chunked",
)
VALUES = (
    b"", b"{", b"[]", b"null", b"1", b'"', b"{}", b'{"input": 1}', b'{"input": {}}', b"\xff\xfe", b"\xef\xbb\xbf{}",
    b"{}{}", b'{"input": {"text": "\xff"}}', b'{"input": {"text": "\\ud800"}}', b'{"input": {"text": NaN}}',
    b'{"input": {},}', b'{"input": {"text": 1}}', b'{"input": {"text": "x", "times": 1e999}}',
    b'{"input": {"text": "x", "times": ' + b"9" * 5000 + b"}}", b'{"input": {"text": "x"}, "budget": -1}',
    b'{"input": {"text": "x"}, "budget": 1e400}', b"[" * 100_000, b"{" * 5000, b'{"a":' * 50_000,
    b"[" * 60_000 + b"]" * 60_000, b'{"input": ' + b"[" * 70 + b"]" * 70 + b"}", b"\x1f\x8b\x08\x00",
    b'{"input": {"text": "x"}, "input": {"text": 1}}', b'{"input": {"text": "x"}, "webhook": {"url": "http://[::1"}}',
    b'{"input": {"text": "x"}, "webhook": {"url": "gopher://evil/x"}}',
    b'{"input": {"text": "x"}, "metadata": ' + json.dumps(dict.fromkeys(map(str, range(500)), "v")).encode() + b"}",
    b'{"input": {"text": "x"}, "class": "\\u0000"}', b'{"input": {"text": "x"}, "session_id": ""}',
    b'{"input": {"text": "x"}, "follow": "yes"}', b"x" * (BODY_BYTES_MAX + 1),
)
CHUNKS = (
    b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n", b"ffffffffffffffff1\r\n", b"5\r\nhel",
    b"5;" + b"x" * 70_000, b"5 \r\nhello\r\n", b"5\nhello\n0\n\n", b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
    b"0\r\nX: y\r\nAuthorization: z\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 20_000, b"0\r\nX: " + b"y" * 300_000,
    b"\r\n\r\n", b"100001\r\n" + b"x" * (BODY_BYTES_MAX + 1),
)
BANNERS = (
    b"", b"\r\n\r\n", b"\n" * 500, b"\x00" * 500, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-x\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x05\x01\x00", b"GET /\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1 x\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n", b"GET / http/1.1\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n", b"\xff" * 99, b"A" * 90_000,
)
# fmt: on


def frame(opcode, data, *, final=True, masked=True, reserved=0):
    """A WebSocket frame as a client sends it (RFC 6455, 5.2); the mask is zero, so that the data is what is sent."""
    first = (0x80 if final else 0) | reserved << 4 | opcode
    length = len(data)
    mask = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mask | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, mask | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask | 127, length)
    return head + (b"\0\0\0\0" if masked else b"") + data


FRAMES = (
    *(frame(1, data) for data in (b"", b"{", b"\xff", b"[" * 3000, b"x" * 5000, b"x" * 70_000, b'{"type": "stop"}')),
    *(frame(opcode, b"x") for opcode in (0, 2, 3, 11, 15)),
    *(frame(1, b"x", masked=False), frame(1, b"x", reserved=4), frame(1, b"x", reserved=7)),
    *(frame(8, data) for data in (b"\x03", struct.pack("!H", 999), b"\x03\xe8\xff")),
    *(frame(9, b"x" * 126), frame(9, b"x", final=False), frame(9, b"ping") * 200, b"\x81\xff" + b"\xff" * 8 + b"mask"),
    *(frame(1, b"{", final=False) + frame(1, b"}"), frame(1, b"x", final=False) + frame(0, b"x", final=False) * 50),
    frame(1, b'{"type": "cancel", "x": 1}'),
)
"""Of a client that breaks the protocol, or ours."""
