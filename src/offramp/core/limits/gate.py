"""One resource: what waits for it, whose turn it is, and what the end of each call changes. Pure, told the time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from offramp.core.limits.backlog import Backlog, Waiting
from offramp.core.limits.breaker import Breakers
from offramp.core.limits.capacity import (
    ALL,
    LOWER,
    OVERDUE,
    Capacity,
    Part,
    stopped_s,
)
from offramp.core.limits.learned import Tokens
from offramp.core.limits.messages import Ask, Done, Level, Reason, Refusal, Refused, WaitingClass, Waits, WindowLevel
from offramp.core.limits.notation import say
from offramp.core.limits.spec import ResourceSpec
from offramp.core.order import longest_wait_s
from offramp.core.sla import DEFAULT_CLASS, SLA

ADVANCE_S = 10.0
"""For how many seconds, at most, a lower class has had its share in advance by what it was granted in its turn. A burst
of a higher class that comes then goes first without it for so long.
"""
TOKENS_DEFAULT = 1_000
"""What is reserved for a call of which nothing is known, as long as no call of its resource has ended."""


class Permit:
    """A permit that exists.

    Args:
        entry: the ask that it was granted to.
        now: when it was granted.
        probe: the breaker finds out by it whether it may close.
    """

    __slots__ = ("ask", "client", "granted_at", "probe", "since", "tokens", "written_at")

    def __init__(self, entry: Waiting, now: float, *, probe: bool) -> None:
        self.client, self.ask, self.tokens = entry.client, entry.ask, entry.tokens
        self.since, self.granted_at, self.probe = entry.waiter.since, now, probe
        self.written_at: float | None = None


class Gate:
    """One resource.

    Args:
        spec: what is declared of it.
        classes: by name.
        margin_s: seconds for which calls count longer than their windows.
    """

    def __init__(self, spec: ResourceSpec, classes: Mapping[str, SLA], margin_s: float) -> None:
        self.spec = spec
        self.capacity = Capacity(spec, margin_s)
        self.classes = _with_share(classes, spec.share)
        self.waits = Backlog(self.classes)
        self.learned = Tokens()
        self.breakers = None if spec.breaker is None else Breakers(spec.name, spec.breaker)
        self.highest: int | None = None
        """The highest priority that has used the resource: lower ones leave the reserve free."""
        self.rose = False
        """Whether that has changed since this was last set to False."""
        self.due: float | None = None
        """When something changes by itself next for what waits."""
        self.said_until = -math.inf
        """Until when the resource is blocked, as its waiters know it."""
        self._granted_at: dict[str, float] = {}
        """By class, when it was granted something last."""
        self._served_until: dict[str, float] = {}
        """By lower class, for how long what it was granted in its turn is its share of all calls."""
        self._calls: Counter[str] = Counter()
        self._used = 0
        self._refusal: tuple[float, str] | None = None

    # Asks.

    def need(self, ask: Ask) -> int | Refused:
        """The tokens to reserve for a call."""
        rates = self.spec.tokens
        if not rates:
            return 0
        least = min(rates)
        known = ask.tokens
        if known is None:
            known = self.learned.expected(ask.step)
            if known is None:
                known = TOKENS_DEFAULT if ask.tokens_max is None else ask.tokens_max
            known = min(known, least.limit)
        need = max(0, known if ask.tokens_max is None else min(known, ask.tokens_max))
        if need <= least.limit:
            return need
        return Refused("too-small", f"{self.spec.name}: the call needs {need:,} tokens, the limit is {say(least)}")

    def shut(self, now: float, credential: str) -> Refused | None:
        """Why a call may not be made now because of the breaker."""
        if self.breakers is None or self.breakers.may(now, credential) != "no":
            return None
        return Refused("open", *self.breakers.refusal(now, credential))

    def busy(self, now: float, entry: Waiting) -> Refused | None:
        """Why one more may not wait because the queue of its class is full."""
        sla = self.classes.get(entry.waiter.sla, DEFAULT_CLASS)
        if entry.holds or sla.queue_limit is None or self.waits.queued(sla.name) < sla.queue_limit:
            return None
        return self.full(now, entry, f"queue_limit is {sla.queue_limit}", self.longest_wait_s(sla.name))

    def full(self, now: float, entry: Waiting, because: str, retry_after_s: float | None = None) -> Refused:
        """The refusal of one that would have to wait; worth another try after that time, else after that wait."""
        waits = entry.ask.id in self.waits.entries
        if not waits:
            self.waits.add(entry)
        foretold = self.foretell(now, entry)
        expected = foretold.expected_s
        self.waits.remove(entry)
        count = len(self.waits)
        if waits:
            self.waits.add(entry)
        about = "" if expected is None else f", about {expected:.0f} s{self._at(foretold.reason)}"
        wait = f"{count} {'call waits' if count == 1 else 'calls wait'}{about}"
        return Refused(
            "busy", f"{self.spec.name}: {wait}; {because}", expected if retry_after_s is None else retry_after_s
        )

    def longest_wait_s(self, sla: str) -> float | None:
        """The longest that a call of a class can wait; None without a `queue_limit`."""
        rate = self.capacity.rate()
        return None if rate is None else longest_wait_s(self.classes.get(sla, DEFAULT_CLASS), rate)

    def foretell(self, now: float, entry: Waiting) -> Waits:
        """What an entry waits for, and how long about."""
        ahead = self.waits.ahead(entry)
        places = math.floor(ahead / (1 - self.spec.share))
        part = LOWER if self._is_lower(entry) else ALL
        reason, at = self.capacity.foretold(now, places, entry.tokens, part)
        return Waits(reason, ahead, None if at is None else max(0.0, at - now))

    # Grants.

    def fits(self, now: float, entry: Waiting) -> bool:
        """Whether a call may be made at once, as nothing waits."""
        if self.waits.entries or self.capacity.blocked_until > now:
            return False
        return self.capacity.lacks(entry.tokens, LOWER if self._is_lower(entry) else ALL) is None

    def advance(self, now: float) -> list[tuple[Waiting, Permit | Refused]]:
        """Grant what can be granted, and refuse what the breaker stops."""
        self.due = None
        if not self.waits.entries:
            return []
        if self.capacity.blocked_until > now:
            self.due = self.capacity.blocked_until
            return []
        self.capacity.pass_to(now)
        found: list[tuple[Waiting, Permit | Refused]] = []
        late: set[str] | None = None
        owed: set[str] = set()
        while self.waits.entries:
            if self.capacity.lacks(0) is not None:  # nothing may go, whatever is next
                self.due = self.capacity.free_at(now, 0)
                break
            if late is None:
                late = self.waits.overdue(now)
                owed = {sla for sla in late if self._served_until.get(sla, now) <= now}
            entry = self.waits.first(owed)
            part = self._part(entry, late)
            lacks = self.capacity.lacks(entry.tokens, part) is not None
            if lacks and not self._has_turn(now, entry, part):
                self._wake(now, entry, part)
                break
            refused = self.shut(now, entry.ask.credential)
            if refused is not None:
                self.waits.remove(entry)
                found.append((entry, refused))
                continue
            self.waits.take(entry, owed)
            if lacks:
                self.waits.spend(entry.waiter.sla)
            found.append((entry, self.begin(now, entry, extra=lacks or part == ALL)))
            if entry.waiter.sla in late:
                late = None
        return found

    def begin(self, now: float, entry: Waiting, *, extra: bool = False) -> Permit:
        """Grant: the call counts from now on. It is `extra` if a lower class gets it by its share."""
        if not extra and self._is_lower(entry):
            self._serve(now, entry.waiter.sla)
        self.capacity.begins(now, entry.tokens)
        priority = entry.waiter.priority
        if self.highest is None or priority > self.highest:
            self.highest, self.rose = priority, True
        self._granted_at[entry.waiter.sla] = now
        ask = entry.ask
        probe = self.breakers is not None and self.breakers.granted(now, ask.id, ask.credential)
        return Permit(entry, now, probe=probe)

    def respecify(self, now: float, spec: ResourceSpec, classes: Mapping[str, SLA]) -> None:
        """Other limits are declared, or other classes."""
        known = _with_share(classes, spec.share)
        if known != self.classes:
            waits, self.classes, self.waits = self.waits, known, Backlog(known)
            for entry in waits:
                self.waits.add(entry)
        if spec != self.spec:
            if spec.breaker != self.spec.breaker:
                self.breakers = None if spec.breaker is None else Breakers(spec.name, spec.breaker)
            self.spec = spec
            self.capacity.respecify(now, spec)

    def _part(self, entry: Waiting, late: set[str]) -> Part:
        """The part of the limits that an entry may fill, which is next.

        What goes before a higher class that waits, by its share, may fill all: so does that class.
        """
        if not self._is_lower(entry) or entry.waiter.priority < self.waits.highest():
            return ALL
        return OVERDUE if entry.waiter.sla in late else LOWER

    def _has_turn(self, now: float, entry: Waiting, part: Part) -> bool:
        """Whether an entry may use what is left free of lower classes, as its class had less than its share lately."""
        return part == OVERDUE and self._turn_at(entry) <= now and self.capacity.lacks(entry.tokens) is None

    def _serve(self, now: float, sla: str) -> None:
        """A lower class is granted something in its turn, which is a part of its share, in advance for a while at most.

        Never for longer than `patience`: what begins to wait now is due no later because of what was granted before.
        """
        rate = self.capacity.rate()
        if rate:
            until = max(now, self._served_until.get(sla, now)) + 1 / (self.spec.share * rate)
            advance_s = min(ADVANCE_S, self.classes.get(sla, DEFAULT_CLASS).patience)
            self._served_until[sla] = min(until, now + advance_s)

    def _turn_at(self, entry: Waiting) -> float:
        """When the last grant to a class is so long ago that its share of all calls would be another one."""
        rate = self.capacity.rate()
        if not rate:
            return math.inf
        return self._granted_at.get(entry.waiter.sla, -math.inf) + 1 / (self.spec.share * rate)

    def _is_lower(self, entry: Waiting) -> bool:
        return not entry.holds and self.highest is not None and entry.waiter.priority < self.highest

    def _wake(self, now: float, entry: Waiting, part: Part) -> None:
        """Something changes when the windows have room, or when the class becomes overdue."""
        self.due = self.capacity.free_at(now, entry.tokens, part)
        if part == LOWER:
            patience = self.classes.get(entry.waiter.sla, DEFAULT_CLASS).patience
            turns = self.waits.oldest(entry.waiter.sla) + patience + AFTER_S
            self.due = turns if self.due is None else min(turns, self.due)
        elif part == OVERDUE and (free := self.capacity.free_at(now, entry.tokens)) is not None:
            turns = max(free, self._turn_at(entry))
            if turns < math.inf:
                self.due = turns if self.due is None else min(turns, self.due)

    # Ends.

    def written(self, now: float, permit: Permit) -> None:
        """The request of a permit is sent."""
        if permit.written_at is None:
            permit.written_at = now
            self.capacity.written(now)

    def slow(self, now: float, permit: Permit) -> bool:
        """The first token of a call is late; whether a breaker changed."""
        return self.breakers is not None and self.breakers.slow(now, permit.ask.id)

    def unused(self, now: float, permit: Permit) -> bool:
        """A permit ends whose call was not made; whether a breaker changed."""
        self.capacity.unused(permit.tokens)
        self._calls["unused"] += 1
        return self._end(now, permit, Done(how="unused"))

    def done(self, now: float, permit: Permit, done: Done) -> bool:
        """A call ends; whether a breaker changed."""
        self.written(now, permit)
        used = self.used(permit, done)
        if done.tokens is not None and done.how == "ok" and self.spec.tokens:
            self.learned.add(permit.ask.step, used)
        self.capacity.ends(now, permit.tokens, used, now - permit.granted_at)
        self._calls[done.how] += 1
        self._used += used
        if done.how == "ok":
            self.capacity.grow()
        elif done.how in ("throttled", "exhausted"):
            self._refused(now, permit, done)
        stopped = stopped_s(done)
        if stopped > 0:
            self.capacity.blocks(now + stopped)
        return self._end(now, permit, done)

    def used(self, permit: Permit, done: Done) -> int:
        """The tokens of a call: if nobody says so, what was reserved, or none if it was refused."""
        if done.tokens is not None:
            return max(0, done.tokens)
        return 0 if done.how in ("throttled", "exhausted") else permit.tokens

    def _refused(self, now: float, permit: Permit, done: Done) -> None:
        self._refusal = now, done.says
        if done.how == "throttled":
            self.capacity.cut(now, permit.granted_at)

    def _end(self, now: float, permit: Permit, done: Done) -> bool:
        return self.breakers is not None and self.breakers.ended(now, permit.ask.id, done.how, done.says)

    # What it is like now.

    def level(self, now: float) -> Level:
        """The resource as it is now."""
        self.capacity.pass_to(now)
        limits, blocked_s = self.capacity.limits, self.capacity.blocked_until - now
        calls, tokens = self.capacity.calls, self.capacity.tokens
        windows = [
            *(WindowLevel(say(rate), "calls", limits.calls[n], calls.used(n)) for n, rate in enumerate(calls.rates)),
            *(
                WindowLevel(say(rate), "tokens", limits.tokens[n], tokens.used(n))
                for n, rate in enumerate(tokens.rates)
            ),
        ]
        waiting = {
            sla: WaitingClass(count, max(0.0, now - oldest), self.longest_wait_s(sla))
            for sla, (count, oldest) in self.waits.classes().items()
        }
        return Level(
            name=self.spec.name,
            in_use=self.capacity.in_use,
            concurrency=None if math.isinf(limits.concurrency) else int(limits.concurrency),
            windows=tuple(windows),
            waiting=waiting,
            scale=self.capacity.scale,
            blocked_s=blocked_s if blocked_s > 0 else None,
            breaker=None if self.breakers is None else self.breakers.level(now),
            last_refusal=None if self._refusal is None else Refusal(now - self._refusal[0], self._refusal[1]),
            throttled=self._calls["throttled"] + self._calls["exhausted"],
            calls=dict(self._calls),
            tokens=self._used,
        )

    def _at(self, reason: Reason) -> str:
        """The limit that a wait is for, as people know it."""
        spec = self.spec
        rates = {"rate": spec.rates, "tokens": spec.tokens}.get(reason)
        if rates:
            slowest = say(min(rates, key=lambda rate: rate.limit / rate.seconds))
            return f" at {slowest}" + (" tokens" if reason == "tokens" else "")
        return f" at {spec.concurrency} at once" if reason == "concurrency" else ""


AFTER_S = 1e-6
"""A class is overdue once its patience is over, not when it ends."""


def _with_share(classes: Mapping[str, SLA], share: float) -> dict[str, SLA]:
    """The classes with the share that they get of a resource."""
    known = {DEFAULT_CLASS.name: DEFAULT_CLASS, **classes}
    return {name: replace(sla, share=share) for name, sla in known.items()}
