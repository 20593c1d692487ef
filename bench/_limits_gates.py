"""What gives out permits in the simulation: one book for all processes, which can be killed, or a part for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench._limits_load import PROCESSES
from bench._limits_sim import Answers, Gate
from offramp.core.limits import recovery
from offramp.core.limits.book import Book, Tell
from offramp.core.limits.memory import Memory, Remembered
from offramp.core.limits.messages import Ask, Done
from offramp.core.limits.spec import ResourceSpec
from offramp.core.limits.windows import MARGIN_S
from offramp.core.sla import SLA


class Coordinator(Gate):
    """One book that all processes ask, each of which remembers what a successor of the book has to know.

    Args:
        specs: the resources.
        classes: by name.
        margin_s: seconds for which calls count longer than their windows.
    """

    def __init__(
        self, specs: Sequence[ResourceSpec], classes: Mapping[str, SLA], *, margin_s: float = MARGIN_S
    ) -> None:
        self._specs, self._classes, self._margin_s = specs, classes, margin_s
        self._book: Book | None = Book(specs, classes, margin_s=margin_s)
        self._logs = {f"process {number}": Remembered(specs, margin_s) for number in range(PROCESSES)}

    def ask(self, ask: Ask, now: float) -> Answers:
        client, log = self._of(ask.id)
        log.asked(now, ask)
        return [] if self._book is None else self._tell(now, self._book.ask(now, client, ask))

    def withdraw(self, permit_id: str, now: float) -> Answers:
        client, log = self._of(permit_id)
        log.withdrawn(now, permit_id)
        return [] if self._book is None else self._tell(now, self._book.withdraw(now, client, permit_id))

    def written(self, permit_id: str, now: float) -> Answers:
        client, log = self._of(permit_id)
        log.written(now, permit_id)
        return [] if self._book is None else self._tell(now, self._book.written(now, client, permit_id))

    def slow(self, permit_id: str, now: float) -> Answers:
        client, _ = self._of(permit_id)
        return [] if self._book is None else self._tell(now, self._book.slow(now, client, permit_id))

    def done(self, permit_id: str, done: Done, now: float) -> Answers:
        client, log = self._of(permit_id)
        log.done(now, permit_id, done)
        return [] if self._book is None else self._tell(now, self._book.done(now, client, permit_id, done))

    def tick(self, now: float) -> Answers:
        return [] if self._book is None else self._tell(now, self._book.pass_to(now))

    def due(self) -> float | None:
        return None if self._book is None else self._book.due()

    def kill(self) -> None:
        """What the book knows is lost."""
        self._book = None

    def succeed(self, now: float, *, remembered: bool = True) -> Answers:
        """Another one learns from each process what it remembers; or its asks alone, to show what that leads to."""
        self._book = Book(self._specs, self._classes, margin_s=self._margin_s, recovering=True)
        for client, log in self._logs.items():
            memory = log.memory(now)
            recovery.restore(self._book, now, client, memory if remembered else Memory(asks=memory.asks))
        return self._tell(now, recovery.recovered(self._book, now))

    def _of(self, permit_id: str) -> tuple[str, Remembered]:
        client = f"process {int(permit_id.partition(':')[0]) % PROCESSES}"
        return client, self._logs[client]

    def _tell(self, now: float, tells: Sequence[Tell]) -> Answers:
        if self._book is not None and self._book.changed:
            self._book.changed = False
            state = recovery.state(self._book, now)
            for log in self._logs.values():
                log.keeps(now, state)
        for tell in tells:
            self._logs[tell.client].answered(now, tell.id, tell.answer)
        return [(tell.id, tell.answer) for tell in tells]


class Split(Gate):
    """Limits split over processes: each has its part, and gives out its own permits.

    Args:
        specs: the resources as one process declares them.
        classes: by name.
    """

    def __init__(self, specs: Sequence[ResourceSpec], classes: Mapping[str, SLA]) -> None:
        self._books = [Book(specs, classes, margin_s=MARGIN_S) for _ in range(PROCESSES)]

    def ask(self, ask: Ask, now: float) -> Answers:
        return _answers(self._of(ask.id).ask(now, "", ask))

    def withdraw(self, permit_id: str, now: float) -> Answers:
        return _answers(self._of(permit_id).withdraw(now, "", permit_id))

    def written(self, permit_id: str, now: float) -> Answers:
        return _answers(self._of(permit_id).written(now, "", permit_id))

    def slow(self, permit_id: str, now: float) -> Answers:
        return _answers(self._of(permit_id).slow(now, "", permit_id))

    def done(self, permit_id: str, done: Done, now: float) -> Answers:
        return _answers(self._of(permit_id).done(now, "", permit_id, done))

    def tick(self, now: float) -> Answers:
        return [answer for book in self._books for answer in _answers(book.pass_to(now))]

    def due(self) -> float | None:
        dues = [due for book in self._books if (due := book.due()) is not None]
        return min(dues, default=None)

    def _of(self, permit_id: str) -> Book:
        return self._books[int(permit_id.partition(":")[0]) % PROCESSES]


def _answers(tells: Sequence[Tell]) -> Answers:
    return [(tell.id, tell.answer) for tell in tells]
