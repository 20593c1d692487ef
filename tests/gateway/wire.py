"""What tests read the wire with: an SSE parser written from the standard, and a bare ASGI client."""

from __future__ import annotations

import asyncio
import json

from offramp.gateway.health import OPERATIONS
from offramp.gateway.native.surface import NATIVE

ROUTES = (*NATIVE.routes, *OPERATIONS.routes)


def parse_sse(raw: bytes):
    """WHATWG HTML, 9.2.6, for a whole stream: events as (id, type, data), then retry and comments."""
    text = raw.decode("utf-8")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found, comments, retry = [], [], None
    last_id, kind, data = "", "", []
    for line in text.split("\n")[:-1]:
        if line == "":
            if data:
                found.append((last_id, kind or "message", "\n".join(data)))
            kind, data = "", []
            continue
        if line.startswith(":"):
            comments.append(line[1:].strip())
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            retry = int(value)
    return found, retry, comments


def types_of(raw: bytes):
    return [kind for _, kind, _ in parse_sse(raw)[0]]


class AsgiCall:
    """One request to an ASGI application whose client can leave, stall, or look at each message as it is sent."""

    def __init__(self, app, method, path, *, body=b"", headers=None, query=b"", root_path="", extra=None):
        self.app = app
        headers = {"content-type": "application/json"} | (headers or {})
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": root_path,
            "query_string": query,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        } | (extra or {})
        self.incoming = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.sent = asyncio.Queue()
        self.messages = []
        self.writable = asyncio.Event()
        self.writable.set()
        self.waits_to_send = asyncio.Event()
        self.task = None

    def start(self):
        self.task = asyncio.create_task(self.app(self.scope, self.incoming.get, self._send))
        return self

    async def _send(self, message):
        if not self.writable.is_set():
            self.waits_to_send.set()
            await self.writable.wait()
        self.messages.append(message)
        self.sent.put_nowait(message)

    def leave(self):
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def next(self):
        async with asyncio.timeout(10):
            return await self.sent.get()

    async def done(self):
        async with asyncio.timeout(10):
            await self.task

    @property
    def status(self):
        return self.messages[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    def json(self):
        return json.loads(self.body)
