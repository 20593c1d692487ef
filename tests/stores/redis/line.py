"""A TCP line to a server that loses what a test wants lost: answers, or everything."""

from __future__ import annotations

import contextlib
import socket
import threading


class Line:
    """Listens on a port of its own and passes everything on; threads, so that a test may block."""

    def __init__(self, port):
        self._far = port
        self._lock = threading.Lock()
        self._losing = 0
        self._cut = self._cuts_after = False
        self._pairs = set()
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, count, *, then_cut=False):
        """The answers to so many scripts, and their connections; then everything, if asked for."""
        with self._lock:
            self._losing, self._cuts_after = count, then_cut

    def cut(self):
        with self._lock:
            self._cut = True
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def mend(self):
        with self._lock:
            self._cut = False

    def close(self):
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                cut = self._cut
            if cut:
                near.close()
                continue
            try:
                pair = (near, socket.create_connection(("127.0.0.1", self._far)))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs.add(pair)
            asked = threading.Event()
            threading.Thread(target=self._up, args=(pair, asked), daemon=True).start()
            threading.Thread(target=self._down, args=(pair, asked), daemon=True).start()

    def _up(self, pair, asked):
        near, far = pair
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                if b"EVALSHA" in data or b"FCALL" in data:
                    with self._lock:
                        if self._losing:
                            asked.set()
                far.sendall(data)
        self._end(pair)

    def _down(self, pair, asked):
        near, far = pair
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                if asked.is_set():
                    with self._lock:
                        self._losing -= 1
                        self.lost += 1
                        self._cut = self._cut or (self._cuts_after and not self._losing)
                    break
                near.sendall(data)
        self._end(pair)

    def _end(self, pair):
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
