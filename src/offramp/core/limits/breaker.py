"""The circuit breakers of one resource, one per credential: when calls stop, when a few try, when all may go again.

They get the time as an argument, by one clock for all calls of a resource. They make no call and wake no caller: what
is refused learns in how many seconds another try is worth it.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Literal, NamedTuple

import msgspec

from offramp.core.limits.messages import BreakerLevel, BreakerState, How
from offramp.core.limits.spec import Breaker

BUCKETS = 10
"""Parts of the window, which end to count one by one: a call counts for nine tenths of the window to all of it."""
RECENT_CALLS = 50
RECENT_TIMES = 5
"""Of more calls within the window, about the last so many count, or so many times `min_calls` if that is more: a busy
resource's breaker opens soon after calls begin to fail, however many had been fine before.
"""
AGAIN_S = 1.0
"""While probes are under way, others may ask again after so long: a probe ends sooner than its lease as a rule."""
PROBES = 2
"""Calls that a half-open breaker lets through at once, and that have to succeed for it to close."""
CREDENTIALS_MAX = 100
"""Credentials of a resource that have a breaker of their own; past it, the one used longest ago is forgotten."""
REASONS_MAX = 8
"""Different reasons of failures that are shown, and counted in a part of the window; the rest is `OTHER_REASON`."""
REASON_CHARS_MAX = 40
OTHER_REASON = "failure"
SLOW = "slow"

Passage = Literal["yes", "probe", "no"]


class BreakerMemory(msgspec.Struct, frozen=True, omit_defaults=True):
    """A breaker that is not closed, and why: what the next process needs that takes the limits over.

    Attributes:
        credential: whose.
        left_s: seconds until probes are let through; 0 if they are.
        ok: calls in the window that opened it that were fine.
        reasons: the others by reason.
    """

    credential: str
    left_s: float
    ok: int = 0
    reasons: dict[str, int] = {}


class _Begun(NamedTuple):
    """A call under way: whose breaker let it through, in which generation, and the end of its lease if it is a probe.

    A call that began before the last change of its breaker reports nothing: the generation is another one.
    """

    credential: str
    generation: int
    lease_end: float | None = None


class _Part:
    """What was counted in a part of the window: its number, all calls, those that were fine, the others by reason."""

    __slots__ = ("calls", "number", "ok", "reasons")

    def __init__(self, number: int) -> None:
        self.number, self.calls, self.ok = number, 0, 0
        self.reasons: Counter[str] = Counter()


class _Window:
    """The calls of the last `window` seconds, and of these no more than the last, in a bounded number of parts."""

    def __init__(self, rules: Breaker) -> None:
        self._part_s = rules.window / BUCKETS
        self._calls = max(RECENT_CALLS, RECENT_TIMES * rules.min_calls)
        self._parts: deque[_Part] = deque()
        self.ok, self.bad = 0, 0

    def count(self, reason: str | None, now: float) -> None:
        """One more call; `reason` if it failed or was slow."""
        self.look(now)
        number = int(now / self._part_s)
        if not self._parts or self._parts[-1].number < number or self._parts[-1].calls * BUCKETS >= self._calls:
            self._parts.append(_Part(number))
        while self.ok + self.bad - self._parts[0].calls >= self._calls:
            self._forget()
        part = self._parts[-1]
        part.calls += 1
        if reason is None:
            part.ok += 1
            self.ok += 1
            return
        reason = reason[:REASON_CHARS_MAX] or OTHER_REASON
        if reason not in part.reasons and reason != SLOW and len(part.reasons) >= REASONS_MAX:
            reason = OTHER_REASON
        part.reasons[reason] += 1
        self.bad += 1

    def look(self, now: float) -> None:
        """Forget what is over."""
        first = int(now / self._part_s) - BUCKETS + 1
        while self._parts and self._parts[0].number < first:
            self._forget()

    def _forget(self) -> None:
        part = self._parts.popleft()
        self.ok -= part.ok
        self.bad -= part.reasons.total()

    def reasons(self) -> dict[str, int]:
        """The calls that failed or were slow, by reason: the most frequent reasons, and the rest together."""
        total: Counter[str] = Counter()
        for part in self._parts:
            total.update(part.reasons)
        slow, rest = total.pop(SLOW, 0), total.pop(OTHER_REASON, 0)
        most = total.most_common(REASONS_MAX)
        rest += total.total() - sum(number for _, number in most)
        return {reason: number for reason, number in (*most, (OTHER_REASON, rest), (SLOW, slow)) if number}


class _Breaker:
    """The breaker of one credential. A closed one has a window; another one why it opened, and its probes."""

    __slots__ = ("generation", "good", "leases", "opening", "until", "window")

    def __init__(self, generation: int, rules: Breaker) -> None:
        self.generation = generation
        self.window = _Window(rules)
        self.opening: BreakerMemory | None = None
        self.until = 0.0
        self.leases: list[float] = []
        self.good = 0

    def shut_until(self, now: float) -> float | None:
        """None if a call may be made; else the time before which none may."""
        if self.opening is None:
            return None
        if now < self.until:
            return self.until
        self.leases = [end for end in self.leases if end > now]
        return min(self.leases) if len(self.leases) >= PROBES else None

    def badness(self, now: float) -> tuple[int, int]:
        """What is larger for a worse one: by state, then by the calls that failed or were slow."""
        if self.opening is None:
            self.window.look(now)
            return 0, self.window.bad
        return 2 if now < self.until else 1, sum(self.opening.reasons.values())

    def leave(self, begun: _Begun) -> bool:
        """A probe is over; true if its place is free before its lease has ended."""
        if begun.lease_end not in self.leases:
            return False
        self.leases.remove(begun.lease_end)
        return True


class Breakers:
    """The breakers of one resource.

    Args:
        name: of the resource.
        rules: when they open, and for how long.
    """

    def __init__(self, name: str, rules: Breaker) -> None:
        self.name = name
        self.rules = rules
        self._each: OrderedDict[str, _Breaker] = OrderedDict()
        self._under_way: dict[str, _Begun] = {}
        self._generations = count(1)

    def may(self, now: float, credential: str) -> Passage:
        """Whether a call may be made; `probe` if it is one by which the breaker finds out whether it may close."""
        breaker = self._each.get(credential)
        if breaker is None or breaker.opening is None:
            return "yes"
        return "probe" if breaker.shut_until(now) is None else "no"

    def granted(self, now: float, permit_id: str, credential: str) -> bool:
        """A call begins; true if it is a probe. One that `may` forbids reports nothing."""
        breaker = self._breaker(credential)
        if breaker.opening is None:
            self._under_way[permit_id] = _Begun(credential, breaker.generation)
            return False
        if breaker.shut_until(now) is not None:
            return False
        lease_end = now + self.rules.open_for
        breaker.leases.append(lease_end)
        self._under_way[permit_id] = _Begun(credential, breaker.generation, lease_end)
        return True

    def slow(self, now: float, permit_id: str) -> bool:
        """The first token of a call is late, which counts at once. True if other calls may go now, or have to stop."""
        return self._over(now, permit_id, SLOW)

    def ended(self, now: float, permit_id: str, how: How, says: str = "") -> bool:
        """A call is over, or its process. True if other calls may go now, or have to stop."""
        if how in ("ok", "failed", "slow"):
            return self._over(now, permit_id, None if how == "ok" else says if how == "failed" else SLOW)
        begun, breaker = self._pop(permit_id)
        return begun is not None and breaker is not None and breaker.leave(begun)

    def refusal(self, now: float, credential: str) -> tuple[str, float]:
        """Why no call may be made, for users, and in how many seconds one may; 0 if it may now."""
        breaker = self._each.get(credential)
        if breaker is None or breaker.opening is None:
            return f"{self.name}: calls may be made", 0.0
        until = breaker.shut_until(now)
        left_s = 0.0 if until is None else until - now
        if now >= breaker.until:
            left_s = min(left_s, AGAIN_S)
        when = f"in {seconds_in_words(left_s)}" if left_s else "now"
        return f"{self.name}: {opening_in_words(breaker.opening, self.rules.slow_after)}; next try {when}", left_s

    def level(self, now: float) -> BreakerLevel:
        """The worst of all credentials' breakers: an open one first, then one with most calls that failed."""
        worst = max(self._each.values(), key=lambda each: each.badness(now), default=None)
        return BreakerLevel("closed") if worst is None else _level(worst, now)

    def memory(self, now: float) -> tuple[BreakerMemory, ...]:
        """The breakers that are not closed, without any absolute time."""
        return tuple(
            msgspec.structs.replace(each.opening, left_s=max(0.0, each.until - now))
            for each in self._each.values()
            if each.opening is not None
        )

    def restore(self, now: float, memories: Iterable[BreakerMemory]) -> None:
        """Take over what a predecessor knew. Of several memories, the later deadline of a credential wins."""
        for memory in memories:
            breaker = self._breaker(memory.credential)
            until = now + min(memory.left_s, self.rules.open_for)
            if breaker.opening is None or until > breaker.until:
                self._open(breaker, memory, until)

    def _breaker(self, credential: str) -> _Breaker:
        breaker = self._each.get(credential)
        if breaker is None:
            if len(self._each) >= CREDENTIALS_MAX:
                closed = (name for name, each in self._each.items() if each.opening is None)
                del self._each[next(closed, next(iter(self._each)))]
            breaker = self._each[credential] = _Breaker(next(self._generations), self.rules)
        self._each.move_to_end(credential)
        return breaker

    def _pop(self, permit_id: str) -> tuple[_Begun | None, _Breaker | None]:
        """A call that reports, and its breaker if that has not changed since."""
        begun = self._under_way.pop(permit_id, None)
        breaker = None if begun is None else self._each.get(begun.credential)
        if begun is None or breaker is None or breaker.generation != begun.generation:
            return begun, None
        return begun, breaker

    def _over(self, now: float, permit_id: str, reason: str | None) -> bool:
        begun, breaker = self._pop(permit_id)
        if begun is None or breaker is None:
            return False
        if breaker.opening is not None:
            return self._probed(breaker, begun, reason, now)
        window = breaker.window
        window.count(reason, now)
        calls = window.ok + window.bad
        if reason is None or calls < self.rules.min_calls or window.bad / calls < self.rules.error_rate:
            return False
        opening = BreakerMemory(begun.credential, self.rules.open_for, window.ok, window.reasons())
        self._open(breaker, opening, now + self.rules.open_for)
        return True

    def _probed(self, breaker: _Breaker, begun: _Begun, reason: str | None, now: float) -> bool:
        breaker.leave(begun)
        if reason is not None and breaker.opening is not None:
            self._open(breaker, breaker.opening, now + self.rules.open_for)
            return True
        breaker.good += 1
        if breaker.good >= PROBES:
            breaker.generation, breaker.opening, breaker.leases = next(self._generations), None, []
            breaker.window = _Window(self.rules)
        return True

    def _open(self, breaker: _Breaker, opening: BreakerMemory, until: float) -> None:
        breaker.generation = next(self._generations)
        breaker.opening, breaker.until = opening, until
        breaker.leases, breaker.good = [], 0


