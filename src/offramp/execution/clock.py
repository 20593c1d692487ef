"""The real clock: one daemon thread that makes timed calls, off every loop that runs user code (invariant L1)."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("offramp")


RANDOM_BYTES = 1024
"""Bytes drawn from the operating system at once."""


class SystemTimer:
    """One pending call; cancelling leaves a dead entry that is dropped when its time comes."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Cancel the call."""
        self.callback = None


class SystemClock:
    """Wall time, monotonic time and randomness of the operating system."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, SystemTimer]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._random = b""
        self._random_pid = 0
        self._random_lock = threading.Lock()

    # The functions themselves: each is called several times in every step.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def random(self) -> float:
        """A number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes, drawn in advance: each system call gives the interpreter lock away."""
        with self._random_lock:
            if len(self._random) < count or self._random_pid != os.getpid():  # a fork draws its own
                self._random, self._random_pid = os.urandom(max(count, RANDOM_BYTES)), os.getpid()
            drawn, self._random = self._random[:count], self._random[count:]
        return drawn

    def call_at(self, when: float, callback: Callable[[], object]) -> SystemTimer:
        """Call back on the clock's thread; a timer later than the next one due does not wake it."""
        timer = SystemTimer(callback)
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._order), timer))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="offramp-clock", daemon=True)
                self._thread.start()
            elif self._heap[0][2] is timer:
                self._changed.notify()
        return timer

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    wait = self._heap[0][0] - time.monotonic() if self._heap else None
                    # A sleep may have no end; a condition refuses to wait for longer than it can count.
                    self._changed.wait(None if wait is None else min(max(0.0, wait), threading.TIMEOUT_MAX))
                callback = heapq.heappop(self._heap)[2].callback
            if callback is None:
                continue
            try:
                callback()
            except Exception:
                logger.exception("a timed call failed")
