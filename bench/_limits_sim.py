"""Calls through limits to a provider in virtual time: the real state machines of `core.limits`, and nothing else of it.

A call takes a moment from its permit until its request is written, and another until it arrives; the provider counts
arrivals. Failed calls are tried again as `Retry` does by default, each attempt with a permit of its own.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from bench._limits_load import Run
from bench._provider_model import Answered, Provider
from offramp.core.limits.messages import Answer, Ask, Done, Granted, Refused, Waits
from offramp.core.retry import Retry, delay_s

WRITTEN_AFTER_S_MAX = 0.02
"""From a permit until its request is written, on a busy machine."""
ARRIVES_AFTER_S_MAX = 0.032
"""From there until it arrives."""
SDK_RETRIES = 2
"""What the SDKs of the large providers repeat by themselves, by default."""
SDK_BASE_S, SDK_CAP_S = 0.5, 8.0
SDK_WAIT_S_MAX = 60.0
"""A longer `Retry-After` is ignored by them."""

Answers = Sequence[tuple[str, Answer]]


class Gate(Protocol):
    """What gives out permits in virtual time: each call returns the answers that it leads to, by id of the permit."""

    def ask(self, ask: Ask, now: float) -> Answers: ...

    def withdraw(self, permit_id: str, now: float) -> Answers: ...

    def written(self, permit_id: str, now: float) -> Answers: ...

    def slow(self, permit_id: str, now: float) -> Answers: ...

    def done(self, permit_id: str, done: Done, now: float) -> Answers: ...

    def tick(self, now: float) -> Answers: ...

    def due(self) -> float | None: ...


class Open:
    """No limits: every permit is granted at once."""

    def ask(self, ask: Ask, now: float) -> Answers:
        return [(ask.id, Granted())]

    def withdraw(self, permit_id: str, now: float) -> Answers:
        return []

    written = slow = withdraw

    def done(self, permit_id: str, done: Done, now: float) -> Answers:
        return []

    def tick(self, now: float) -> Answers:
        return []

    def due(self) -> float | None:
        return None


class Ended(NamedTuple):
    """A run at its end.

    Attributes:
        run: the run.
        ended_at: on the clock of the load; infinite for a lost one.
        waited_s: for permits, in all.
        foretold_s: what it was expected to wait when it asked first; None if that was unknown, 0 if it had not to wait.
        waited_first_s: what it then waited.
        calls: that it made.
    """

    run: Run
    ended_at: float
    waited_s: float
    foretold_s: float | None
    waited_first_s: float
    calls: int

    @property
    def took_s(self) -> float:
        return self.ended_at - self.run.at

    @property
    def lost(self) -> bool:
        return math.isinf(self.ended_at)


class Target(NamedTuple):
    """A provider, and the resource that its calls take permits of."""

    resource: str
    provider: Provider


class Terms(NamedTuple):
    """How runs go about it.

    Attributes:
        retry: of the step.
        sdk_retries: what the SDK repeats within an attempt.
        first_token_s: an attempt whose first token is later goes on with the next target.
        slow_after_s: a first token that is later is notified to the breaker.
        priorities: by class; what is not in it has 0.
        ordered: whether runs say what class and tenant they are of.
        retry_wait: whether a refused call waits for as long as the provider says, rather than for a permit alone.
    """

    retry: Retry = Retry()
    sdk_retries: int = SDK_RETRIES
    first_token_s: float | None = None
    slow_after_s: float | None = None
    priorities: tuple[tuple[str, int], ...] = ()
    ordered: bool = True
    retry_wait: bool = False


class Simulation:
    """Runs, a gate, and one target or several, of which each attempt takes the next.

    Args:
        targets: where calls go.
        gate: where their permits come from.
        terms: how failed calls are repeated.
        seed: of delays.
    """

    def __init__(self, targets: Sequence[Target], gate: Gate, terms: Terms | None = None, seed: int = 1) -> None:
        self.targets, self.gate, self.terms = list(targets), gate, terms or Terms()
        self.random = random.Random(seed)
        self.ended: list[Ended] = []
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._asks: dict[str, Callable[[Answer], None]] = {}
        self._due = math.inf
        self._priorities = dict(self.terms.priorities)

    def serve(self, load: Sequence[Run], until_s: float = math.inf) -> list[Ended]:
        """Every run that ended, and every one that was lost.

        Args:
            load: the runs.
            until_s: nothing happens after.
        """
        for number, run in enumerate(sorted(load, key=lambda run: run.at)):
            self.at(run.at, _Attempts(self, f"{number:06}", run).begin)
        while self._events and self._events[0][0] <= until_s:
            self.now, _, action = heappop(self._events)
            action()
        return self.ended

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do this then."""
        heappush(self._events, (when, next(self._number), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do this so many seconds from now."""
        self.at(self.now + seconds, action)

    def ask(self, ask: Ask, answered: Callable[[Answer], None]) -> None:
        """Ask the gate."""
        self._asks[ask.id] = answered
        self.follow(self.gate.ask(ask, self.now))

    def follow(self, answers: Answers) -> None:
        """Hand out what the gate answered, and come back when it has to be called again."""
        for permit_id, answer in answers:
            if isinstance(answer, Waits):
                self._asks[permit_id](answer)
            elif (answered := self._asks.pop(permit_id, None)) is not None:
                answered(answer)
        due = self.gate.due()
        if due is not None and due < self._due:
            self._due = max(due, self.now)
            self.at(self._due, self._tick)

    def described(self, name: str, resource: str, run: Run) -> Ask:
        """The ask of a run's call."""
        if not self.terms.ordered:
            return Ask(id=name, resource=resource, run_id=name, step="call", tokens=run.tokens + run.output)
        return Ask(
            id=name,
            resource=resource,
            run_id=name[:6],
            step="call",
            sla=run.sla,
            tenant=run.tenant,
            priority=self._priorities.get(run.sla, 0),
            tokens=run.tokens + run.output,
            tokens_max=run.tokens + run.output,
        )

    def _tick(self) -> None:
        if self.now >= self._due:
            self._due = math.inf
            self.follow(self.gate.tick(self.now))


class _Attempts:
    """A run on its way: attempts of its step, and calls of its SDK within each."""

    def __init__(self, world: Simulation, name: str, run: Run) -> None:
        self.world, self.name, self.run = world, name, run
        self.attempt = 1
        self.target = 0
        self.passed = 0
        self.repeated = 0
        self.calls = 0
        self.asked_at = 0.0
        self.waited_s = 0.0
        self.foretold_s: float | None = 0.0
        self.waited_first_s: float | None = None

    def begin(self) -> None:
        """Ask for the permit of the next call."""
        world = self.world
        self.calls += 1
        self.asked_at = world.now
        permit_id = f"{self.name}:{self.calls:03}"
        target = world.targets[self.target]
        first = self.calls == 1

        def answered(answer: Answer) -> None:
            if isinstance(answer, Waits):
                if first and self.waited_first_s is None and world.now == self.asked_at:
                    self.foretold_s = answer.expected_s
            elif isinstance(answer, Granted):
                waited_s = world.now - self.asked_at
                self.waited_s += waited_s
                if self.waited_first_s is None:
                    self.waited_first_s = waited_s
                world.after(world.random.uniform(0, WRITTEN_AFTER_S_MAX), lambda: self._write(permit_id, target))
            else:
                self._refused(answer)

        world.ask(world.described(permit_id, target.resource, self.run), answered)

    def _refused(self, refused: Refused) -> None:
        """No attempt is used up: the next target, if there is one; all of them in turn, then later."""
        world = self.world
        self.calls -= 1
        self.passed += 1
        self.target = (self.target + 1) % len(world.targets)
        if self.passed < len(world.targets):
            self.begin()
        elif refused.retry_after_s is None:
            self._end(math.inf)
        else:
            self.passed = 0
            world.after(refused.retry_after_s, self.begin)

    def _write(self, permit_id: str, target: Target) -> None:
        world = self.world
        world.follow(world.gate.written(permit_id, world.now))
        world.after(world.random.uniform(0, ARRIVES_AFTER_S_MAX), lambda: self._arrive(permit_id, target))

    def _arrive(self, permit_id: str, target: Target) -> None:
        world = self.world
        self.passed = 0
        answered = target.provider.arrive(world.now, self.run.tokens + self.run.output)
        if answered.status == 429:
            done = Done(how="throttled", says="429", blocked_s=answered.retry_after_s)
            self._over(permit_id, done, answered.retry_after_s)
            return
        first_s = answered.latency.first_s
        slow_after_s, late_s = world.terms.slow_after_s, world.terms.first_token_s
        if slow_after_s is not None and first_s > slow_after_s:
            world.after(slow_after_s, lambda: world.follow(world.gate.slow(permit_id, world.now)))
        if late_s is not None and first_s > late_s:
            world.after(late_s, lambda: self._give_up(permit_id, target))
            return
        world.after(
            answered.latency.whole_s(self.run.output if answered.status == 200 else 0),
            lambda: self._leave(permit_id, target, answered),
        )

    def _give_up(self, permit_id: str, target: Target) -> None:
        """The first token is too late: the connection is closed, and the next target tried."""
        target.provider.leave(early=True)
        self._over(permit_id, Done(how="slow", says="first token"), None, at_once=True)

    def _leave(self, permit_id: str, target: Target, answered: Answered) -> None:
        target.provider.leave()
        if answered.status != 200:
            self._over(permit_id, Done(how="failed", says=str(answered.status)), None)
            return
        tokens = self.run.tokens + self.run.output
        done = Done(tokens=tokens, first_s=answered.latency.first_s)
        self.world.follow(self.world.gate.done(permit_id, done, self.world.now))
        self._end(self.world.now)

    def _over(self, permit_id: str, done: Done, retry_after_s: float | None, *, at_once: bool = False) -> None:
        """A call that has to be repeated: by the SDK, by the step, with the next target, or not at all."""
        world, terms = self.world, self.world.terms
        world.follow(world.gate.done(permit_id, done, world.now))
        jitter = world.random.random()
        if self.repeated < terms.sdk_retries:
            self.repeated += 1
            backoff_s = min(SDK_CAP_S, SDK_BASE_S * 2 ** (self.repeated - 1)) * (1 - 0.25 * jitter)
            asked_s = retry_after_s if retry_after_s is not None and retry_after_s <= SDK_WAIT_S_MAX else None
            world.after(asked_s or backoff_s, self.begin)
            return
        delay = delay_s(terms.retry, self.attempt, OSError(), jitter, retry_after_s if terms.retry_wait else None)
        if delay is None:
            self._end(math.inf)
            return
        self.attempt += 1
        self.repeated = 0
        self.target = (self.target + 1) % len(world.targets)
        world.after(0.0 if at_once or len(world.targets) > 1 else delay, self.begin)

    def _end(self, at: float) -> None:
        first_s = self.waited_first_s or 0.0
        self.world.ended.append(Ended(self.run, at, self.waited_s, self.foretold_s, first_s, self.calls))
