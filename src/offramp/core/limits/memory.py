"""What a successor of the limits' process learns from the processes that use them, and how each of these knows it.

Pure. A successor counts on with exactly what counted before: permits that exist, asks that wait, calls of the longest
window, what providers said. Times are ages, as no two processes need to have the same clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from offramp.core.limits.breaker import BreakerMemory
from offramp.core.limits.messages import Ask, Done, Granted
from offramp.core.limits.spec import ResourceSpec
from offramp.core.limits.windows import MARGIN_S, Windows

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


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a resource beside the calls of the processes that live.

    Attributes:
        resource: its name.
        scale: what refusals left of its limits.
        blocked_s: seconds until calls may be made again.
        highest: the highest priority that has used it.
        expected: tokens to reserve, by step.
        breakers: those that are not closed.
        calls: of processes that are gone.
        tokens: likewise.
    """

    resource: str
    scale: float = 1.0
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
    """What one process has to say to a successor: `state` is the last that it got, `state_ago_s` ago."""

    held: tuple[Holding, ...] = ()
    asks: tuple[Asking, ...] = ()
    called: tuple[Called, ...] = ()
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


class _Held:
    __slots__ = ("ask", "granted_at", "tokens", "written_at")

    def __init__(self, ask: Ask, tokens: int, now: float) -> None:
        self.ask, self.tokens, self.granted_at = ask, tokens, now
        self.written_at: float | None = None


class Remembered:
    """What a process remembers of its own calls, to tell a successor. It gets every message, sent and received.

    Args:
        specs: the resources.
        margin_s: seconds for which calls count longer than their windows.
    """

    def __init__(self, specs: Iterable[ResourceSpec], margin_s: float = MARGIN_S) -> None:
        self._specs: Mapping[str, ResourceSpec] = {spec.name: spec for spec in specs}
        self._asks: dict[str, tuple[Ask, float]] = {}
        self._held: dict[str, _Held] = {}
        self._logs = Logs(margin_s)
        self._state: tuple[State, float] | None = None

    def asked(self, now: float, ask: Ask) -> None:
        """An ask was sent."""
        self._asks[ask.id] = ask, now

    def answered(self, now: float, permit_id: str, answer: object) -> None:
        """An answer came; one that says only how long to wait changes nothing."""
        if isinstance(answer, Granted):
            found = self._asks.pop(permit_id, None)
            if found is not None:
                self._held[permit_id] = _Held(found[0], answer.tokens, now)
        elif getattr(answer, "why", None) is not None:
            self._asks.pop(permit_id, None)

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

    def withdrawn(self, now: float, permit_id: str) -> None:
        """An ask was given up, or a permit; a request that was written counts all the same."""
        self._asks.pop(permit_id, None)
        held = self._held.pop(permit_id, None)
        if held is not None and held.written_at is not None:
            self._log(held.ask).used(now, held.tokens)

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
        asks = tuple(Asking(ask, now - since) for ask, since in self._asks.values())
        state, at = self._state or (None, now)
        return Memory(held, asks, self._logs.called(now), state, now - at)

    def _log(self, ask: Ask) -> Calls:
        return self._logs.of(self._specs[ask.resource])
