"""A process that receives webhooks: writes down every message before it answers, as the path of its URL asks.

`/ok` takes everything, `/flaky` refuses each message once, `/gone` wants nothing more after the first, `/never` takes
nothing. A line of the file is `{id, type, status}`, in the order in which messages came.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import ClassVar

from standardwebhooks import Webhook

SECRET = "whsec_YSBzZWNyZXQgZm9yIHRoZSBjaGFvcyB0ZXN0cyAuLi4="
FILE = "receipts"
ROOT = Path(__file__).resolve().parents[2]


class Handler(BaseHTTPRequestHandler):
    """One message."""

    file = Path(FILE)
    lock = Lock()
    met: ClassVar[set[str]] = set()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        said = Webhook(SECRET).verify(body, dict(self.headers))
        number = self.headers["webhook-id"]
        with self.lock:
            first = number not in self.met
            self.met.add(number)
            status = {"/flaky": 503 if first else 204, "/gone": 410, "/never": 503}.get(self.path, 204)
            with self.file.open("a") as file:
                file.write(json.dumps({"id": number, "type": said["type"], "status": status}) + "\n")
        with contextlib.suppress(OSError):  # who sent it may have been killed meanwhile
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_):
        """A sender that was killed in the middle of its message."""


@contextlib.contextmanager
def receiving(home: Path) -> Iterator[str]:
    """The URL of a receiver that writes into this folder."""
    command = [sys.executable, "-m", "tests.chaos.receiver", str(home / FILE)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def main() -> None:
    Handler.file = Path(sys.argv[1])
    server = Server(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
