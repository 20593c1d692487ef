"""Event loops on threads of their own: the control loop, and the run loops that execute pipelines.

User code runs on run loops only, so it can block nothing else (invariant L1). New runs are pulled by the first
run loop; while that one is blocked, a spare one pulls them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from offramp.execution.body import new_task
from offramp.execution.body_loop import new_run_loop
from offramp.execution.forked import LoopCopy
from offramp.execution.turns import Turns
from offramp.ports.commit import call_threadsafe

T = TypeVar("T")
Start = Callable[["RunLoop"], "asyncio.Task[None]"]
"""Starts a run on a loop; returns the run's task."""
PULL_MAX = 32
"""The most runs that a loop starts before its other work: a burst must not look like a blocked loop."""
logger = logging.getLogger("offramp")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's loop if it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:  # Windows has no uvloop
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """An event loop that runs on its own daemon thread from construction to `close`."""

    new_loop = staticmethod(new_event_loop)

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = self.new_loop()
        self.loop.set_exception_handler(_report)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.start()

    def start(self) -> None:
        """Run the loop on its thread; a simulation that makes the loop's calls itself starts none."""
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while True:
                try:
                    self.loop.run_forever()
                    break
                except (SystemExit, KeyboardInterrupt) as error:
                    logger.error("%s: a task of a pipeline raised %r; all others continue", self.name, error)  # noqa: TRY400 - the run shows it
        finally:
            with contextlib.suppress(Exception):
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def call(self, callback: Callable[..., object], *args: Any) -> bool:
        """Call on the loop's thread; False when the loop is closed."""
        return call_threadsafe(self.loop, callback, *args)

    def answers(self, within_s: float) -> bool:
        """Wait until the loop answers, from any other thread; False if it does not within so many seconds."""
        answered = threading.Event()
        return self.call(answered.set) and answered.wait(within_s)

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
            logger.error("%s: a background task failed", self.name, exc_info=task.exception())

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop and await it from another."""
        if asyncio.get_running_loop() is self.loop:
            return await coroutine
        # In an empty context, as in `call`: work started there may outlive the caller.
        begun = contextvars.Context().run(asyncio.run_coroutine_threadsafe, coroutine, self.loop)
        return await asyncio.wrap_future(begun)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Cancel all tasks and end the thread; False if user code still blocks it (the thread is a daemon)."""
        if not self.call(self._cancel_and_stop):
            return True
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def _cancel_and_stop(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        # Cancelled tasks get a few turns for their cleanup; one that refuses does not delay the exit.
        self.loop.call_later(0.05 if tasks else 0.0, self.loop.stop)


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Branches abandoned by a handoff or a failed sibling end with errors that no code awaits: worth a debug line.
    logger.debug("event loop: %s", context.get("message"), exc_info=context.get("exception"))


class RunLoop(LoopThread):
    """A run loop, and its state for the watchdog.

    `runs` is the number of runs on it, `probed_at` the time of an unanswered probe; `held` says that user code holds
    it, `reported` that the log says so.
    """

    new_loop = staticmethod(new_run_loop)

    def __init__(self, name: str) -> None:
        self.runs = 0
        self.probed_at: float | None = None
        self.held = False
        self.reported = False
        super().__init__(name)
        self.loop.set_task_factory(new_task)
        self.turns = Turns(self.loop)
        self._copy = LoopCopy(self.loop, self.thread)

    @property
    def busy(self) -> bool:
        """Whether a run executes on it, or a probe is unanswered."""
        return self.runs > 0 or self.probed_at is not None

    def begin(self, start: Start) -> None:
        """Start a run; called on this loop's thread."""
        task = start(self)
        self.runs += 1
        task.add_done_callback(self._run_ended)

    def _run_ended(self, _task: asyncio.Task[None]) -> None:
        self.runs -= 1


class RunLoops:
    """Hands new runs to the first run loop that is alive.

    Args:
        spares: how many loops it may add while others are blocked.
        new_loop: makes a run loop with this name.
    """

    def __init__(self, spares: int, new_loop: Callable[[str], RunLoop] = RunLoop) -> None:
        self._new_loop = new_loop
        self._pending: deque[Start] = deque()
        self._spares = spares
        self._lock = threading.Lock()
        self._is_called = False
        self.busy = threading.Event()
        """Set while the watchdog has something to watch."""
        self._watch_ended = False
        self.loops = [new_loop("offramp-run-0")]

    def submit(self, start: Start) -> None:
        """Call `start(loop)` on a run loop, soon."""
        self._pending.append(start)
        if not self.busy.is_set():
            self.busy.set()
        first = self.loops[0]
        if not self._is_called:  # one call for a burst: each wakes the loop with a system call
            self._is_called = True
            first.call(self._pull_first, first)
        if first.held:
            self.use_spare()

    def wait_until_busy(self) -> None:
        """Return when a run waits or executes on any loop, or after `end_watch`; for the watchdog's thread."""
        self.busy.clear()
        if not (self._watch_ended or self._pending or any(loop.busy for loop in self.loops)):
            self.busy.wait()

    def end_watch(self) -> None:
        """Make `wait_until_busy` return at once, now and later."""
        self._watch_ended = True
        self.busy.set()

    @property
    def waiting(self) -> int:
        """Runs that no loop has taken yet."""
        return len(self._pending)

    def use_spare(self) -> None:
        """Make every other loop pull the runs that the blocked one has not taken; adds a loop if all are blocked."""
        others = [loop for loop in self.loops[1:] if not loop.held]
        if not others:
            added = self._add() if len(self.loops) <= self._spares else None
            others = [added] if added else self.loops[1:]
        for loop in others:
            loop.call(self._pull, loop)

    def _pull_first(self, loop: RunLoop) -> None:
        self._is_called = False  # before the first look: a later submission calls again
        self._pull(loop)

    def _pull(self, loop: RunLoop) -> None:
        # popleft is atomic, so a run that two loops were woken for is started by one of them.
        for _ in range(PULL_MAX):
            try:
                start = self._pending.popleft()
            except IndexError:
                return
            loop.begin(start)
        loop.loop.call_soon(self._pull, loop)

    def _add(self) -> RunLoop | None:
        with self._lock:
            if len(self.loops) > self._spares:
                return None
            loop = self._new_loop(f"offramp-run-{len(self.loops)}")
            self.loops.append(loop)
            return loop

    def close(self) -> None:
        """End every loop; a loop that user code blocks ends with the process."""
        for loop in self.loops:
            if not loop.close():
                logger.warning("%s did not stop: a step blocks it", loop.name)
