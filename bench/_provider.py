"""A provider of model calls as a server: OpenAI chat completions, streamed or not, which counts by itself.

    python -m bench._provider --port 8090 --rate 20/s --rate 900/min --tokens 9000/s --concurrency 64

`GET /stats` is what arrived, `POST /set` changes terms (`{"errors": 0.9, "slow": 10}`) without forgetting it. A call
costs `in=N` and `out=N` tokens, as its last message says, else its characters / 4 and its `max_tokens`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from bench._provider_model import Answered, Provider, Stats, Terms
from offramp.core.limits.notation import parse

OUTPUT_TOKENS = 60
CHUNK_S = 0.05
"""Tokens of a stream are sent together as often as this."""
STATUSES = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}
_COSTS = re.compile(r"\b(in|out)=(\d+)")


class Left(Exception):
    """The client closed its connection."""


class Cut(Exception):
    """The provider broke an answer off."""


class Reader(asyncio.StreamReader):
    """What a client sends; a wait ends at once when the client leaves, for then its call is not under way."""

    def __init__(self) -> None:
        super().__init__()
        self._left = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self._left.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._left.set()

    async def patient(self, seconds: float) -> None:
        """Wait.

        Raises:
            Left: the client has left.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), max(0.0, seconds))
            raise Left


class Call(msgspec.Struct, frozen=True):
    """A request as the provider understands it."""

    stream: bool
    model: str
    tokens_in: int
    tokens_out: int

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.tokens_in,
            "completion_tokens": self.tokens_out,
            "total_tokens": self.tokens_in + self.tokens_out,
        }


