"""A worker's pulse: bytes that it sends its supervisor while its interpreter runs.

A step that blocks the interpreter stops the pulse. The supervisor notices it even if a thread of that process holds the
database's write lock, so that no process can renew or check a lease.
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
    """The receiving end, in the supervisor.

    Args:
        loop: the loop that reads the pulse.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listens, self.sends = os.pipe()
        """The worker inherits `sends`; `started` closes it in this process."""
        os.set_blocking(self._listens, False)
        self._last: float | None = None
        loop.add_reader(self._listens, self._come)

    def started(self) -> None:
        """Call it once the worker has its copy, or could not be started."""
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
        """Stop listening."""
        self._loop.remove_reader(self._listens)
        os.close(self._listens)


def send_pulse() -> None:
    """Send a pulse from a thread, if a supervisor started this process.

    Removes the variable and does not pass on the descriptor, so that processes started by user code send no pulse.
    """
    descriptor = os.environ.pop(PULSE, "")
    if not descriptor.isdigit():
        return
    os.set_inheritable(int(descriptor), False)
    os.set_blocking(int(descriptor), False)
    threading.Thread(target=_send, args=(int(descriptor),), name="offramp-pulse", daemon=True).start()


def _send(descriptor: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor has ended
        while True:
            with contextlib.suppress(BlockingIOError):  # the supervisor has not read for hours
                os.write(descriptor, b".")
            time.sleep(PULSE_S)
