"""What an attempt holds and asks of resources while its code runs: in a thread or a task, any number at once.

The permits of `uses=` are there before it begins; the first request to a resource takes one over, and further ones ask
anew. When the attempt is over, it gives back what no request has taken over, gives up what is still asked for, and
closes the answers that are still open: a stream is of no use once its step is over.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Self

from offramp.execution.reports import Report
from offramp.ports.limits import Ask, Held, Holder, How, Limits, Waits

if TYPE_CHECKING:
    from offramp.execution.attempt import Attempt, Holders
    from offramp.ports.clock import Clock, Timer


IDLE_S_MAX = 1.0
"""How long an attempt that has its permits waits with them for a thread or a process."""


class Kept:
    """The permits that an attempt has from before it began; a call gives back those that no request took over."""

    __slots__ = ("_limits", "permits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.permits: dict[str, Held] = {}
        """By resource."""

    def __call__(self) -> None:
        """Give back what is left."""
        while self.permits:
            try:
                _, permit = self.permits.popitem()
            except KeyError:  # another thread took the last one over
                return
            self._limits.withdraw(permit.id)


class Idle:
    """While an attempt has permits and no place to run: after a while it gives them back, as what takes its place up
    may wait for them. From any thread.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._untaken = [release for release in attempt.releases if isinstance(release, Kept) and release.permits]
        self._clock = attempt.clock
        self._timer: Timer | None = None
        self.gave_back = False

    def __enter__(self) -> Self:
        if self._untaken:
            self._timer = self._clock.call_at(self._clock.monotonic() + IDLE_S_MAX, self._give_back)
        return self

    def _give_back(self) -> None:
        self.gave_back = True
        for kept in self._untaken:
            kept()

    def __exit__(self, *_error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


class AttemptHolder(Holder):
    """See the port.

    Args:
        attempt: the attempt.
        permits: of the process.
    """

    def __init__(self, attempt: Attempt, permits: Holders) -> None:
        self._attempt = attempt
        self._permits = permits
        self._lock = threading.Lock()
        self._waits: dict[object, Callable[[], object]] = {}
        self._open: dict[str, Callable[[], object]] = {}
        self._is_closed = False

    @property
    def limits(self) -> Limits:
        """The limits of the process."""
        return self._permits.limits

    @property
    def clock(self) -> Clock:
        """The injected clock."""
        return self._attempt.clock

    @property
    def retries(self) -> bool:
        """Whether the step has more than one attempt; the last one is not multiplied by an SDK either."""
        return self._attempt.call.policy.retry.attempts > 1

    @property
    def slow_after(self) -> float | None:
        """See `Attempt.slow_after_s`."""
        return self._attempt.slow_after_s

    @property
    def has_token(self) -> bool:
        """Whether it has emitted, or received the first byte of an answer."""
        return self._attempt.first is not None and self._attempt.first.came

    @property
    def cut(self) -> How:
        """See `Attempt.cut`."""
        return self._attempt.cut

    def untaken(self) -> dict[str, Held]:
        """The permits that no request has taken over yet, by resource."""
        return {
            resource: permit
            for release in list(self._attempt.releases)
            if isinstance(release, Kept)
            for resource, permit in list(release.permits.items())
        }

    @property
    def _step(self) -> str:
        return self._attempt.target or self._attempt.call.name

    def take(self, resource: str, credential: str | None = None) -> Held | None:
        """The permit that the step waited for before it began: once."""
        if credential is not None and resource in self._attempt.call.policy.uses:
            self._permits.note(self._step, resource, credential)
        for release in list(self._attempt.releases):
            permit = release.permits.pop(resource, None) if isinstance(release, Kept) else None
            if permit is not None:
                return permit
        return None

    def ask(self, resource: str) -> Ask:
        """An ask in the name of the attempt."""
        attempt, facts = self._attempt, self._attempt.scope.facts
        return Ask(
            id=self._permits.new_id(facts.run_id),
            resource=resource,
            run_id=facts.run_id,
            step=self._step,
            sla=facts.sla,
            tenant=facts.tenant,
            priority=facts.priority,
            within=tuple(permit.id for permit in self.untaken().values()),
            queues=attempt.queues,
            credential=self._permits.credential(self._step, resource),
        )

    @contextlib.contextmanager
    def waiting(self, ask: Ask, give_up: Callable[[], object]) -> Iterator[Callable[[Waits], object]]:
        """Say what this wait means for the run, and end it with the attempt."""
        report, mark = Report(self._attempt, ask.resource, in_flight=True), object()
        with self._lock:
            closed = self._is_closed
            self._waits[mark] = give_up
        if closed:
            give_up()
        try:
            yield report.waits
        finally:
            self._waits.pop(mark, None)
            report.over()

    def opened(self, permit_id: str, close: Callable[[], object]) -> None:
        """An answer is read from here on, until the attempt is over."""
        with self._lock:
            closed = self._is_closed
            if not closed:
                self._open[permit_id] = close
        if closed:
            self._end((close,))

    def closed(self, permit_id: str) -> None:
        """It is read no further."""
        self._open.pop(permit_id, None)

    def _end(self, closes: Iterable[Callable[[], object]]) -> None:
        """Not on this thread, as a plain stream may take its time to close."""
        for close in closes:
            self.clock.call_at(self.clock.monotonic(), close)

    def first_byte(self, resource: str) -> None:
        """The first token of an answer has come."""
        self._attempt.first_token()

    def close(self) -> None:
        """The attempt is over: no code needs what is still asked for, nor what is still read."""
        with self._lock:
            self._is_closed = True
            waits, closes = list(self._waits.values()), list(self._open.values())
        for give_up in waits:
            give_up()
        self._end(closes)
