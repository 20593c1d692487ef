"""Sends attacks to a gateway, many at a time, and judges every byte that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections import Counter

from tests.fuzz.malformed import Attacks
from tests.fuzz.pipelines import HOLD

AT_ONCE = 32
ANSWER_S_MAX = 15.0
SILENCE_S = 0.1
"""How long a client that may not get an answer waits for more of one."""
INTERNAL_ERROR = 1011
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z ,'-]+\r\n")


async def held(web):
    """The id of a run that waits for what never comes."""
    answer = await web.post("/v1/pipelines/waits/runs", json={"input": {"note": HOLD}})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


class Campaign:
    """Attacks on one gateway; `seen` counts answers by kind and status, `wrong` tells what may not be."""

    def __init__(self, port, seed, key, live):
        self._port = port
        self._attacks = Attacks(seed, key, live)
        self.seen = Counter()
        self.wrong = []

    async def send(self, count):
        """So many attacks, one after another in each of several tasks."""
        attacks = [self._attacks.next() for _ in range(count)]

        async def worker():
            while attacks:
                await self._send(attacks.pop())

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    async def _send(self, attack):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        answer = b""
        if attack.resets:  # as closing does that does not linger
            reset = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        try:
            # A gateway that has refused a request need not read the rest of it.
            with contextlib.suppress(ConnectionError):
                writer.write(attack.data)
                await writer.drain()
                if attack.then:
                    with contextlib.suppress(TimeoutError):
                        answer = await asyncio.wait_for(reader.read(1 << 16), SILENCE_S)
                    writer.write(attack.then)
            with contextlib.suppress(ConnectionError, TimeoutError):
                while part := await asyncio.wait_for(reader.read(1 << 16), ANSWER_S_MAX if attack.waits else SILENCE_S):
                    answer += part
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self._judge(attack, answer)

    def _judge(self, attack, answer):
        try:
            statuses = [judged(*part) for part in answers(answer, head=attack.data.startswith(b"HEAD"))]
            assert statuses or not attack.waits, "no answer"
        except Exception as error:  # noqa: BLE001 - whatever it is, with what caused it
            self.wrong.append((attack.kind, repr(error), attack.data[:600], answer[:600]))
            statuses = []
        self.seen.update((attack.kind, status) for status in statuses or ["none"])


def answers(raw, *, head=False):
    """The responses of one connection: status, headers, body; the last one may be cut off."""
    while raw:
        line = _STATUS_LINE.match(raw)
        assert line, f"no status line: {raw[:80]!r}"
        top, found, rest = raw.partition(b"\r\n\r\n")
        assert found, "the head of an answer is cut off"
        fields = dict(field.lower().split(": ", 1) for field in top.decode("latin-1").split("\r\n")[1:])
        status = int(line[1])
        # A HEAD that was refused before it was read gets a body, but it is the last one.
        bodiless = status == 101 or (head and not rest)
        length = 0 if bodiless else int(fields.get("content-length", 0))
        body, raw = rest[:length], rest[length:]
        yield status, fields, body if len(body) == length and not bodiless else None
        if status == 101:
            codes = [int.from_bytes(data[:2], "big") for opcode, data in frames(raw) if opcode == 8]
            assert INTERNAL_ERROR not in codes, codes
        if status == 101 or "chunked" in fields.get("transfer-encoding", ""):
            return
        head = False


def frames(raw):
    """The WebSocket frames of a server: opcode and data (RFC 6455, 5.2)."""
    while len(raw) >= 2:
        length, start = raw[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(raw[2:start], "big")
        yield raw[0] & 0x0F, raw[start : start + length]
        raw = raw[start + length :]


def judged(status, fields, body):
    """The status of an answer that may be given to anybody."""
    assert status < 500 or status == 503, status
    if status >= 400:
        assert fields["content-type"] == "application/problem+json", fields
        if body is not None:
            problem = json.loads(body)
            assert problem["status"] == status
            assert problem["type"].startswith("urn:offramp:error:")
            assert problem["title"]
            assert problem["detail"]
            assert len(body) < 5000
    return status
