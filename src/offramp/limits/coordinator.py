"""The process that gives all permits of a data directory: `python -m offramp.limits.coordinator --data DIR`.

It holds the directory's lock while it lives, and ends by itself once no process needs it. It executes no user code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from offramp.limits import address, starting
from offramp.limits.serving import Desk, Seat

LINGER_S = 5.0
"""Seconds that it waits for another process once it serves none."""
NEW_OBJECTS = 50_000
"""As many objects more than were freed start a collection: of what it makes, reference counts free all but a little."""

logger = logging.getLogger("offramp.limits")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until no process needs it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m offramp.limits.coordinator", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--lock", type=int, help="an inherited descriptor that holds the lock")
    parser.add_argument("--linger", type=float, default=LINGER_S, help="seconds that it waits for another process")
    given = parser.parse_args(arguments)
    if given.lock is not None and os.fork():
        # Its starter waits for this process, and so has no child that it would have to bury.
        os._exit(0)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(message)s")
    data: Path = given.data.absolute()
    folder = address.open_folder(data)
    lock = address.take_lock(data) if given.lock is None else given.lock
    if lock is None:
        logger.error("process %s has the lock of %s", address.holder(data), data)
        return 1
    try:
        address.sign_lock(lock)
    except OSError as error:  # as on a full disk, which the permits of runs under way do not need
        logger.warning("%s cannot name this process: %s", data / address.LOCK, error)
    loop = _new_loop()
    try:
        loop.run_until_complete(_serve(folder, loop, given.linger))
    finally:
        loop.close()
    return 0


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's if it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(folder: Path, loop: asyncio.AbstractEventLoop, linger_s: float) -> None:
    end = End(loop, linger_s)
    desk = Desk(folder, loop, end.look)
    end.empty = lambda: desk.empty
    for number in (signal.SIGTERM, signal.SIGINT):
        # A machine that stops sends it to all: processes that drain need their permits until they have ended.
        loop.add_signal_handler(number, end.hurry)
    desk.begin()
    server = await loop.create_unix_server(lambda: Seat(desk), sock=address.listen(folder))
    _say_ready()
    end.look()
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
    await end.come.wait()
    server.close()
    desk.end()
    with contextlib.suppress(OSError):  # still under the lock: the next one makes its own
        (folder / address.SOCKET).unlink()
    logger.info("ends: no process is left")


class End:
    """When the coordinator ends: some seconds after its last process, or with it after a signal."""

    def __init__(self, loop: asyncio.AbstractEventLoop, linger_s: float) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._linger_s = linger_s
        self.come = asyncio.Event()
        self.empty: Callable[[], bool] = lambda: False

    def look(self) -> None:
        """Serving no process any more: wait for another."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._linger_s, self._now)

    def hurry(self) -> None:
        """Wait for no other process."""
        self._linger_s = 0.0
        self._now()

    def _now(self) -> None:
        if self.empty():
            self.come.set()


def _say_ready() -> None:
    """To the process that started this one, which may be gone; then nothing is said on stdout any more."""
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        os.write(sys.stdout.fileno(), starting.READY)
    except OSError:
        logger.info("the process that started this one is gone")
    os.dup2(silent, sys.stdout.fileno())
    os.close(silent)


if __name__ == "__main__":
    sys.exit(main())
