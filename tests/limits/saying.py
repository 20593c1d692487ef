"""A provider that says what a test tells it to: over real HTTP, in real pieces, cut off or silent if so wished."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support import GUARD_S


@dataclass
class Says:
    """One answer: status, headers, pieces of the body; and what follows them: `ends`, `cut` or `silence`."""

    status: int = 200
    body: bytes | list[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    then: str = "ends"


def error(status: int, content: object, **headers: str) -> Says:
    """An error with a body of JSON."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Says(status, json.dumps(content).encode(), {"content-type": "application/json", **names})


def stream(*events: bytes, then: str = "ends", **headers: str) -> Says:
    """A stream of events, each a piece."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Says(200, list(events), {"content-type": "text/event-stream", **names}, then)


class Provider(ThreadingHTTPServer):
    """The server; `says` is its next answers, of which the last is repeated."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.says: list[Says] = [Says()]
        self.paths: list[str] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next(self) -> Says:
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]

    def handle_error(self, request, client_address) -> None:
        """A client that is gone is no failure."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.paths.append(self.path)
        says = self.server.next()
        pieces = [says.body] if isinstance(says.body, bytes) else says.body
        if says.then == "silence" and not pieces[0]:
            self.server.over.wait(GUARD_S)
            return
        self.send_response(says.status)
        for name, value in says.headers.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
        if says.then == "ends":
            self.wfile.write(b"0\r\n\r\n")
            return
        if says.then == "silence":
            self.server.over.wait(GUARD_S)
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    do_GET = do_POST  # noqa: N815 - the name that the standard library asks for

    def log_message(self, *args) -> None:
        pass


@contextmanager
def provider(*says: Says):
    """A provider that gives these answers."""
    server = Provider()
    server.says = list(says) or [Says()]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(GUARD_S)
