"""What one resource has left: its windows, its concurrency, what refusals left of both, and how soon there is more.

Pure. It knows calls, no order: `gate.py` decides whose turn it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from offramp.core.limits.learned import Mean
from offramp.core.limits.messages import Done, Reason
from offramp.core.limits.spec import ResourceSpec
from offramp.core.limits.windows import MARGIN_S, Windows
from offramp.core.rates import Rate

SCALE_MIN = 0.05
"""What refusals leave of the limits at least; each limit stays 1 or more."""
SCALE_CUT = 0.75
"""What a refusal leaves of the scale; further refusals of calls that were granted before it leave it alone."""
SCALE_GAIN = 0.1
"""The calls that each success adds to the limits again."""
BLOCKED_DEFAULT_S = 1.0
"""For how long no process calls a resource after a refusal that does not say how long to wait."""
EXHAUSTED_S = 60.0
"""The same, at least, after one that says that the account has nothing left."""
BLOCKED_S_MAX = 3_600.0
"""The longest time for which a provider's word stops calls."""

PACE = 20
PACED_FROM = 0.25
"""Once lower classes have filled this part of what they may use of a window, they use the rest at an even pace: in the
time of one of so many parts of the window, one part of what they may. What is used all at once also comes free all at
once, and a burst of a higher class would have to wait for that. Windows of fewer seconds are too short for it.
"""


def stopped_s(done: Done) -> float:
    """For how many seconds the end of a call stops all others, by what the provider said or did not say."""
    stopped = {"throttled": BLOCKED_DEFAULT_S if done.blocked_s is None else 0.0, "exhausted": EXHAUSTED_S}
    return max(stopped.get(done.how, 0.0), min(done.blocked_s or 0.0, BLOCKED_S_MAX))


Part = Literal[0, 1, 2]
"""Which part of the limits a call may fill: all; what a lower class may; that and its share of the rest."""
ALL: Part = 0
LOWER: Part = 1
OVERDUE: Part = 2


class _Pace(NamedTuple):
    """Of a window, by its place: from how many calls in it on, how many in the time of a part."""

    window: int
    filled: int
    limit: int


class _Limits(NamedTuple):
    """Limits as scaled, for one part of them."""

    concurrency: float
    calls: tuple[int, ...]
    tokens: tuple[int, ...]
    pace: tuple[_Pace, ...]


class Load(NamedTuple):
    """What permits hold without end: how many there are, those whose request is not written, their tokens."""

    permits: int
    unwritten: int
    tokens: int


