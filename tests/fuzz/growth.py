"""How the time of each parser of untrusted input grows with its input: linearly, whatever is sent.

A shape is a head and a unit that is repeated. Time is that of this thread on the processor, so that a busy machine does
not count.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import QueryParams

from offramp.client.sse import EventStream
from offramp.core.codec import Signature
from offramp.core.names import require_name
from offramp.core.run import Webhook, is_run_id, trace_id
from offramp.core.webhooks import flaws
from offramp.errors import OfframpError
from offramp.gateway import bodies, negotiation
from offramp.gateway.native import request
from offramp.telemetry.context import forwarded, restored, session_of

SMALL, LARGE = 4_096, 32_768
GROWTH_MAX = 3.0 * LARGE / SMALL
"""Linear growth is LARGE / SMALL, and quadratic growth eight times as much."""
FLOOR_S = 0.004
"""What takes less for the large input is too short to be compared."""
REPEATS = 3


class Inner(msgspec.Struct):
    items: list[int]


def takes(text: str, times: dict[str, Inner], more: list[Inner] = []) -> None:  # noqa: B006 - only its signature counts
    """The parameters of a pipeline."""


SIGNATURE = Signature(takes, "pipeline 'takes'")


def sse(data: bytes) -> None:
    """As it comes over a slow connection: in pieces of 16 bytes."""
    stream = EventStream()
    for start in range(0, len(data), 16):
        stream.feed(data[start : start + 16])


def text_of(parse):
    return lambda data: parse(data.decode("latin-1"))


def traced(text: str) -> None:
    kept = negotiation.trace_context({"traceparent": [text], "tracestate": [text], "baggage": [text]})
    session_of(restored(kept))
    forwarded(kept)
    trace_id(kept)


PARSERS = {
    "body": request.parse,
    "signal": bodies.require_json_value,
    "input": SIGNATURE.decode_input,
    "prefer": text_of(lambda text: negotiation.prefer([text])),
    "prefer in parts": text_of(lambda text: negotiation.prefer(text.split("|"))),
    "accept": text_of(lambda text: negotiation.wants_stream([text])),
    "idempotency-key": text_of(lambda text: negotiation.idempotency_key([text])),
    "last-event-id": text_of(lambda text: negotiation.position(text, text)),
    "trace context": text_of(traced),
    "query": lambda data: QueryParams(data).multi_items(),
    "name": text_of(lambda text: require_name("signal", text)),
    "run id": text_of(is_run_id),
    "webhook": text_of(lambda text: flaws(Webhook(text, [text[:50], text]))),
    "origin": text_of(urlsplit),
    "sse": sse,
}
AROUND = {
    "body": (
        (b"", b""),
        (b'{"input":' + b"[" * 65 + b'"', b""),
        (b'{"input": {"text": "', b'"}}'),
        (b'{"input": {}, "x - at `$', b'": 1}'),
        (b'{"input": {}, "metadata": {"', b'": 1}}'),
    ),
    "signal": ((b"", b""), (b"[" * 65 + b'"', b""), (b'"', b'"'), (b'{"a":"', b'"}')),
    "input": (
        (b'{"text": "x", "times": {"', b'": {"items": [null]}}}'),
        (b'{"text": "', b'", "times": {}, "more": [1]}'),
        (b'{"x - at `$', b'": 1}'),
        (b'{"text": "x", "times": {"a": {"items": [', b"null]}}}"),
    ),
    "sse": ((b"", b""), (b"data: ", b"\n\n"), (b"\xef\xbb", b"")),
    "webhook": ((b"https://", b""), (b"https://[", b"]"), (b"https://a/", b"")),
    "trace context": ((b"", b""), (b"00-", b""), (b"offramp.session=", b"")),
}
"""What stands before and behind what is repeated."""
ALPHABET = [bytes([char]) for char in b"\"\\[]{},;:=/.&%+-_ \t\r\n`'*@$#|<>()a0\x00\xc3\xff"]
UNITS = [b"".join(pair) for pair in itertools.product(ALPHABET, [b"", *ALPHABET])]
KNOWN = (
    b'\\"',
    b'""',
    b'","',
    b"a,",
    b"a;",
    b'a="",',
    b"q=0.1,",
    b"%2",
    b"[0",
    b'{"a":',
    b"0,",
    b"a=b&",
    b"\r",
    b": ",
    b"\xc3",
)


class Shape(NamedTuple):
    """Input of any size: `unit` over and over, between `head` and `tail`."""

    parser: str
    head: bytes
    tail: bytes
    unit: bytes

    def of(self, size: int) -> bytes:
        return self.head + self.unit * (size // len(self.unit)) + self.tail


def shapes(seed: int, count: int | None):
    """For each parser what is known to be costly, and `count` others, or all there are."""
    chosen = random.Random(seed)
    for parser in PARSERS:
        around = AROUND.get(parser, ((b"", b""), (b'"', b'"')))
        picked = list(itertools.product(around, UNITS))
        if count is not None:
            picked = chosen.sample(picked, count)
        picked += itertools.product(around, KNOWN)
        yield from (Shape(parser, head, tail, unit) for (head, tail), unit in picked)


def seconds(parse, data: bytes) -> float:
    """What parsing costs, at best; refusing it is parsing, too."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.thread_time()
        with contextlib.suppress(OfframpError):
            parse(data)
        best = min(best, time.thread_time() - began)
        if best < FLOOR_S:
            break
    return best


def excess(shape: Shape) -> str | None:
    """What is wrong with how the time grows; None if it is linear."""
    parse = PARSERS[shape.parser]
    gc.collect(0)
    large = seconds(parse, shape.of(LARGE))
    if large < FLOOR_S:
        return None
    small = seconds(parse, shape.of(SMALL))
    if large <= GROWTH_MAX * max(small, FLOOR_S / GROWTH_MAX):
        return None
    return f"{shape}: {small * 1000:.2f} ms for {SMALL} bytes, {large * 1000:.2f} ms for {LARGE}"