def _level(breaker: _Breaker, now: float) -> BreakerLevel:
    if breaker.opening is None:
        breaker.window.look(now)
        return BreakerLevel("closed", _counts(breaker.window.ok, breaker.window.reasons()))
    until = breaker.shut_until(now)
    counts = _counts(breaker.opening.ok, breaker.opening.reasons)
    state: BreakerState = "open" if now < breaker.until else "half-open"
    return BreakerLevel(state, counts, 0.0 if until is None else until - now)


def _counts(ok: int, reasons: Mapping[str, int]) -> dict[str, int]:
    slow = reasons.get(SLOW, 0)
    counts = {"ok": ok, "failed": sum(reasons.values()) - slow, "slow": slow}
    return {how: number for how, number in counts.items() if number}


def opening_in_words(opening: BreakerMemory, slow_after: float | None) -> str:
    """`9 of the last 12 calls failed (7 x 503, 2 timeouts)`."""
    slow = opening.reasons.get(SLOW, 0)
    bad = sum(opening.reasons.values())
    of = f"{bad} of the last {opening.ok + bad} calls"
    if slow == bad:
        return f"{of} were slow" + ("" if slow_after is None else f" (no first token within {slow_after:g} s)")
    reasons = ", ".join(_reason_in_words(reason, number) for reason, number in opening.reasons.items())
    return f"{of} failed{' or were slow' if slow else ''} ({reasons})"


def _reason_in_words(reason: str, number: int) -> str:
    if reason == SLOW:
        return f"{number} slow"
    if not reason.replace(" ", "").isalpha():
        return f"{number} x {reason}"
    return f"{number} {reason}{'s' if number > 1 else ''}"


def seconds_in_words(seconds: float) -> str:
    """Whole seconds, rounded up and at least one, or minutes from two of them on."""
    whole = max(1, math.ceil(seconds))
    return f"{whole} s" if whole < 120 else f"{math.ceil(whole / 60)} min"
