"""Threads for plain steps: a fixed number at once, and up to as many again to replace held ones.

A thread cannot be stopped. A thread whose step timed out or was cancelled is held until its code returns. All are
daemons: the interpreter does not wait for them at its end.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Literal

from offramp.ports.commit import call_threadsafe

HELD_FACTOR = 2
"""The most threads, including held ones, for each that may work: beyond that, held ones are not replaced."""


class Place:
    """One attempt's place on a thread: waiting, given, used, left.

    Attributes:
        step: the name of the step of the attempt.
    """

    __slots__ = ("_future", "_loop", "_state", "_threads", "asked_at", "step", "thread_id")

    def __init__(self, threads: Threads, step: str) -> None:
        self.step = step
        self.asked_at = time.perf_counter()
        self.thread_id = 0
        """The id of the thread that runs or ran its code."""
        self._threads = threads
        self._state: Literal["waiting", "given", "running", "held", "over"] = "waiting"
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None

    @property
    def is_given(self) -> bool:
        """Whether its code may start."""
        return self._state == "given"

    @property
    def is_held(self) -> bool:
        """Whether its code still runs, although the attempt is over."""
        return self._state == "held"

    async def given(self) -> None:
        """Return when a thread is available."""
        with self._threads.lock:
            if self._state != "waiting":
                return
            self._future = self._loop.create_future()
        await self._future

    def give(self) -> bool:
        """Under the lock: let its code start; False if its loop is closed."""
        self._state = "given"
        return self._future is None or call_threadsafe(self._loop, _settle, self._future, None, None)

    def run(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call on a thread of its own; the future receives its result or exception."""
        future = self._loop.create_future()
        self._threads.start(lambda: self._work(call, future))
        return future

    def _work(self, call: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        value, error = None, None
        with self._threads.lock:
            begins = self._state == "given"
            if begins:
                self._state, self.thread_id = "running", threading.get_ident()
        if begins:
            try:
                value = call()
            except BaseException as raised:  # noqa: BLE001 - it is the step's, and its task gets it
                error = raised
        self._threads.ended(self, begins=begins)  # before its task is notified, which then leaves
        call_threadsafe(self._loop, _settle, future, value, error)
        error = None  # its traceback refers to this frame

    def leave(self) -> None:
        """Leave, as the attempt is over; its thread, if it still works, is held from now on."""
        self._threads.leave(self)

    def moved(self, state: Literal["held", "over"]) -> str:
        """Under the lock: change the state; returns the one before."""
        before, self._state = self._state, state
        return before


class Threads:
    """The threads of one process; usable from any thread.

    Args:
        most: how many work at once. As many again are started to replace held ones.
    """

    def __init__(self, most: int) -> None:
        self.lock = threading.Lock()
        self._most = most
        self.changed: Callable[[], object] = lambda: None
        """Called after a change of the number of held threads, on the thread that changed it."""
        self._waiting: dict[Place, None] = {}
        self._held: dict[Place, None] = {}
        self._taken = 0
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.alive = 0
        """Threads that were started and have not ended."""
        self.busy = 0
        """Threads that work, and calls that wait for one."""
        self._numbers = itertools.count()

    @property
    def held(self) -> list[Place]:
        """The places whose threads still run without them, the oldest first."""
        with self.lock:
            return list(self._held)

    @property
    def is_short(self) -> bool:
        """Whether more threads are held than replaced, so that fewer than `most` work."""
        return len(self._held) > (HELD_FACTOR - 1) * self._most

    @property
    def waiting(self) -> int:
        """Steps that wait for a thread."""
        return len(self._waiting)

    def place(self, step: str) -> Place:
        """Request a thread for an attempt of this step, in order; on the attempt's loop."""
        place = Place(self, step)
        with self.lock:
            self._waiting[place] = None
            self._give()
        return place

    def _give(self) -> None:
        room = min(self._most, HELD_FACTOR * self._most - len(self._held))
        while self._waiting and self._taken < room:
            place = next(iter(self._waiting))
            del self._waiting[place]
            if place.give():
                self._taken += 1
            else:
                place.moved("over")

    def start(self, work: Callable[[], object]) -> None:
        """Execute the code of places, one after another."""
        with self.lock:
            self.busy += 1
            is_new = self.busy > self.alive
            if is_new:
                self.alive += 1
        self._calls.put(work)
        if is_new:
            name = f"offramp-step-{next(self._numbers)}"
            try:
                threading.Thread(target=self._serve, name=name, daemon=True).start()
            except RuntimeError:  # the system has no more threads: the step fails, and others use the existing ones
                with self.lock:
                    self.alive -= 1
                raise

    def ended(self, place: Place, *, begins: bool) -> None:
        """Free the thread of a place whose code has returned, or was left before it began."""
        with self.lock:
            self.busy -= 1
            if not begins:
                return
            was_held = place.moved("over") == "held"
            if was_held:
                del self._held[place]
            else:
                self._taken -= 1
            self._give()
        if was_held:
            self.changed()

    def leave(self, place: Place) -> None:
        """See `Place.leave`."""
        with self.lock:
            before = place.moved("over")
            if before == "waiting":
                del self._waiting[place]
            elif before in {"given", "running"}:
                self._taken -= 1
            if before in {"running", "held"}:
                place.moved("held")
                self._held[place] = None
            self._give()
        if before == "running":
            self.changed()

    def _serve(self) -> None:
        ends = False
        while not ends:
            work = self._calls.get()
            if work is not None:
                work()
            with self.lock:
                # Replacements of held threads are not needed forever.
                ends = work is None or self.alive > max(self.busy, self._most + len(self._held))
                self.alive -= ends
            del work

    def close(self) -> None:
        """End the idle threads; busy ones end after their code, or with the process."""
        for _ in range(self.alive):
            self._calls.put(None)


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
