"""What a successor of the limits' process learns from the processes that use them, and how each of these knows it.

Pure. A successor counts on with exactly what counted before: permits that exist, asks that wait, calls of the longest
window, what providers said. Times are ages, as no two processes need to have the same clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

from offramp.core.limits.breaker import BreakerMemory
from offramp.core.limits.capacity import stopped_s
from offramp.core.limits.messages import Ask, Done, Granted, Waits
from offramp.core.limits.spec import ResourceSpec
from offramp.core.limits.windows import MARGIN_S, Windows

LIFTED_MAX = 10_000
"""Runs that are remembered to count as of another class; of more, those that were lifted last."""

Entries = list[tuple[float, int]]
"""What counts in a window: seconds since it began to, and how much."""


class Holding(msgspec.Struct, frozen=True):
    """A permit that a process holds: its ask, what was reserved, seconds since its grant and since it was written."""

    ask: Ask
    tokens: int
    granted_ago_s: float
    written_ago_s: float | None


class Asking(msgspec.Struct, frozen=True):
    """An ask of a process that waits, and seconds since it began to."""

    ask: Ask
    since_ago_s: float


class Called(msgspec.Struct, frozen=True):
    """The calls to a resource that its longest windows count: written requests, and the tokens of ended calls."""

    resource: str
    calls: Entries
    tokens: Entries


class Stopped(msgspec.Struct, frozen=True):
    """What a provider said to a process last.

    Attributes:
        resource: the resource.
        blocked_s: seconds until it may be called again.
        cut_ago_s: seconds since the last refusal that shrinks the limits.
        granted_ago_s: seconds since the grant of the call that was refused.
    """

    resource: str
    blocked_s: float
    cut_ago_s: float
    granted_ago_s: float


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a resource beside the calls of the processes that live.

    Attributes:
        resource: its name.
        scale: what refusals left of its limits.
        cut_ago_s: seconds since a refusal shrank them last.
        blocked_s: seconds until calls may be made again.
        highest: the highest priority that has used it.
        expected: tokens to reserve, by step.
        breakers: those that are not closed.
        calls: of processes that are gone.
        tokens: likewise.
    """

    resource: str
    scale: float = 1.0
    cut_ago_s: float | None = None
    blocked_s: float = 0.0
    highest: int | None = None
    expected: dict[str, int] = {}
    breakers: tuple[BreakerMemory, ...] = ()
    calls: Entries = []
    tokens: Entries = []


class State(msgspec.Struct, frozen=True):
    """What all processes remember for a successor.

    Attributes:
        number: the later state has the larger one.
        resources: what is known of each.
        lifted: runs that count as of another class, with its name and priority.
    """

    number: int
    resources: tuple[Kept, ...] = ()
    lifted: tuple[tuple[str, str, int], ...] = ()


