"""A worker's pulse: bytes that it sends its supervisor for as long as its interpreter runs.

A step that holds the interpreter stops the pulse, also while a thread of its process holds the write lock of the
database, and no process can renew or look at a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

PULSE_S = 0.5
"""How often a worker sends its pulse."""
PULSE = "OFFRAMP_PULSE"
"""The descriptor that a worker sends its pulse to."""


class Pulse:
    """The end that listens, in the supervisor.

    Args:
        loop: calls back when bytes come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listens, self.sends = os.pipe()
        """`sends` is inherited by the worker; closed here with `started`."""
        os.set_blocking(self._listens, False)
        self._last: float | None = None
        loop.add_reader(self._listens, self._come)

    def started(self) -> None:
        """The worker has its copy, or could not be started."""
        os.close(self.sends)

    def silent_s(self) -> float:
        """Seconds since the last pulse; 0 before the first one."""
        return 0.0 if self._last is None else time.monotonic() - self._last

    def _come(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if os.read(self._listens, 4096):
                self._last = time.monotonic()
            else:  # the worker has ended
                self._loop.remove_reader(self._listens)

    def close(self) -> None:
        """Stop to listen."""
        self._loop.remove_reader(self._listens)
        os.close(self._listens)


def send_pulse() -> None:
    """Send a pulse from a thread, if a supervisor started this process.

    The variable is removed and the descriptor is not inherited, so that no process that user code starts sends it too.
    """
    descriptor = os.environ.pop(PULSE, "")
    if not descriptor.isdigit():
        return
    os.set_inheritable(int(descriptor), False)
    os.set_blocking(int(descriptor), False)
    threading.Thread(target=_send, args=(int(descriptor),), name="offramp-pulse", daemon=True).start()


def _send(descriptor: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor is gone
        while True:
            with contextlib.suppress(BlockingIOError):  # it has not read for hours
                os.write(descriptor, b".")
            time.sleep(PULSE_S)
