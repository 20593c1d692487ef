"""Stop signals as an event: the first asks for an orderly end, the second ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from types import TracebackType
from typing import Self

from offramp.ports import forks

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Set by SIGTERM, SIGINT or, if `watch_stdin`, the end of stdin; a context manager, used on the main thread's loop.

    While a parent holds that stdin, a second signal has no effect: process managers signal a whole group, so it may be
    the same request, passed on by the parent. The parent kills a child that does not leave in time.

    Attributes:
        reason: the signal's name, or the other cause.
    """

    def __init__(self, *, watch_stdin: bool = False) -> None:
        self.reason = ""
        self.signal: signal.Signals | None = None
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._supervised = watch_stdin
        self._loop = asyncio.get_running_loop()
        self._handled = contextlib.ExitStack()
        if watch_stdin:
            # A separate descriptor, so that user code that reads stdin does not wait on the parent's pipe.
            pipe = os.dup(0)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
            threading.Thread(target=self._watch, args=(pipe,), name="offramp-parent", daemon=True).start()

    def __enter__(self) -> Self:
        self._handled.enter_context(forks.signals(STOPPING, self._signalled))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handled.close()

    async def asked(self) -> None:
        """Wait for the first signal."""
        await self._asked.wait()

    async def hurried(self) -> None:
        """Wait for the second signal."""
        await self._hurry.wait()

    def _signalled(self, number: signal.Signals) -> None:
        if self._asked.is_set() and not self._supervised:
            self._hurry.set()
        self.signal = number
        self._set(number.name)

    def _set(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._asked.set()

    def _watch(self, pipe: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(pipe, 1024):
                pass
        self._supervised = False
        # With a closed loop, this process is leaving anyway.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set, "the serving process has ended")
