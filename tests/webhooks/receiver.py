"""A receiver of webhooks: a real HTTP server on loopback that answers as the test says and keeps what it got."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"another one, from before, also long").decode()
WAIT_S = 20.0


class Request:
    """One POST as it arrived."""

    def __init__(self, path, headers, body):
        self.path = path
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def id(self):
        return self.headers["webhook-id"]

    @property
    def json(self):
        return json.loads(self.body)

    def verified(self, secret=SECRET):
        """The body, if the library accepts its signature."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """`answer` takes a request and returns a status, or a status and headers; it may block."""

    def __init__(self, tls=None):
        self.answer = lambda request: 204
        self.seen = []
        self.arrived = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                request = Request(self.path, self.headers, body)
                receiver.seen.append(request)
                receiver.arrived.put(request)
                with contextlib.suppress(OSError):  # the sender does not wait without limit
                    receiver.reply(self, receiver.answer(request))

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hooks?token=hidden"

    @staticmethod
    def reply(handler, answer):
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        handler.send_response(status)
        for name, value in {"content-length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    def next(self):
        """The next request that was not taken yet."""
        return self.arrived.get(timeout=WAIT_S)

    def close(self):
        self._server.shutdown()
        self._thread.join(WAIT_S)
        self._server.socket.close()


@contextlib.contextmanager
def receiving(tls=None):
    made = Receiver(tls)
    try:
        yield made
    finally:
        made.close()


def types(requests):
    return [request.json["type"] for request in requests]
