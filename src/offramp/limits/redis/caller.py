"""The thread of a process that calls the limits' script: when there is something to say, and to keep the lease."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from redis.exceptions import RedisError

from offramp.limits.redis.link import Link
from offramp.limits.redis.permits import Op

logger = logging.getLogger("offramp")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Talks(Protocol):
    """What the thread calls on for; each method is called under the lock."""

    def due(self, now: float) -> float:
        """When the next call is due, by the monotonic clock."""

    def says(self, now: float) -> list[Op]:
        """What it says."""

    def hears(self, answer: Any, ops: Sequence[Op], sent_at: float) -> None:
        """What the script answered."""

    def misses(self, error: Exception, ops: Sequence[Op]) -> None:
        """The server did not answer."""


class Caller:
    """Calls until it is closed.

    Args:
        link: to the server; the thread closes it at its end.
        own: this process's id.
        talks: the two sides of the talk.
        look_s: seconds between looks at `talks.due`, which may have come nearer without a word.
    """

    def __init__(self, link: Link, own: str, talks: Talks, look_s: float) -> None:
        self._link, self._own, self._talks, self._look_s = link, own, talks, look_s
        # Reentrant: askers are notified under it, in the order of what happens, and may ask again.
        self.lock = threading.RLock()
        self._turn = threading.Condition(self.lock)
        self._closing = self._dropped = False
        self._thread = threading.Thread(target=self._run, name="offramp-limits", daemon=True)
        self.started = False

    def wake(self) -> None:
        """There is something to say. Called under the lock."""
        if not self.started and not self._closing:
            self.started = True
            self._thread.start()
        self._turn.notify()

    def close(self, timeout_s: float, *, silent: bool = False) -> None:
        """One last call, unless `silent`, and no more."""
        with self.lock:
            self._closing, self._dropped = True, silent
            self._turn.notify()
        if self.started and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self.lock:
                self._wait()
                if self._dropped:
                    break
                last, sent_at = self._closing, time.monotonic()
                ops = self._talks.says(sent_at)
            self._call(ops, sent_at)
            if last:
                break
        self._link.close()

    def _wait(self) -> None:
        while not self._closing:
            now = time.monotonic()
            left_s = self._talks.due(now) - now
            if left_s <= 0:
                return
            self._turn.wait(min(left_s, self._look_s))

    def _call(self, ops: Sequence[Op], sent_at: float) -> None:
        try:
            answer = _decode(self._link.call(_encode((self._own, 0, ops))))
        except (RedisError, OSError) as error:
            with self.lock:
                self._talks.misses(error, ops)
        except Exception as error:  # after any error, the lease has to be kept
            logger.exception("a call of the limits' script failed")
            with self.lock:
                self._talks.misses(error, ops)
        else:
            with self.lock:
                self._talks.hears(answer, ops, sent_at)