class Memory(msgspec.Struct, frozen=True):
    """What one process has to say to a successor.

    Attributes:
        held: its permits.
        asks: those that wait, as they have heard.
        new: those that have heard nothing yet.
        called: what it called.
        stopped: what providers said to it.
        lifted: runs that it lifted, with the name and the priority of their class.
        state: the last that it got.
        state_ago_s: how many seconds ago.
    """

    held: tuple[Holding, ...] = ()
    asks: tuple[Asking, ...] = ()
    new: tuple[Asking, ...] = ()
    called: tuple[Called, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    lifted: tuple[tuple[str, str, int], ...] = ()
    state: State | None = None
    state_ago_s: float = 0.0


class Calls:
    """The calls of one process to one resource while they count in its longest windows.

    Args:
        spec: what is declared of the resource.
        margin_s: seconds for which calls count longer.
    """

    __slots__ = ("calls", "tokens")

    def __init__(self, spec: ResourceSpec, margin_s: float) -> None:
        self.calls, self.tokens = Windows(spec.rates[-1:], margin_s), Windows(spec.tokens[-1:], margin_s)

    def written(self, now: float) -> None:
        """One was made."""
        if self.calls.rates:
            self.calls.note(now, 1, 0)
            self.calls.pass_to(now)

    def used(self, now: float, tokens: int) -> None:
        """One ended that used so many tokens."""
        if self.tokens.rates:
            self.tokens.note(now, tokens, 0)
            self.tokens.pass_to(now)

    def called(self, now: float, resource: str) -> Called:
        """What counts now."""
        self.calls.pass_to(now)
        self.tokens.pass_to(now)
        return Called(resource, self.calls.entries(now), self.tokens.entries(now))

    def recall(self, now: float, calls: Entries, tokens: Entries) -> None:
        """Count also what another process called."""
        self.calls.recall(now, calls)
        self.tokens.recall(now, tokens)


class Logs:
    """The calls of one process, by resource."""

    def __init__(self, margin_s: float = MARGIN_S) -> None:
        self._margin_s = margin_s
        self._logs: dict[str, Calls] = {}

    def of(self, spec: ResourceSpec) -> Calls:
        """The calls to a resource."""
        log = self._logs.get(spec.name)
        if log is None:
            log = self._logs[spec.name] = Calls(spec, self._margin_s)
        return log

    def called(self, now: float) -> tuple[Called, ...]:
        """What counts now, without resources that have nothing."""
        found = (log.called(now, name) for name, log in self._logs.items())
        return tuple(each for each in found if each.calls or each.tokens)


class _Asked:
    __slots__ = ("ask", "since", "waits")

    def __init__(self, ask: Ask, now: float) -> None:
        self.ask, self.since = ask, now
        self.waits = False
        """Whether it has heard so."""


class _Held:
    __slots__ = ("ask", "granted_at", "tokens", "written_at")

    def __init__(self, ask: Ask, tokens: int, now: float) -> None:
        self.ask, self.tokens, self.granted_at = ask, tokens, now
        self.written_at: float | None = None


class _Stopped:
    __slots__ = ("cut_at", "granted_at", "until")

    def __init__(self) -> None:
        self.until = self.cut_at = self.granted_at = -math.inf


def lift(lifted: OrderedDict[str, tuple[str, int]], run_id: str, sla: str, priority: int) -> bool:
    """Add to the runs that count as of another class; False if it counts as of one as high already."""
    known = lifted.get(run_id)
    if not run_id or (known is not None and known[1] >= priority):
        return False
    lifted[run_id] = sla, priority
    lifted.move_to_end(run_id)
    if len(lifted) > LIFTED_MAX:
        lifted.popitem(last=False)
    return True


class Remembered:
    """What a process remembers of its own calls, to tell a successor. It gets every message, sent and received.

    Args:
        specs: the resources.
        margin_s: seconds for which calls count longer than their windows.
    """

    def __init__(self, specs: Iterable[ResourceSpec], margin_s: float = MARGIN_S) -> None:
        self._specs: Mapping[str, ResourceSpec] = {spec.name: spec for spec in specs}
        self._asks: dict[str, _Asked] = {}
        self._held: dict[str, _Held] = {}
        self._logs = Logs(margin_s)
        self._stopped: dict[str, _Stopped] = {}
        self._lifted: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._state: tuple[State, float] | None = None

    def asked(self, now: float, ask: Ask) -> None:
        """An ask was sent."""
        self._asks[ask.id] = _Asked(ask, now)

    def answered(self, now: float, permit_id: str, answer: object) -> None:
        """An answer came."""
        if isinstance(answer, Waits):
            if permit_id in self._asks:
                self._asks[permit_id].waits = True
            return
        found = self._asks.pop(permit_id, None)
        if found is not None and isinstance(answer, Granted):
            self._held[permit_id] = _Held(found.ask, answer.tokens, now)

    def written(self, now: float, permit_id: str) -> None:
        """A request was sent."""
        held = self._held.get(permit_id)
        if held is not None and held.written_at is None:
            held.written_at = now
            self._log(held.ask).written(now)

    def done(self, now: float, permit_id: str, done: Done) -> None:
        """A call ended."""
        if done.how == "unused":
            self.withdrawn(now, permit_id)
            return
        self.written(now, permit_id)
        held = self._held.pop(permit_id, None)
        if held is not None:
            self._log(held.ask).used(now, held.tokens if done.tokens is None else done.tokens)
            self._stops(now, held, done)

    def _stops(self, now: float, held: _Held, done: Done) -> None:
        stopped, cuts = stopped_s(done), done.how == "throttled"
        if stopped or cuts:
            known = self._stopped.setdefault(held.ask.resource, _Stopped())
            known.until = max(known.until, now + stopped)
            if cuts:
                known.cut_at, known.granted_at = now, held.granted_at

    def withdrawn(self, now: float, permit_id: str) -> None:
        """An ask was given up, or a permit; a request that was written counts all the same."""
        self._asks.pop(permit_id, None)
        held = self._held.pop(permit_id, None)
        if held is not None and held.written_at is not None:
            self._log(held.ask).used(now, held.tokens)

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """The asks of a run count as of a class."""
        lift(self._lifted, run_id, sla, priority)

    def keeps(self, now: float, state: State) -> None:
        """What is known of all resources, as it came last."""
        self._state = state, now

    def memory(self, now: float) -> Memory:
        """What to tell a successor."""
        held = tuple(
            Holding(
                each.ask,
                each.tokens,
                now - each.granted_at,
                None if each.written_at is None else now - each.written_at,
            )
            for each in self._held.values()
        )
        asks = tuple(Asking(each.ask, now - each.since) for each in self._asks.values() if each.waits)
        new = tuple(Asking(each.ask, now - each.since) for each in self._asks.values() if not each.waits)
        stopped = tuple(
            Stopped(name, max(0.0, each.until - now), now - each.cut_at, now - each.granted_at)
            for name, each in self._stopped.items()
        )
        lifted = tuple((run_id, *each) for run_id, each in self._lifted.items())
        state, at = self._state or (None, now)
        return Memory(held, asks, new, self._logs.called(now), stopped, lifted, state, now - at)

    def _log(self, ask: Ask) -> Calls:
        return self._logs.of(self._specs[ask.resource])
