"""The limits of one process that is alone: the book of all resources behind a lock, on the injected clock."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from offramp.core.limits.book import Book, Tell
from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.limits.client import CLOSED
from offramp.ports.clock import Clock, Timer
from offramp.ports.limits import Answer, Ask, Done, Level, Notify, Waits

SHOWS_EVERY_S = 1.0
"""Seconds between the levels that those get that watch them."""

_OWN = "here"

logger = logging.getLogger("offramp")


class LocalLimits:
    """See the port.

    Args:
        resources: what the app declares.
        classes: of the app, by name.
        clock: the injected clock.
    """

    def __init__(self, resources: Sequence[ResourceSpec], classes: Mapping[str, SLA], clock: Clock) -> None:
        self._book = Book(resources, classes)
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[str, Notify] = {}
        self._answers: deque[tuple[str, Answer]] = deque()
        self._answering = False
        self._timer: Timer | None = None
        self._due: float | None = None
        self._watchers: list[Callable[[Sequence[Level]], object]] = []
        self._shown: tuple[Level, ...] | None = None
        self._shows = False
        self._closed = False

    def ask(self, ask: Ask, notify: Notify) -> None:
        """See the port."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._asked[ask.id] = notify
                self._took(self._book.ask(self._clock.monotonic(), _OWN, ask))
        if closed:
            notify(CLOSED)
        self._answer()

    def withdraw(self, permit_id: str) -> None:
        """See the port."""
        with self._lock:
            self._asked.pop(permit_id, None)
            self._took(self._book.withdraw(self._clock.monotonic(), _OWN, permit_id))
        self._answer()

    def written(self, permit_id: str) -> None:
        """See the port."""
        with self._lock:
            self._took(self._book.written(self._clock.monotonic(), _OWN, permit_id))
        self._answer()

    def slow(self, permit_id: str) -> None:
        """See the port."""
        with self._lock:
            self._took(self._book.slow(self._clock.monotonic(), _OWN, permit_id))
        self._answer()

    def done(self, permit_id: str, done: Done) -> None:
        """See the port."""
        with self._lock:
            self._took(self._book.done(self._clock.monotonic(), _OWN, permit_id, done))
        self._answer()

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """See the port."""
        with self._lock:
            self._took(self._book.lift(self._clock.monotonic(), run_id, sla, priority))
        self._answer()

    def watch(self, notify: Callable[[Sequence[Level]], object]) -> None:
        """See the port."""
        with self._lock:
            self._watchers.append(notify)
            levels = self._book.levels(self._clock.monotonic())
            self._show_later()
        notify(levels)

    async def levels(self) -> Sequence[Level]:
        """See the port."""
        with self._lock:
            return self._book.levels(self._clock.monotonic())

    def start(self) -> None:
        """See the port; there is nothing to connect to."""

    def close(self) -> None:
        """See the port."""
        with self._lock:
            self._closed = True
            asked, self._asked = self._asked, {}
            self._book.leave(self._clock.monotonic(), _OWN)
            if self._timer is not None:
                self._timer.cancel()
            self._watchers.clear()
        for notify in asked.values():
            _call(notify, CLOSED)

    def _took(self, tells: Iterable[Tell]) -> None:
        """With the lock held: answers to give, and the time when the next ones are due."""
        self._answers.extend((permit_id, answer) for _client, permit_id, answer in tells)
        due = self._book.due()
        if due is not None and (self._due is None or due < self._due) and not self._closed:
            if self._timer is not None:
                self._timer.cancel()
            self._due = due
            self._timer = self._clock.call_at(due, self._pass)
        if self._watchers:
            self._show_later()

    def _answer(self) -> None:
        """Give the answers, in their order: one thread at a time does, without the lock."""
        while True:
            with self._lock:
                if self._answering or not self._answers:
                    return
                permit_id, answer = self._answers.popleft()
                final = not isinstance(answer, Waits)
                notify = self._asked.pop(permit_id, None) if final else self._asked.get(permit_id)
                self._answering = True
            try:
                if notify is not None:
                    _call(notify, answer)
            finally:
                with self._lock:
                    self._answering = False

    def _pass(self) -> None:
        with self._lock:
            self._timer = self._due = None
            if not self._closed:
                self._took(self._book.pass_to(self._clock.monotonic()))
        self._answer()

    def _show_later(self) -> None:
        if not self._shows and not self._closed:
            self._shows = True
            self._clock.call_at(self._clock.monotonic() + SHOWS_EVERY_S, self._show)

    def _show(self) -> None:
        with self._lock:
            self._shows = False
            if self._closed:
                return
            levels = self._book.levels(self._clock.monotonic())
            changed = levels != self._shown
            self._shown = levels
            watchers = tuple(self._watchers) if changed else ()
            if changed:
                self._show_later()
        for notify in watchers:
            _call(notify, levels)


def _call(notify: Callable[..., object], value: object) -> None:
    try:
        notify(value)
    except Exception:
        logger.exception("what asked for a permit failed when it got the answer")
