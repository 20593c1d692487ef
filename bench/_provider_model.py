"""A provider of model calls without clock, network or tasks: exact windows, recorded latencies, errors, outages.

It counts by itself, so a limiter that is wrong cannot hide it: a call is a violation if with it more calls (tokens,
calls at once) than allowed fall into a window that ends with it, whether or not the provider then refuses it.
"""

from __future__ import annotations

import gzip
import math
import random
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from offramp.core.rates import Rate

ERRORS_IN_OUTAGE = 0.9
"""The share of calls that fail during an outage."""
BLOCKED_S = 1.0
"""What a call beyond `concurrency` is asked to wait: a provider does not know when a place is free."""


class Latency(NamedTuple):
    """A recorded call: seconds to its first token, and between tokens."""

    first_s: float
    between_s: float

    def whole_s(self, tokens: int) -> float:
        """Until the last of so many tokens."""
        return self.first_s + self.between_s * tokens


class Used(NamedTuple):
    """The tokens of a recorded request."""

    input: int
    output: int


class Client(NamedTuple):
    """A client in a part of a recorded half hour: from when, in seconds, at what rate, how irregular its gaps are."""

    begins_s: float
    per_s: float
    variation: float


class Recorded(msgspec.Struct, frozen=True):
    """bench/data/calls.jsonl.gz; its first line names sources and licences."""

    together: list[Latency]
    fireworks: list[Latency]
    tokens: list[Used]
    mixes: dict[str, list[Client]]

    def latencies(self, endpoint: str) -> list[Latency]:
        """The calls of `together` or `fireworks`."""
        return {"together": self.together, "fireworks": self.fireworks}[endpoint]


def recorded() -> Recorded:
    """What was recorded, read anew."""
    with gzip.open(Path(__file__).parent / "data" / "calls.jsonl.gz", "rb") as lines:
        _about, values = lines.read().splitlines()
    return msgspec.json.decode(values, type=Recorded)


class Window:
    """What arrived within the last `rate.seconds`, exactly.

    Args:
        rate: how much of it is allowed.
        of: what is counted, `calls` or `tokens`.
    """

    def __init__(self, rate: Rate, of: str = "calls") -> None:
        self.rate = rate
        self.name = str(rate) if of == "calls" else f"{of} {rate}"
        self.used = 0
        self.peak = 0
        self._log: deque[tuple[float, int]] = deque()

    def breaks(self, now: float, weight: int) -> bool:
        """Whether so much more is more than allowed."""
        while self._log and self._log[0][0] <= now - self.rate.seconds:
            self.used -= self._log.popleft()[1]
        return self.used + weight > self.rate.limit

    def add(self, now: float, weight: int) -> None:
        """So much more arrived."""
        self._log.append((now, weight))
        self.used += weight
        self.peak = max(self.peak, self.used)

    def free_in_s(self, now: float, weight: int) -> float:
        """Seconds until so much more is allowed."""
        excess = self.used + weight - self.rate.limit
        for at, one in self._log:
            if excess <= 0:
                break
            excess -= one
            if excess <= 0:
                return max(0.0, at + self.rate.seconds - now)
        return 0.0 if excess <= 0 else float(self.rate.seconds)


class Answered(NamedTuple):
    """What the provider makes of a call.

    Attributes:
        status: of HTTP: 200, 429 or 503.
        latency: the recorded call that it resembles; a refusal comes at once.
        retry_after_s: of a refusal.
        cut_after: the share of the answer after which its stream breaks; None if it does not.
    """

    status: int
    latency: Latency = Latency(0.0, 0.0)
    retry_after_s: float | None = None
    cut_after: float | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What arrived so far.

    Attributes:
        calls: all of them.
        served: calls that got an answer of 200.
        failed: calls that got a 503.
        cut: answers that broke off.
        left: calls whose client left before the end.
        violations: calls that broke a limit.
        broken: violations by limit; one call can break several.
        open: calls under way now.
        open_peak: the most at once.
        peaks: the most in each window.
    """

    calls: int
    served: int
    failed: int
    cut: int
    left: int
    violations: int
    broken: dict[str, int]
    open: int
    open_peak: int
    peaks: dict[str, int]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider behaves.

    Attributes:
        rates: calls in windows.
        tokens: tokens in windows.
        concurrency: calls at once; None for no limit.
        endpoint: whose latencies it has.
        errors: the share of calls that fail with 503.
        cuts: the share of answers that break off.
        enforced: a call that breaks a limit is refused with 429.
        slow: a factor on latencies.
        outages: from when to when nearly all calls fail.
        seed: of every choice.
    """

    rates: tuple[Rate, ...] = ()
    tokens: tuple[Rate, ...] = ()
    concurrency: int | None = None
    endpoint: str = "together"
    errors: float = 0.01
    cuts: float = 0.0
    enforced: bool = True
    slow: float = 1.0
    outages: tuple[tuple[float, float], ...] = ()
    seed: int = 1


