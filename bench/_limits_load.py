"""Load for the benchmark of limits: runs of one call each, recorded bursts beside a tenant's batch."""

from __future__ import annotations

import random
from bisect import bisect_left
from typing import NamedTuple

from bench._burst import BATCH, DUMP, DUMPS_AT_S, EVERY_S, INTERACTIVE, Burst
from bench._provider_model import arrivals_of, recorded
from offramp.core.rates import Rate

ORDER, PROVIDER, RATES, CONCURRENCY = "BENCH_ORDER", "BENCH_PROVIDER", "BENCH_RATES", "BENCH_CONCURRENCY"
TOKENS = "BENCH_TOKENS"
"""Variables of the served App: `limits`, `first come`, `split` or `no limits`; the provider's URL; what it allows."""
PROCESSES = 4
"""That make calls: the gateway and its workers."""
OUTPUT_TOKENS = 60
"""What each answer has, where tokens are not what is measured."""
PER_S, PER_MIN = 1, 60
MINUTE_SHARE = 50
"""A minute allows so many times what a second does: 18/s and 900/min, as providers declare them."""
AT_ONCE = 3.5
"""Calls at once, in times what a second allows: more than go on on average, fewer than in a burst."""


class Run(NamedTuple):
    """A run of one call.

    Attributes:
        at: when it is handed in, in seconds.
        sla: its class.
        tenant: its tenant.
        tokens: what its input has.
        output: what its answer has.
    """

    at: float
    sla: str
    tenant: str = ""
    tokens: int = 0
    output: int = OUTPUT_TOKENS


class Load(NamedTuple):
    """Interactive runs, a batch beside them, and how many seconds it lasts."""

    name: str
    interactive: list[Run]
    batch: list[Run]
    lasts_s: float

    @property
    def per_s(self) -> float:
        """Interactive runs a second, on average."""
        return len(self.interactive) / self.lasts_s

    @property
    def busiest(self) -> float:
        """Interactive runs in the busiest second, in times the mean."""
        return self.busiest_second()[1] / self.per_s

    def part(self, begins_s: float, lasts_s: float) -> Load:
        """What is handed in during a part of it."""
        ends_s = begins_s + lasts_s
        own, others = (
            [run._replace(at=run.at - begins_s) for run in runs if begins_s <= run.at < ends_s]
            for runs in (self.interactive, self.batch)
        )
        return Load(f"{self.name} from {begins_s:g} s", own, others, lasts_s)

    def busiest_second(self) -> tuple[float, int]:
        """When it begins, and how many interactive runs are handed in during it."""
        arrivals = [run.at for run in self.interactive]
        count, at = max((bisect_left(arrivals, at + 1.0) - index, at) for index, at in enumerate(arrivals))
        return at, count


class Limit(NamedTuple):
    """What a provider allows."""

    rates: tuple[Rate, Rate]
    concurrency: int

    def times(self, factor: float) -> Limit:
        """The same, so many times as high."""
        rates = [Rate(max(1, int(rate.limit * factor)), rate.seconds) for rate in self.rates]
        return Limit((rates[0], rates[1]), max(1, int(self.concurrency * factor)))


def limit(per_s: float) -> Limit:
    """What a provider allows that carries so many calls in its best second."""
    allowed = round(per_s)
    rates = Rate(allowed, PER_S), Rate(allowed * MINUTE_SHARE, PER_MIN)
    return Limit(rates, round(allowed * AT_ONCE))


def burst() -> Load:
    """The recorded half hour of `Burst`, with tokens of its own requests."""
    arrivals = Burst().arrivals_s
    tokens = recorded().tokens
    own = [
        Run(at, INTERACTIVE, tokens=used.input, output=OUTPUT_TOKENS) for at, used in zip(arrivals, tokens, strict=True)
    ]
    return Load("burst", own, batch(arrivals[-1]), arrivals[-1])


def mix(name: str, seed: int = 1) -> Load:
    """A recorded mix of clients; no constant was chosen by it."""
    arrivals = arrivals_of(recorded().mixes[name], seed)
    own = [Run(at, INTERACTIVE) for at in arrivals]
    return Load(name, own, batch(arrivals[-1]), arrivals[-1])


def batch(lasts_s: float, dump: int = DUMP) -> list[Run]:
    """Two dumps of tenant A, and single runs of tenant B beside them."""
    dumps = [Run(at, BATCH, "A") for at in DUMPS_AT_S for _ in range(dump)]
    return dumps + [Run(number * EVERY_S, BATCH, "B") for number in range(int(lasts_s / EVERY_S))]


def steady(per_s: float, lasts_s: float, seed: int = 1) -> Load:
    """Interactive runs that come by chance at a steady rate."""
    draws = random.Random(seed)
    arrivals: list[float] = []
    at = draws.expovariate(per_s)
    while at < lasts_s:
        arrivals.append(at)
        at += draws.expovariate(per_s)
    return Load("steady", [Run(each, INTERACTIVE) for each in arrivals], [], lasts_s)