def read(raw: bytes) -> Call:
    """The call of a request's body."""
    body = msgspec.json.decode(raw)
    costs = {name: int(value) for name, value in _COSTS.findall(str(body["messages"][-1].get("content", "")))}
    tokens_in = costs.get("in", len(raw) // 4)
    tokens_out = costs.get("out", body.get("max_tokens") or body.get("max_completion_tokens") or OUTPUT_TOKENS)
    return Call(bool(body.get("stream")), str(body.get("model", "")), tokens_in, tokens_out)


class Serving:
    """One provider on loopback."""

    def __init__(self, terms: Terms) -> None:
        self.provider = Provider(terms)
        self._number = 0

    async def connected(self, reader: Reader, writer: asyncio.StreamWriter) -> None:
        """All requests of a connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, Left, Cut):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                raw = await reader.readexactly(int(fields.get("content-length") or 0))
                await self._answer(f"{method} {path.partition('?')[0]}", raw, reader, writer)
        writer.close()

    async def _answer(self, what: str, raw: bytes, reader: Reader, writer: asyncio.StreamWriter) -> None:
        if what == "GET /stats":
            _whole(writer, 200, self.provider.stats())
        elif what == "GET /readyz":
            _whole(writer, 200, {})
        elif what == "POST /set":
            changed = msgspec.to_builtins(self.provider.terms) | msgspec.json.decode(raw)
            self.provider.terms = msgspec.convert(changed, Terms)
            _whole(writer, 200, {})
        elif what.endswith("/chat/completions"):
            await self._call(read(raw), reader, writer)
        else:
            _whole(writer, 404, {"error": {"message": f"no {what}"}})

    async def _call(self, call: Call, reader: Reader, writer: asyncio.StreamWriter) -> None:
        answered = self.provider.arrive(time.monotonic(), call.tokens_in + call.tokens_out)
        if answered.status == 429:
            retry_ms = round((answered.retry_after_s or 0.0) * 1000)
            says = f"Rate limit reached. Please try again in {retry_ms}ms."
            wrong = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": says}
            asked = {"retry-after-ms": str(retry_ms), "retry-after": str(math.ceil(retry_ms / 1000))}
            _whole(writer, 429, {"error": wrong}, asked)
            return
        early = True
        try:
            if answered.status != 200:
                await reader.patient(answered.latency.first_s)
                early = False
                _whole(writer, 503, {"error": {"type": "overloaded_error", "message": "Overloaded"}})
                return
            await (self._stream if call.stream else self._at_once)(call, answered, reader, writer)
            early = False
        except Cut:
            early = False
            raise
        finally:
            self.provider.leave(early=early)

    async def _at_once(self, call: Call, answered: Answered, reader: Reader, writer: asyncio.StreamWriter) -> None:
        share = 1.0 if answered.cut_after is None else answered.cut_after
        await reader.patient(answered.latency.whole_s(round(call.tokens_out * share)))
        if answered.cut_after is not None:
            _cut(writer)
        message = {"role": "assistant", "content": "word " * call.tokens_out}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        _whole(writer, 200, self._document(call, "chat.completion", [choice]) | {"usage": call.usage})

    async def _stream(self, call: Call, answered: Answered, reader: Reader, writer: asyncio.StreamWriter) -> None:
        await reader.patient(answered.latency.first_s)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        share = 1.0 if answered.cut_after is None else answered.cut_after
        total = max(1, round(call.tokens_out * share))
        between_s = answered.latency.between_s
        group = max(1, int(CHUNK_S / between_s)) if between_s > 0 else total
        for first in range(0, total, group):
            count = min(group, total - first)
            choice = {"index": 0, "delta": {"role": "assistant", "content": "word " * count}, "finish_reason": None}
            self._event(writer, call, [choice])
            await writer.drain()
            await reader.patient(between_s * count)
        if answered.cut_after is not None:
            _cut(writer)
        self._event(writer, call, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
        self._event(writer, call, [], usage=call.usage)
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _document(self, call: Call, kind: str, choices: list[Any]) -> dict[str, Any]:
        self._number += 1
        created = int(time.time())
        return {
            "id": f"call-{self._number}",
            "object": kind,
            "created": created,
            "model": call.model,
            "choices": choices,
        }

    def _event(self, writer: asyncio.StreamWriter, call: Call, choices: list[Any], **more: object) -> None:
        document = self._document(call, "chat.completion.chunk", choices) | more
        _chunk(writer, b"data: " + msgspec.json.encode(document) + b"\n\n")


def _cut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    raise Cut


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _whole(
    writer: asyncio.StreamWriter, status: int, value: Stats | dict[str, Any], more: Mapping[str, str] | None = None
) -> None:
    data = msgspec.json.encode(value)
    fields = {"content-type": "application/json", "content-length": str(len(data)), **(more or {})}
    head = "".join(f"{name}: {field}\r\n" for name, field in fields.items())
    writer.write(f"HTTP/1.1 {status} {STATUSES[status]}\r\n{head}\r\n".encode() + data)


def terms() -> tuple[int, Terms]:
    """The port and the terms of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", action="append", default=[], help="calls, such as 20/s; repeatable")
    parser.add_argument("--tokens", action="append", default=[], help="tokens, such as 9000/s; repeatable")
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--endpoint", choices=["together", "fireworks"], default="together")
    parser.add_argument("--errors", type=float, default=0.01, help="share of 503")
    parser.add_argument("--cuts", type=float, default=0.0, help="share of answers that break off")
    parser.add_argument("--slow", type=float, default=1.0, help="factor on latencies")
    parser.add_argument("--lenient", action="store_true", help="count violations, refuse nothing")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return given.port, Terms(
        rates=tuple(parse(each) for each in given.rate),
        tokens=tuple(parse(each, "tokens") for each in given.tokens),
        concurrency=given.concurrency,
        endpoint=given.endpoint,
        errors=given.errors,
        cuts=given.cuts,
        slow=given.slow,
        enforced=not given.lenient,
        seed=given.seed,
    )


async def serve(port: int, agreed: Terms) -> None:
    """Until it is stopped."""
    serving = Serving(agreed)
    loop = asyncio.get_running_loop()

    def connection() -> asyncio.StreamReaderProtocol:
        reader = Reader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: serving.connected(reader, writer), loop=loop)

    async with await loop.create_server(connection, "127.0.0.1", port, backlog=1_024) as server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(*terms()))
