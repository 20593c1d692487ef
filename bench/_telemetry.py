"""One variant of telemetry in its own process and folder; prints its `Load` as JSON. Also the export sink.

Started by telemetry.py: `python -m bench._telemetry VARIANT CONCURRENCY RUNS SECONDS FOLDER`, and `… sink`.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import uvloop

from bench import _offramp
from bench._load import drive


class _Sink(BaseHTTPRequestHandler):
    """Accepts every post and discards it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def sink() -> None:
    """A backend on loopback until stdin ends; prints its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    server.daemon_threads = True
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


async def _measure(variant: str, concurrency: int, runs_max: int, seconds_max: float, folder: Path) -> None:
    async with _offramp.contender(folder) as one_run:
        load = await drive(variant, one_run, concurrency, runs_max, seconds_max)
    sys.stdout.write(msgspec.json.encode(load).decode() + "\n")


def main(variant: str, *given: str) -> None:
    if variant != "before":  # another checkout, which may lack telemetry
        from offramp.telemetry.setup import set_up

        set_up("bench", "local")
    concurrency, runs_max, seconds_max, folder = given
    uvloop.run(_measure(variant, int(concurrency), int(runs_max), float(seconds_max), Path(folder)))


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink()
    else:
        main(*sys.argv[1:])
