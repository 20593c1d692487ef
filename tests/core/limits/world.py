"""A world around a book: processes that ask, call and die, a coordinator that crashes, and a count of its own."""

from __future__ import annotations

from collections import Counter

from offramp.core.limits import recovery
from offramp.core.limits.book import Book
from offramp.core.limits.memory import Remembered
from offramp.core.limits.messages import Ask, Done, Granted, Refused, Waits
from offramp.core.limits.spec import resource_spec

MARGIN_S = 0.05


class Provider:
    """Counts what arrives at a resource, with nothing of the code under test."""

    def __init__(self, spec):
        self.spec = spec
        self.arrivals = []
        self.tokens = []

    def arrives(self, at, tokens):
        self.arrivals.append((at, 1))
        self.tokens.append((at, tokens))

    def violations(self):
        found = []
        for rates, events in ((self.spec.rates, self.arrivals), (self.spec.tokens, self.tokens)):
            for rate in rates:
                events.sort()
                for end, _ in events:
                    amount = sum(amount for at, amount in events if end - rate.seconds < at <= end)
                    if amount > rate.limit:
                        found.append((str(rate), end, amount))
        return found


class World:
    """Everything that happens goes through it; `look` checks that all limits hold."""

    def __init__(self, specs, classes):
        self.specs, self.classes = {spec.name: spec for spec in specs}, classes
        self.now = 100.0
        self.book = Book(specs, classes, margin_s=MARGIN_S)
        self.providers = {spec.name: Provider(spec) for spec in specs}
        self.clients = {"lives": Remembered(specs, MARGIN_S)}
        """A process has a memory; one of them outlives all, so that a state is not lost with the others."""
        self.answers = {}
        """By ask, its last answer."""
        self.asks, self.held, self.order = {}, {}, []
        self.instant = False
        """Whether calls are written when they are granted, and end at once."""
        self.waited = {}
        self.answered = Counter()

    # What processes do.

    def ask(self, client, number, resource, run=0, within=(), **more):
        name = f"run_{run:04}:{number:05}"
        sla = self.classes[more.pop("sla", "low")]
        ask = Ask(
            id=name,
            resource=resource,
            run_id=f"run_{run:04}",
            sla=sla.name,
            priority=sla.priority,
            within=tuple(within),
            **more,
        )
        self.asks[name] = client, ask, self.now
        self._memory(client).asked(self.now, ask)
        self.hears(self.book.ask(self.now, client, ask))
        return name

    def write(self, name, jitter=0.0, used=0):
        client, ask = self.held[name]
        self._memory(client).written(self.now, name)
        self.providers[ask.resource].arrives(self.now + jitter, used)
        self.hears(self.book.written(self.now, client, name))

    def end(self, name, **done):
        client, _ = self.held.pop(name)
        del self.asks[name]
        self._memory(client).done(self.now, name, Done(**done))
        self.hears(self.book.done(self.now, client, name, Done(**done)))

    def withdraw(self, name):
        client, _, _ = self.asks.pop(name)
        self.held.pop(name, None)
        self._memory(client).withdrawn(self.now, name)
        self.hears(self.book.withdraw(self.now, client, name))

    def lift(self, run, sla):
        self.hears(self.book.lift(self.now, f"run_{run:04}", sla, self.classes[sla].priority))
        self._spread()

    def leave(self, client):
        """A process dies: what it sent before counts, and nobody hears from it again."""
        for name in [name for name, (owner, _, _) in self.asks.items() if owner == client]:
            del self.asks[name]
            self.held.pop(name, None)
        self.clients.pop(client, None)
        self.hears(self.book.leave(self.now, client))
        self._spread()

    def crash(self):
        """The coordinator dies, and a successor learns all from the processes that live."""
        self.book = Book(self.specs.values(), self.classes, margin_s=MARGIN_S, recovering=True)
        for client, memory in self.clients.items():
            assert recovery.restore(self.book, self.now, client, memory.memory(self.now)) == []
        self.hears(recovery.recovered(self.book, self.now))
        self._spread()

    def passes(self, seconds):
        """Time passes; what is due happens in time."""
        until = self.now + seconds
        while (due := self.book.due()) is not None and due <= until:
            self.now = max(self.now, due)
            self.hears(self.book.pass_to(self.now))
            assert (again := self.book.due()) is None or again > self.now, "time stands still"
        self.now = until
        self.hears(self.book.pass_to(self.now))

    # What is looked at.

    @property
    def waiting(self):
        return [name for name in self.asks if name not in self.held]

    def look(self):
        for name, spec in self.specs.items():
            held = [each for each, (_, ask) in self.held.items() if ask.resource == name]
            level = next(level for level in self.book.levels(self.now) if level.name == name)
            assert level.in_use == len(held)
            assert spec.concurrency is None or len(held) <= spec.concurrency
            waits = [each for each in self.waiting if self.asks[each][1].resource == name]
            assert sum(each.count for each in level.waiting.values()) == len(waits)
        for provider in self.providers.values():
            assert provider.violations() == []

    def drain(self):
        """Everybody ends; then everything that waits is served, in time."""
        for _ in range(10 * len(self.asks) + 10):
            while self.held:
                self.end(next(iter(self.held)))
            if not self.waiting:
                break
            due = self.book.due()
            assert due is not None, f"lost: {self.waiting}"
            self.passes(max(0.0, due - self.now))
        assert not self.asks
        assert all(count == 1 for count in self.answered.values())

    def _memory(self, client):
        if client not in self.clients:
            self.clients[client] = Remembered(self.specs.values(), MARGIN_S)
        return self.clients[client]

    def _spread(self):
        state = recovery.state(self.book, self.now)
        for memory in self.clients.values():
            memory.keeps(self.now, state)

    def hears(self, tells):
        for client, name, answer in tells:
            known = self.asks.get(name)
            assert known is not None, f"{name} hears {answer} after its end"
            assert known[0] == client
            self._memory(client).answered(self.now, name, answer)
            self.answers[name] = answer
            if isinstance(answer, Granted):
                assert name not in self.held
                self.answered[name] += 1
                self.held[name] = client, known[1]
                self.order.append(name)
                self.waited[name] = self.now - known[2]
            elif isinstance(answer, Refused):
                self.answered[name] += 1
                del self.asks[name]
            else:
                assert isinstance(answer, Waits)
                assert name not in self.held
        if self.book.changed:
            self.book.changed = False
            self._spread()
        if self.instant:
            for name in [name for _, name, answer in tells if isinstance(answer, Granted)]:
                self.write(name)
                self.end(name)


def resource(name="r", **limits):
    return resource_spec(name, **limits)