class Provider:
    """The state of a provider, which each method brings up to a time."""

    def __init__(self, terms: Terms, latencies: Sequence[Latency] | None = None) -> None:
        self.terms = terms
        self._latencies = recorded().latencies(terms.endpoint) if latencies is None else latencies
        self._random = random.Random(terms.seed)
        self._rates = [Window(rate) for rate in terms.rates]
        self._tokens = [Window(rate, "tokens") for rate in terms.tokens]
        self._open = self._open_peak = self._violations = 0
        self._counts: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()

    def arrive(self, now: float, tokens: int = 0) -> Answered:
        """A call arrives. Each answer but a refusal takes a place until `leave`.

        Args:
            now: seconds; never less than before.
            tokens: what it may use: its input, and `max_tokens`.
        """
        self._counts["calls"] += 1
        broken = [(window.name, window.free_in_s(now, 1)) for window in self._rates if window.breaks(now, 1)]
        broken += [(each.name, each.free_in_s(now, tokens)) for each in self._tokens if each.breaks(now, tokens)]
        if self.terms.concurrency is not None and self._open >= self.terms.concurrency:
            broken.append((f"{self.terms.concurrency} at once", BLOCKED_S))
        if broken:
            self._violations += 1
            self._broken.update(name for name, _ in broken)
            if self.terms.enforced:
                return Answered(429, retry_after_s=max(seconds for _, seconds in broken))
        for window in self._rates:
            window.add(now, 1)
        for window in self._tokens:
            window.add(now, tokens)
        self._open += 1
        self._open_peak = max(self._open_peak, self._open)
        return self._answer(now)

    def leave(self, *, early: bool = False) -> None:
        """A call that was not refused is over; its client left before the end if `early`."""
        self._open -= 1
        self._counts["left"] += early

    def stats(self) -> Stats:
        """What arrived so far."""
        return Stats(
            calls=self._counts["calls"],
            served=self._counts["served"],
            failed=self._counts["failed"],
            cut=self._counts["cut"],
            left=self._counts["left"],
            violations=self._violations,
            broken=dict(self._broken),
            open=self._open,
            open_peak=self._open_peak,
            peaks={window.name: window.peak for window in [*self._rates, *self._tokens]},
        )

    def _answer(self, now: float) -> Answered:
        first_s, between_s = self._random.choice(self._latencies)
        latency = Latency(first_s * self.terms.slow, between_s * self.terms.slow)
        outage = any(begins <= now < ends for begins, ends in self.terms.outages)
        if self._random.random() < (ERRORS_IN_OUTAGE if outage else self.terms.errors):
            self._counts["failed"] += 1
            return Answered(503, Latency(min(latency.first_s, 1.0), 0.0))
        self._counts["served"] += 1
        cut_after = self._random.uniform(0.1, 0.9) if self._random.random() < self.terms.cuts else None
        self._counts["cut"] += cut_after is not None
        return Answered(200, latency, cut_after=cut_after)


def arrivals_of(mix: Sequence[Client], seed: int, part_s: float = 600.0) -> list[float]:
    """When requests of a recorded mix of clients arrive: gaps of a gamma distribution, with its rates and variations.

    Args:
        mix: the clients, each for one part.
        seed: of the draws.
        part_s: how long a part is.
    """
    draws = random.Random(seed)
    arrivals: list[float] = []
    for client in mix:
        shape = 1 / client.variation**2
        scale = 1 / (shape * client.per_s)
        at = draws.gammavariate(shape, scale) * draws.random()
        while at < part_s and math.isfinite(at):
            arrivals.append(client.begins_s + at)
            at += draws.gammavariate(shape, scale)
    return sorted(arrivals)
