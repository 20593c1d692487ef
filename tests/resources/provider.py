"""A model provider over real sockets, on a thread of its own: it answers as a test tells it, and notes what came."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.support import GUARD_S, Signal

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@dataclass
class Reply:
    """An answer: its parts are sent one by one; each waits for `goes_on`, if the test gave one."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    cuts: bool = False
    """Whether the connection breaks after the parts."""
    goes_on: Signal | None = None
    """After the first part."""
    answers: Signal | None = None
    """Before the head."""


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def completion(text="hello", **changes) -> Reply:
    """An answer of chat completions."""
    body = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    return Reply(headers={"content-type": "application/json"}, parts=[json.dumps(body).encode()], **changes)


def streamed(*words, **changes) -> Reply:
    """The same, streamed."""

    def event(delta, **more):
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    parts = [event({"content": word}) for word in words]
    parts += [event({}, usage=USAGE), b"data: [DONE]\n\n"]
    return Reply(headers={"content-type": "text/event-stream"}, parts=parts, **changes)


def message(text="hello", **changes) -> Reply:
    """An answer of Anthropic's messages."""
    body = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }
    return Reply(headers={"content-type": "application/json"}, parts=[json.dumps(body).encode()], **changes)


def failing(status=503, kind="server_error", headers=()) -> Reply:
    """An error of OpenAI's form."""
    body = {"error": {"message": f"no: {kind}", "type": kind, "code": kind, "param": None}}
    return Reply(status, {"content-type": "application/json", **dict(headers)}, [json.dumps(body).encode()])


class Provider:
    """Answers with what was put into `replies`, in order, and then with completions."""

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.seen: list[Seen] = []
        self.open = self.peak = 0
        """Answers under way at once, and the most so far."""
        self.left = 0
        """Clients that closed their connection before the end of an answer."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(GUARD_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.seen.append(Seen(method, path, headers, body))
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            return await self._answer(reader, writer, self.replies.popleft() if self.replies else completion())
        finally:
            self.open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        if reply.answers is not None:
            await reply.answers.wait()
        given = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        writer.write(f"HTTP/1.1 {reply.status} -\r\n{given}transfer-encoding: chunked\r\n\r\n".encode())
        for number, part in enumerate(reply.parts):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
            if number == 0 and reply.goes_on is not None and await self._leaves(reader, reply.goes_on):
                return False
        if reply.cuts:
            writer.write_eof()
            await reader.read()
            return False
        writer.write(b"0\r\n\r\n")  # the last thing, so that this answer is over before another request is read
        return True

    async def _leaves(self, reader: asyncio.StreamReader, goes_on: Signal) -> bool:
        """Whether the client leaves before the answer goes on."""
        gone, waits = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(goes_on.wait())
        done, _ = await asyncio.wait({gone, waits}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        waits.cancel()
        if waits in done:
            return False
        self.left += 1
        return True

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(0)  # transports close in the next turn

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(GUARD_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GUARD_S)
        self._loop.close()