class Capacity:
    """The limits of one resource, and what counts against them.

    Args:
        spec: what is declared.
        margin_s: seconds for which calls count longer than their windows.
    """

    def __init__(self, spec: ResourceSpec, margin_s: float = MARGIN_S) -> None:
        self.spec = spec
        self.calls, self.tokens = Windows(spec.rates, margin_s), Windows(spec.tokens, margin_s)
        self.pace = Windows(paced(spec.rates), 0.0)
        """What was granted, and when."""
        self.in_use = 0
        self.scale = 1.0
        self.blocked_until = -math.inf
        self.held_s = Mean()
        """Seconds for which permits were held."""
        self.amount = Mean()
        """Tokens that calls used: not what they reserved, which is a guess as long as none has ended."""
        self._margin_s = margin_s
        self.cut_at = -math.inf
        """When a refusal shrank the limits last."""
        self._limits = self._scaled()

    # What fits.

    def pass_to(self, now: float) -> None:
        """Count what still counts at this time."""
        self.calls.pass_to(now)
        self.tokens.pass_to(now)
        self.pace.pass_to(now)

    def lacks(self, tokens: int, part: Part = ALL) -> Reason | None:
        """What keeps a call from being made now, as of the last `pass_to`; None if nothing does."""
        limits = self._limits[part]
        if self.in_use >= limits.concurrency:
            return "concurrency"
        if not self.calls.fits(1, limits.calls) or (limits.pace and self._outpaces(limits.pace)):
            return "rate"
        if not self.tokens.fits(tokens, limits.tokens):
            return "tokens"
        return None

    def _outpaces(self, pace: Sequence[_Pace]) -> bool:
        return any(
            self.calls.used(window) >= filled and self.pace.used(number) >= limit
            for number, (window, filled, limit) in enumerate(pace)
        )

    def fits_beside(self, load: Load, tokens: int) -> bool:
        """Whether a call could be made if all ended that ends by itself, and only this load stayed."""
        limits = self._limits[ALL]
        return (
            load.permits < limits.concurrency
            and all(load.unwritten < limit for limit in limits.calls)
            and all(not load.tokens or load.tokens + tokens <= limit for limit in limits.tokens)
        )

    def free_at(self, now: float, tokens: int, part: Part = ALL) -> float | None:
        """When a call fits if no other is made; None if it waits for another to end."""
        limits = self._limits[part]
        if self.in_use >= limits.concurrency:
            return None
        found = [*self._calls_free_at(now, 0.0, limits), *self._tokens_free_at(now, tokens, limits)]
        return max(found, default=(now, "rate"))[0]

    def foretold(self, now: float, ahead: float, tokens: int, part: Part = ALL) -> tuple[Reason, float | None]:
        """When a call will be made that `ahead` others go before, and what it waits for longest.

        The time is None if nothing is known of how long calls take, or of how many tokens they use.
        """
        limits, amount = self._limits[part], self.amount.value
        found = self._calls_free_at(now, ahead, limits)
        guessed = self._tokens_free_at(now, ahead * (tokens if amount is None else amount) + tokens, limits)
        if amount is not None:
            found += self._settled_at(now, ahead * amount + tokens, limits)
        if self.blocked_until > now:
            found = [(self.blocked_until, "retry-after"), *((at + self.blocked_until - now, why) for at, why in found)]
        short = self.in_use + ahead + 1 - limits.concurrency
        if short > 0:
            if self.held_s.value is None:
                return "concurrency", None
            begin = max(now, self.blocked_until)
            found.append((begin + self.held_s.value * short / limits.concurrency, "concurrency"))
        at, why = max(found, default=(now, "rate"))
        if amount is None and at <= now < max(guessed, default=(now, ""))[0]:
            return "tokens", None
        return why, at

    def rate(self) -> float | None:
        """Calls that can be made in a second, as scaled; None if that is unknown."""
        limits = self._limits[ALL]
        found = [limit / rate.seconds for limit, rate in zip(limits.calls, self.calls.rates, strict=True)]
        if self.amount.value:
            tokens = zip(limits.tokens, self.tokens.rates, strict=True)
            found += [limit / rate.seconds / self.amount.value for limit, rate in tokens]
        if self.held_s.value and limits.concurrency < math.inf:
            found.append(limits.concurrency / self.held_s.value)
        return min(found, default=None)

    @property
    def limits(self) -> _Limits:
        """The limits as they are scaled now."""
        return self._limits[ALL]

    # What happens.

    def begins(self, now: float, tokens: int) -> None:
        """A permit is granted."""
        self.in_use += 1
        self.pace.note(now, 1, 0)
        self.calls.open += 1
        if self.spec.tokens:
            self.tokens.open += tokens

    def written(self, now: float) -> None:
        """The request of a permit is written: its windows count from now."""
        self.calls.note(now, 1, 1)

    def unused(self, tokens: int) -> None:
        """A permit ends without a call."""
        self.in_use -= 1
        self.calls.open -= 1
        self.tokens.open -= tokens

    def ends(self, now: float, reserved: int, used: int, held_s: float) -> None:
        """A written permit ends: its tokens count from now."""
        self.in_use -= 1
        self.held_s.add(held_s)
        if self.spec.tokens:
            self.tokens.note(now, used, reserved)
            if used:
                self.amount.add(used)
        else:  # they were declared no more while it ran
            self.tokens.open -= reserved

    def blocks(self, until: float) -> None:
        """No process calls before; the later of two such times holds."""
        self.blocked_until = max(self.blocked_until, until)

    def cut(self, now: float, granted_at: float) -> bool:
        """The provider refused a call that was granted then: the limits shrink, once for all that were under way."""
        if granted_at < self.cut_at:
            return False
        self.cut_at = max(self.cut_at, now)
        self.scale_to(self.scale * SCALE_CUT)
        return True

    def grow(self) -> None:
        """A call succeeded."""
        if self.scale < 1.0:
            self.scale_to(self.scale + SCALE_GAIN / self._full_calls())

    def scale_to(self, scale: float) -> None:
        """What refusals leave of the limits, from now on."""
        self.scale = min(1.0, max(SCALE_MIN, scale))
        self._limits = self._scaled()

    def respecify(self, now: float, spec: ResourceSpec) -> None:
        """Other limits are declared; what was called counts on."""
        calls, tokens = Windows(spec.rates, self._margin_s), Windows(spec.tokens, self._margin_s)
        for new, old in ((calls, self.calls), (tokens, self.tokens)):
            new.recall(now, old.entries(now))
            new.open = old.open
        self.spec, self.calls, self.tokens = spec, calls, tokens
        self.pace = Windows(paced(spec.rates), 0.0)
        self._limits = self._scaled()

    def _full_calls(self) -> float:
        """The calls that the largest limit lets through, so that one call more is this part of all."""
        if self.spec.rates:
            return float(max(rate.limit for rate in self.spec.rates))
        if self.spec.tokens and self.amount.value:
            return max(1.0, max(rate.limit for rate in self.spec.tokens) / self.amount.value)
        return float(self.spec.concurrency or 1)

    def _calls_free_at(self, now: float, ahead: float, limits: _Limits) -> list[tuple[float, Reason]]:
        found: list[tuple[float, Reason]] = [
            (self.calls.free_at(window, now, ahead + 1, limit), "rate") for window, limit in enumerate(limits.calls)
        ]
        for number, (window, filled, limit) in enumerate(limits.pace):
            slow = self.pace.free_at(number, now, ahead + 1, limit)
            found.append((min(slow, self.calls.free_at(window, now, ahead + 1, filled)), "rate"))
        return found

    def _tokens_free_at(self, now: float, need: float, limits: _Limits) -> list[tuple[float, Reason]]:
        return [(self.tokens.free_at(window, now, need, limit), "tokens") for window, limit in enumerate(limits.tokens)]

    def _settled_at(self, now: float, need: float, limits: _Limits) -> list[tuple[float, Reason]]:
        """The same, if calls under way use what others used, and give the rest back when they end."""
        found = self._tokens_free_at(now, need, limits)
        rest = self.tokens.open - self.in_use * (self.amount.value or 0.0)
        if rest <= 0:
            return found
        ended = now + (self.held_s.value or 0.0)
        settled = self._tokens_free_at(now, need - rest, limits)
        return [(min(at, max(ended, early)), why) for (at, why), (early, _) in zip(found, settled, strict=True)]

    def _scaled(self) -> tuple[_Limits, _Limits, _Limits]:
        lower = 1.0 - self.spec.reserve
        return self._part(1.0), self._part(lower), self._part(lower + self.spec.share * self.spec.reserve)

    def _part(self, part: float) -> _Limits:
        def limit(declared: int) -> int:
            return max(1, math.floor(declared * self.scale * part + 1e-9))

        concurrency = math.inf if self.spec.concurrency is None else limit(self.spec.concurrency)
        return _Limits(
            concurrency,
            tuple(limit(rate.limit) for rate in self.spec.rates),
            tuple(limit(rate.limit) for rate in self.spec.tokens),
            ()
            if part == 1.0
            else tuple(_pace(window, limit(rate.limit)) for window, rate in long_windows(self.spec.rates)),
        )


def _pace(window: int, limit: int) -> _Pace:
    return _Pace(window, max(1, math.floor(limit * PACED_FROM)), math.ceil(limit / PACE))


def long_windows(rates: Sequence[Rate]) -> list[tuple[int, Rate]]:
    """The windows that lower classes use at an even pace, and their places."""
    return [(window, rate) for window, rate in enumerate(rates) if rate.seconds >= PACE]


def paced(rates: Sequence[Rate]) -> tuple[Rate, ...]:
    """The windows of grants that lower classes keep an even pace in."""
    return tuple(Rate(rate.limit, math.ceil(rate.seconds / PACE)) for _, rate in long_windows(rates))
