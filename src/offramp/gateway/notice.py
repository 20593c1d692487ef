"""Notices that a foreign ASGI server is to stop, while that server still waits for its connections to end.

The lifespan protocol says so only afterwards: an open stream would hold the server, and be cut at its end. The server
keeps its signal handlers: each is called after this one, and is put back at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from offramp.ports.commit import call_threadsafe

STOPPING = (signal.SIGTERM, signal.SIGINT)
ASK_EVERY_S = 0.1
"""The interval at which an event between processes is looked at, as its server does."""
Handler = Callable[[int, Any], Any]


class StopNotice:
    """Calls `stopping` on the loop that `watch` was called on, once.

    - A signal, where the server handles it itself. One that would end the process by default is left alone.
    - The event that hypercorn's main process sets for its workers, which get no signal.

    Args:
        stopping: called with what said so.
    """

    def __init__(self, stopping: Callable[[str], object]) -> None:
        self._stopping = stopping
        self._chained: dict[signal.Signals, tuple[Handler, Handler]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._pid = os.getpid()
        self._was_given = False

    def watch(self) -> None:
        """Watch from now on; signals only on the main thread, where alone Python handles them."""
        self._pid, self._was_given = os.getpid(), False
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                theirs = signal.getsignal(number)
                if callable(theirs):
                    self._chain(number, theirs, loop)
        event = _event_of_hypercorn()
        if event is not None:
            self._asking = loop.create_task(self._ask(event))

    def leave(self) -> None:
        """Watch no longer: the server's handlers are back, unless it has replaced this one itself."""
        if threading.current_thread() is threading.main_thread():
            for number, (ours, theirs) in self._chained.items():
                if signal.getsignal(number) is ours:
                    signal.signal(number, theirs)
        self._chained.clear()
        if self._asking is not None:
            self._asking.cancel()

    def _chain(self, number: signal.Signals, theirs: Handler, loop: asyncio.AbstractEventLoop) -> None:
        def ours(received: int, frame: Any) -> Any:
            if os.getpid() == self._pid:  # else a child that user code forked, with a copy of the handler
                call_threadsafe(loop, self._give, number.name)
            return theirs(received, frame)

        self._chained[number] = ours, theirs
        signal.signal(number, ours)

    async def _ask(self, event: Any) -> None:
        with contextlib.suppress(OSError):  # the main process is gone
            while not event.is_set():  # noqa: ASYNC110 - it belongs to other processes, too
                await asyncio.sleep(ASK_EVERY_S)
        self._give("the main process")

    def _give(self, reason: str) -> None:
        if not self._was_given:
            self._was_given = True
            self._stopping(reason)


def _event_of_hypercorn() -> Any:
    """The event that ends this process, if hypercorn started it: an argument of the process, reachable nowhere else."""
    processes = sys.modules.get("multiprocessing.process")
    if processes is None or "hypercorn" not in sys.modules:
        return None
    given = getattr(processes.current_process(), "_kwargs", {}).get("shutdown_event")
    return given if hasattr(given, "is_set") else None
