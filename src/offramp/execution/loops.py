"""Event loops on threads of their own: the control loop, and the run loops that execute pipelines.

User code runs on run loops only, so it can block nothing else (invariant L1). New runs are pulled by the first
run loop; while that one is blocked, a spare one pulls them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from offramp.execution.body import new_task
from offramp.execution.turns import Turns
from offramp.ports.commit import call_threadsafe

T = TypeVar("T")
PULL_MAX = 32
"""Runs that a loop starts before it looks at its other work again: a burst must not look like a blocked loop."""
log = logging.getLogger("offramp")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:  # Windows has no uvloop
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """An event loop that runs on its own daemon thread from construction to `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = new_event_loop()
        self.loop.set_exception_handler(_report)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while True:
                try:
                    self.loop.run_forever()
                    break
                except (SystemExit, KeyboardInterrupt) as error:
                    log.error("%s: a task of a pipeline raised %r; its run fails, the others go on", self.name, error)  # noqa: TRY400 - the run shows it
        finally:
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def call(self, callback: Callable[..., object], *args: Any) -> bool:
        """Call on the loop's thread; False when the loop is closed."""
        return call_threadsafe(self.loop, callback, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine to its end on this loop; a failure is logged."""
        if not self.call(self._spawn, coroutine):
            coroutine.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a background task failed", self.name, exc_info=task.exception())

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop and await it from another."""
        if asyncio.get_running_loop() is self.loop:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def close(self, timeout_s: float = 2.0) -> bool:
        """Cancel what runs and end the thread; False when user code still blocks it (the thread is a daemon)."""
        if not self.call(self._cancel_and_stop):
            return True
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def _cancel_and_stop(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        # Cancelled tasks get a few turns to run their cleanup; one that refuses does not hold up the exit.
        self.loop.call_later(0.05 if tasks else 0.0, self.loop.stop)


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Branches that a handoff or a failed sibling left behind end with errors nobody awaits: worth a debug line.
    log.debug("event loop: %s", context.get("message"), exc_info=context.get("exception"))


class RunLoop(LoopThread):
    """A run loop, and what the watchdog knows of it.

    `probed_at` is since when an answer is awaited, `silent` means it is late, `reported` that the log says so.
    """

    def __init__(self, name: str) -> None:
        self.probed_at: float | None = None
        self.silent = False
        self.reported = False
        super().__init__(name)
        self.loop.set_task_factory(new_task)
        self.turns = Turns(self.loop)


class RunLoops:
    """Hands new runs to the first run loop that is alive.

    Args:
        spares: how many loops may be added while others are blocked.
    """

    def __init__(self, spares: int) -> None:
        self._pending: deque[Callable[[RunLoop], object]] = deque()
        self._spares = spares
        self._lock = threading.Lock()
        self._is_called = False
        self.loops = [RunLoop("offramp-run-0")]

    def submit(self, start: Callable[[RunLoop], object]) -> None:
        """Call `start(loop)` on a run loop, soon."""
        self._pending.append(start)
        first = self.loops[0]
        if not self._is_called:  # one call for a burst: each wakes the loop with a system call
            self._is_called = True
            first.call(self._pull_first, first)
        if first.silent:
            self.use_spare()

    @property
    def waiting(self) -> int:
        """Runs that no loop has taken yet."""
        return len(self._pending)

    def use_spare(self) -> None:
        """Let every other loop pull what the blocked one has not taken, adding one if all were blocked."""
        others = [loop for loop in self.loops[1:] if not loop.silent]
        if not others:
            added = self._add() if len(self.loops) <= self._spares else None
            others = [added] if added else self.loops[1:]
        for loop in others:
            loop.call(self._pull, loop)

    def _pull_first(self, loop: RunLoop) -> None:
        self._is_called = False  # before the first look: what is submitted from now on calls again
        self._pull(loop)

    def _pull(self, loop: RunLoop) -> None:
        # popleft is atomic, so a run that two loops were woken for is started by one of them.
        for _ in range(PULL_MAX):
            try:
                start = self._pending.popleft()
            except IndexError:
                return
            start(loop)
        loop.loop.call_soon(self._pull, loop)

    def _add(self) -> RunLoop | None:
        with self._lock:
            if len(self.loops) > self._spares:
                return None
            loop = RunLoop(f"offramp-run-{len(self.loops)}")
            self.loops.append(loop)
            return loop

    def close(self) -> None:
        """End every loop; one that user code blocks is left to the end of the process."""
        for loop in self.loops:
            if not loop.close():
                log.warning("%s did not stop: a step blocks it", loop.name)
