"""Recorded load for the benchmark of overload: a burst of interactive runs, and a tenant that hands in a batch.

bench/data/burst.jsonl.gz has the arrivals and the durations of calls; its first line names sources and licences.
"""

from __future__ import annotations

import gzip
import random
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

INTERACTIVE, BATCH = "interactive", "batch"
CALLS = 4
"""Calls of a run, one after the other."""
BUDGET_S = 6.0
DUMPS_AT_S = (100.0, 700.0)
"""When tenant A hands in its batches, in the recorded half hour."""
DUMP = 6_000
"""Runs of each."""
FLOODED_S = 60.0
"""When a flood has filled every place."""
EVERY_S = 5.0
"""Tenant B hands in one run each time."""


class Work(NamedTuple):
    """A run: when it is handed in, of which class and tenant, and how long each of its calls takes."""

    at: float
    sla: str
    tenant: str
    calls_s: tuple[float, ...]


class _Recorded(msgspec.Struct):
    arrivals_s: list[float]
    together_s: list[float]
    fireworks_s: list[float]


class Burst:
    """The recorded half hour.

    Args:
        endpoint: whose calls are drawn, `together` or `fireworks`.
        seed: of the draws.
    """

    def __init__(self, endpoint: str = "together", seed: int = 1) -> None:
        with gzip.open(Path(__file__).parent / "data" / "burst.jsonl.gz", "rb") as lines:
            _about, recorded = lines.read().splitlines()
        read = msgspec.json.decode(recorded, type=_Recorded)
        self.arrivals_s = read.arrivals_s
        self._calls_s = {"together": read.together_s, "fireworks": read.fireworks_s}[endpoint]
        self._random = random.Random(seed)

    @property
    def rate(self) -> float:
        """Interactive runs a second, on average."""
        return len(self.arrivals_s) / self.arrivals_s[-1]

    @property
    def call_s(self) -> float:
        """Seconds of a call, on average."""
        return sum(self._calls_s) / len(self._calls_s)

    def busiest(self, seconds: float) -> tuple[float, int]:
        """When the busiest time of this length begins, and how many runs are handed in during it."""
        counts = ((bisect_left(self.arrivals_s, at + seconds) - index, at) for index, at in enumerate(self.arrivals_s))
        count, at = max(counts)
        return at, count

    def interactive(self) -> list[Work]:
        """Every interactive run."""
        return [self._work(at, INTERACTIVE, "") for at in self.arrivals_s]

    def batch(self) -> list[Work]:
        """Two dumps of tenant A, and single runs of tenant B beside them."""
        dumps = [self._work(at, BATCH, "A") for at in DUMPS_AT_S for _ in range(DUMP)]
        count = int(self.arrivals_s[-1] / EVERY_S)
        return dumps + [self._work(number * EVERY_S, BATCH, "B") for number in range(count)]

    def flood(self, per_s: float, seconds: float, waiting: int) -> list[Work]:
        """Interactive runs at a steady rate, and so many batch runs that come once these fill the places."""
        steady = [self._work(number / per_s, INTERACTIVE, "") for number in range(round(per_s * seconds))]
        return steady + [self._work(FLOODED_S, BATCH, "A") for _ in range(waiting)]

    def _work(self, at: float, sla: str, tenant: str) -> Work:
        return Work(at, sla, tenant, tuple(self._random.choice(self._calls_s) for _ in range(CALLS)))


def merged(*parts: Sequence[Work]) -> list[Work]:
    """All of them in the order in which they are handed in."""
    return sorted((work for part in parts for work in part), key=lambda work: work.at)
