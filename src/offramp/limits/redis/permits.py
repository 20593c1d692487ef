"""What a process asks for, holds and has called: what it tells a server that does not know it, or no longer does."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from offramp.core.limits.spec import ResourceSpec
from offramp.ports.limits import Ask, Done, Notify

CALLS_MAX = 20_000
"""Calls of one resource that a process remembers, at most, for a server that lost its data."""
LIFTED_MAX = 10_000
"""Runs that count as of a higher class, which a process remembers likewise."""

Op = tuple[Any, ...]


class Permit:
    """An ask, and its permit once it has one."""

    __slots__ = ("ask", "asked_at", "granted", "notify", "tokens", "within", "written_at")

    def __init__(self, ask: Ask, notify: Notify, now: float, within: Sequence[tuple[str, str]]) -> None:
        self.ask, self.notify, self.asked_at, self.within = ask, notify, now, within
        self.granted = False
        self.written_at = 0.0
        """When the request was written; 0 before."""
        self.tokens = 0

    def asks(self, kind: str, now: float) -> Op:
        """The ask as an operation of a kind."""
        ask = self.ask
        return (
            *(kind, ask.id, ask.resource, ask.run_id, ask.step, ask.sla, ask.tenant, ask.priority),
            *(ask.tokens, ask.tokens_max, self.within, ask.queues, now - self.asked_at),
        )

    def held(self, now: float) -> Op:
        """The permit, as an operation for a server that may not know it."""
        return (*self.asks("h", now), self.tokens, now - self.written_at if self.written_at else None)


class Permits:
    """The permits of one process, and its calls of the last time. Not safe to use from several threads at once."""

    def __init__(self, resources: Mapping[str, ResourceSpec]) -> None:
        self.open: dict[str, Permit] = {}
        self.waiting: Counter[str] = Counter()
        """Waiters by resource."""
        self.held = 0
        self.written: list[Permit] = []
        """Those of which the server does not know yet that they were written, the first one first."""
        self._lifted: dict[str, tuple[str, int]] = {}
        self._spans = {name: _longest_s(spec) for name, spec in resources.items()}
        self._calls: dict[str, deque[tuple[float, float, int]]] = {name: deque(maxlen=CALLS_MAX) for name in resources}

    def begin(self, ask: Ask, notify: Notify, now: float) -> Permit:
        """A new one, which waits."""
        within = [(each, self.open[each].ask.resource) for each in set(ask.within) if each in self.open]
        permit = self.open[ask.id] = Permit(ask, notify, now, within)
        self.waiting[ask.resource] += 1
        return permit

    def grant(self, permit: Permit, tokens: int) -> None:
        """It was granted."""
        permit.granted, permit.tokens = True, tokens
        self.waiting[permit.ask.resource] -= 1
        self.held += 1

    def write(self, permit: Permit, now: float) -> None:
        """Its request was written."""
        if permit.granted and not permit.written_at:
            permit.written_at = now
            self.written.append(permit)

    def forget(self, permit: Permit) -> None:
        """It was refused."""
        del self.open[permit.ask.id]
        self.waiting[permit.ask.resource] -= 1

    def end(self, permit: Permit, done: Done, now: float) -> Op:
        """It ends, as an operation for the server; a call that was made counts on."""
        if not permit.granted:
            self.forget(permit)
            return ("x", permit.ask.id, permit.ask.resource)
        del self.open[permit.ask.id]
        self.held -= 1
        if permit in self.written:
            self.written.remove(permit)
        if permit.written_at or done.how != "unused":
            self._remember(permit, done, now, permit.written_at or now)
        ask, written_s = permit.ask, now - permit.written_at if permit.written_at else None
        return ("d", ask.id, ask.resource, done.how, done.says, done.tokens, done.blocked_s, written_s)

    def _remember(self, permit: Permit, done: Done, now: float, written_at: float) -> None:
        resource = permit.ask.resource
        calls, since = self._calls[resource], now - self._spans[resource]
        while calls and calls[0][0] < since:
            calls.popleft()
        refused = done.how in {"throttled", "exhausted"}
        tokens = (0 if refused else permit.tokens) if done.tokens is None else max(0, done.tokens)
        calls.append((now, written_at, tokens))

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """The asks of a run count as of this class."""
        self._lifted.pop(run_id, None)
        self._lifted[run_id] = sla, priority
        if len(self._lifted) > LIFTED_MAX:
            del self._lifted[next(iter(self._lifted))]

    def news(self, now: float) -> list[Op]:
        """Requests that were written since the last call."""
        if not self.written:
            return []
        written, self.written = self.written, []
        return [("w", each.ask.id, each.ask.resource, now - each.written_at) for each in written]

    def calls(self, span_s: float) -> Iterator[Op]:
        """The calls that ended in the last `span_s` seconds and still count, for a server that has lost them.

        Like `everything`, these are as of now, and can be told one after the other in the time that follows.
        """
        now = time.monotonic()
        given = [
            (resource, *each)
            for resource, calls in self._calls.items()
            for each in calls
            if each[0] >= now - min(self._spans[resource], span_s)
        ]
        return (
            ("c", resource, (now := time.monotonic()) - written_at, tokens, now - ended_at)
            for resource, ended_at, written_at, tokens in given
        )

    def everything(self) -> Iterator[Op]:
        """All that is open here, for a server that then forgets what it knows beyond that."""
        self.written = []
        lifted = [("l", run_id, sla, priority) for run_id, (sla, priority) in self._lifted.items()]
        held = [each for each in self.open.values() if each.granted]
        waiting = [each for each in self.open.values() if not each.granted]
        return chain(
            (each.held(time.monotonic()) for each in held),
            lifted,
            (each.asks("A", time.monotonic()) for each in waiting),
            [("k", list(self.open))],
        )


def _longest_s(spec: ResourceSpec) -> float:
    """The longest window of a resource, and a margin for what is under way."""
    return max((rate.seconds for rate in (*spec.rates, *spec.tokens)), default=0) + 1.0


def ends_of(ops: Sequence[Op]) -> list[Op]:
    """How calls ended: what a server that learns everything again needs beside that."""
    return [op for op in ops if op[0] == "d"]
