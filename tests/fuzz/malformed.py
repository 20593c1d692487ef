"""Requests that no good client sends, by the thousands, over raw sockets: what is sent, and how.

Every choice comes from one seeded generator. An attack is bytes, and what its client does after sending them.
"""

from __future__ import annotations

import base64
import json
import random
from typing import NamedTuple

from tests.fuzz.corpus import BANNERS, CHUNKS, FRAMES, HEADERS, IDS, METHODS, NUMBERS, PATHS, TAILS, TEXTS, VALUES

RUNS = "/v1/pipelines/echo/runs"
JSON = "Content-Type: application/json"
KEY = base64.b64encode(b"k" * 16).decode()
FIELDS = ("text", "times", "input", "session_id", "class", "metadata", "budget", "webhook", "follow", "x")


class Attack(NamedTuple):
    """`waits`: its client reads to the end, else it leaves when nothing comes. `then` is sent after an answer."""

    kind: str
    data: bytes
    waits: bool = True
    resets: bool = False
    then: bytes = b""


def request(method, path, *headers, key, body=None):
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        "Connection: close",
        *headers,
    ]
    if body is not None and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + (body or b"")


class Attacks:
    """An endless supply. `live` is a run that has not ended."""

    def __init__(self, seed, key, live):
        self._random = random.Random(seed)
        self._key = key
        self._live = live
        self._kinds = [
            *(
                self.banner,
                self.method,
                self.path,
                self.identifier,
                self.position,
                self.header,
                self.headers,
                self.value,
            ),
            *(
                self.field,
                self.chunks,
                self.cut,
                self.mutated,
                self.handshake,
                self.frames,
                self.pipelined,
                self.signal,
            ),
        ]

    def next(self):
        make = self._random.choice(self._kinds)
        attack = make()
        return attack if isinstance(attack, Attack) else Attack(make.__name__, attack)

    def _one(self, choices):
        return self._random.choice(choices)

    def _bytes(self, most):
        return self._random.randbytes(self._random.randrange(most))

    def _request(self, method, path, *headers, body=None):
        return request(method, path, *headers, key=self._key, body=body)

    def _good(self):
        return self._one([
            self._request("POST", RUNS, JSON, body=b'{"input": {"text": "x"}}'),
            self._request("POST", RUNS, JSON, "Accept: text/event-stream", body=b'{"input": {"text": "x"}}'),
            self._request("GET", f"/v1/runs/{self._live}"),
            self._request("GET", "/v1/runs?limit=1"),
            self._request("GET", "/metrics"),
            self._request("POST", f"/v1/runs/{self._live}/signals/other", JSON, body=b"null"),
        ])  # fmt: skip

    def banner(self):
        # What may be the beginning of a request is not refused: its client gives up.
        return Attack("banner", self._one(BANNERS) + self._one([b"", self._bytes(200)]), waits=False)

    def method(self):
        return self._request(self._one(METHODS), self._one(["/healthz", RUNS, f"/v1/runs/{self._live}/ws", "*"]))

    def path(self):
        return self._request(self._one(["GET", "POST", "HEAD"]), self._one(PATHS))

    def identifier(self):
        tail = self._one(TAILS)
        method = self._one(["GET", "POST"])
        return self._request(method, f"/v1/runs/{self._one(IDS)}{tail}", body=b"" if method == "POST" else None)

    def position(self):
        query = f"?{self._one(['starting_after', 'starting-after', ''])}={self._one(NUMBERS)}"
        header = f"Last-Event-ID: {self._one(NUMBERS)}"
        return self._request("GET", f"/v1/runs/run_{'0' * 26}/events{query}".replace(" ", "%20"), header)

    def header(self):
        body = self._one([b'{"input": {"text": "x"}}', b"hello"])
        data = self._request("POST", RUNS, self._one(HEADERS), JSON, body=body)
        # Some of them promise a body that does not come.
        return Attack("header", data, waits=False)

    def headers(self):
        many = [f"X-{number}: {'y' * self._random.randrange(50)}" for number in range(self._random.randrange(1, 3000))]
        return self._request("GET", self._one(["/healthz", "/metrics", "/v1/runs"]), *many)

    def value(self):
        where = self._one([RUNS, f"/v1/runs/{self._live}/signals/other", "/v1/pipelines/weigh/runs", "/v1/runs"])
        return self._request("POST", where, JSON, body=self._one(VALUES))

    def field(self):
        name = self._one(FIELDS)
        value = self._one([self._one(TEXTS), 1, -1.5, None, True, [], {}, [[]], {"url": 1}, {"": ""}])
        is_argument = name in {"text", "times"}
        fields = {"input": {name: value}} if is_argument else {"input": {"text": "x"}, name: value}
        header = self._one(["Prefer: respond-async", "Prefer: wait=0", "Accept: text/event-stream"])
        return self._request("POST", RUNS, JSON, header, body=json.dumps(fields).encode("utf-8", "surrogatepass"))

    def chunks(self):
        head = self._request("POST", self._one([RUNS, "/nothing"]), JSON, "Transfer-Encoding: chunked")
        return Attack("chunks", head + self._one(CHUNKS), waits=False)

    def cut(self):
        data = self._good()
        return Attack("cut", data[: self._random.randrange(len(data))], waits=False, resets=self._random.random() < 0.5)

    def mutated(self):
        data = bytearray(self._good())
        for _ in range(self._random.randrange(1, 6)):
            at = self._random.randrange(len(data))
            data[at : at + self._random.randrange(3)] = self._bytes(4)
        return Attack("mutated", bytes(data), waits=False)

    def _upgrade(self, *headers, version="13", key=KEY, path=None):
        lines = [f"Sec-WebSocket-Version: {version}", f"Sec-WebSocket-Key: {key}", "Upgrade: websocket"]
        data = self._request("GET", path or f"/v1/runs/{self._live}/ws", *lines, *headers)
        return data.replace(b"Connection: close", b"Connection: Upgrade")

    def handshake(self):
        after = f"?starting_after={self._one(NUMBERS)}".replace(" ", "%20")
        elsewhere = self._one(["/nothing", "/v1/runs/x/ws", "/%ff/ws", "/v1/runs/" + "x" * 9000 + "/ws", RUNS])
        header = self._one(["Sec-WebSocket-Extensions: ;;", "Sec-WebSocket-Protocol: \x01", "X: " + "y" * 9000])
        wrong = self._one([
            self._upgrade(version=self._one(["", "12", "x", "13\r\nSec-WebSocket-Version: 13"])),
            self._upgrade(key=self._one(["", "x", "=" * 24, "a" * 24, "k\r\nSec-WebSocket-Key: k"])),
            self._upgrade(header),
            self._upgrade(*(f"X-{number}: y" for number in range(200))),
            self._upgrade(path=f"/v1/runs/{self._live}/ws{after}"),
            self._upgrade(path=elsewhere),
            self._upgrade().replace(b"GET", self._one([b"POST", b"HEAD", b"OPTIONS"]), 1),
            self._upgrade().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            self._upgrade("Content-Length: 5") + b"hello",
        ])  # fmt: skip
        return Attack("handshake", wrong, waits=False)

    def frames(self):
        deflate = self._one([(), ("Sec-WebSocket-Extensions: permessage-deflate",)])
        frames = self._one([self._bytes(300), self._one(FRAMES)])
        resets = self._random.random() < 0.2
        return Attack("frames", self._upgrade(*deflate), waits=False, resets=resets, then=frames)

    def pipelined(self):
        good = self._request("GET", "/healthz").replace(b"Connection: close", b"Connection: keep-alive")
        last = self._one([b"\x00\r\n\r\n", self._request("BREW", "/"), b"GET\r\n\r\n"])
        return good * self._random.randrange(1, 50) + last

    def signal(self):
        where = f"/v1/runs/{self._live}/signals/{self._one(['9', '%00', 'x' * 101, '%ff', 'a%2Fb', '', 'other'])}"
        return self._request("POST", where, self._one(HEADERS[:4]), body=self._one(VALUES[:20]))
