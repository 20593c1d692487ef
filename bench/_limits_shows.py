"""What limits show in virtual time: a recorded burst in five orders, limits declared too high, kills, a flood."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bench._burst import BATCH, INTERACTIVE
from bench._hybrid import quantile
from bench._limits_gates import Coordinator, Split
from bench._limits_load import PROCESSES, Limit, Load, Run, limit
from bench._limits_sim import Ended, Gate, Open, Simulation, Target
from bench._limits_sim import Terms as Going
from bench._provider_model import Latency, Provider, Terms
from offramp.core.limits.spec import ResourceSpec
from offramp.core.order import longest_wait_s
from offramp.core.rates import Rate
from offramp.core.sla import SLA

LLM = "llm"
PRIORITIES = {INTERACTIVE: 10, BATCH: -1}
CLASSES = {
    INTERACTIVE: SLA(INTERACTIVE, priority=PRIORITIES[INTERACTIVE]),
    BATCH: SLA(BATCH, budget=0, priority=PRIORITIES[BATCH]),
}
ALONE, OURS, FIFO, SPLIT, NONE = "alone", "limits", "first come", "split", "no limits"
FORETOLD_S = 3.0
DECLARED_TIMES = 1.5
DOWN_S = 1.0
"""How long a killed coordinator's successor takes at most."""
FLOOD_S = 600.0
FLOODED_S = 60.0
FLOOD_WAITING = 100
INVERTED_HIGH = 40


_GOING = Going(priorities=tuple(PRIORITIES.items()))


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One load and order; durations in seconds, of interactive runs unless said otherwise.

    Attributes:
        load: the load.
        order: how permits are given out.
        runs: all of them.
        lost: runs whose attempts all failed.
        p95_s: from acceptance to end, of runs that were not lost.
        times_alone: the same, in times that of interactive runs alone.
        violations: calls that broke a limit, as the provider counts.
        refused: the share of calls that the provider refused.
        batch_done: batch runs done when the recording ends.
        other_tenant_p95_s: the wait of tenant B's runs.
        precision: of waits foretold to be over 3 s, the share that were.
        recall: of waits over 3 s, the share that were foretold.
    """

    load: str
    order: str
    runs: int
    lost: int
    p95_s: float
    times_alone: float
    violations: int
    refused: float
    batch_done: int
    other_tenant_p95_s: float
    precision: float
    recall: float


class Cell(NamedTuple):
    """A load and what carries it.

    Attributes:
        load: the runs.
        capacity: calls of the provider's best second, in times the mean rate of interactive runs.
        endpoint: whose latencies it has.
        seed: of every draw.
        tokens_per_min: a limit of tokens; None for none.
    """

    load: Load
    capacity: float
    endpoint: str = "together"
    seed: int = 1
    tokens_per_min: int | None = None

    @property
    def name(self) -> str:
        more = f", {self.tokens_per_min:,} tokens/min" if self.tokens_per_min else ""
        return f"{self.load.name}, {self.endpoint}, {self.capacity:g} x, seed {self.seed}{more}"

    @property
    def allowed(self) -> Limit:
        return limit(self.capacity * self.load.per_s)

    @property
    def tokens(self) -> tuple[Rate, ...]:
        return () if self.tokens_per_min is None else (Rate(self.tokens_per_min, 60),)

    def provider(self) -> Provider:
        """As it allows."""
        return Provider(_terms(self, self.allowed))

    def spec(self, factor: float = 1.0) -> ResourceSpec:
        """What users declare: what the provider allows, or so many times it."""
        allowed = self.allowed.times(factor)
        return ResourceSpec(LLM, concurrency=allowed.concurrency, rates=allowed.rates, tokens=self.tokens)


def rows(cell: Cell, orders: Sequence[str]) -> list[Row]:
    """A load in interactive runs alone, and in each of the orders."""
    both = cell.load.interactive + cell.load.batch
    alone = row(cell, ALONE, cell.load.interactive, math.nan)
    return [alone, *(row(cell, order, both, alone.p95_s) for order in orders)]


def row(cell: Cell, order: str, load: Sequence[Run], alone_s: float) -> Row:
    """A load in an order."""
    provider = cell.provider()
    gate: Gate = {
        ALONE: lambda: Coordinator([cell.spec()], CLASSES),
        OURS: lambda: Coordinator([cell.spec()], CLASSES),
        FIFO: lambda: Coordinator([cell.spec()], {}),
        SPLIT: lambda: Split([cell.spec(1 / PROCESSES)], CLASSES),
        NONE: Open,
    }[order]()
    ended = simulation(cell, provider, gate, ordered=order != FIFO).serve(load)
    return summed_up(cell, order, ended, provider, alone_s)


def overdeclared(cell: Cell, alone_s: float) -> Row:
    """Limits declared 1.5 times as high as they are."""
    provider = cell.provider()
    gate = Coordinator([cell.spec(DECLARED_TIMES)], CLASSES)
    ended = simulation(cell, provider, gate).serve(cell.load.interactive + cell.load.batch)
    return summed_up(cell, "declared 1.5 x", ended, provider, alone_s)


def killed(cell: Cell, alone_s: float) -> Row:
    """The coordinator is killed when a batch is handed in, and twice around the busiest second."""
    provider = cell.provider()
    gate = Coordinator([cell.spec()], CLASSES)
    world = simulation(cell, provider, gate)
    busiest_at = cell.load.busiest_second()[0]
    dumped_at = min((run.at for run in cell.load.batch if run.tenant == "A"), default=0.0)
    for at in (dumped_at + 0.5, busiest_at + 0.3, busiest_at + 5.0):
        world.at(at, gate.kill)
        world.at(at + DOWN_S, lambda: world.follow(gate.succeed(world.now)))
    ended = world.serve(cell.load.interactive + cell.load.batch)
    return summed_up(cell, "coordinator killed 3 times", ended, provider, alone_s)


def simulation(cell: Cell, provider: Provider, gate: Gate, *, ordered: bool = True) -> Simulation:
    """One provider behind a gate."""
    return Simulation([Target(LLM, provider)], gate, _GOING._replace(ordered=ordered), cell.seed)


def summed_up(cell: Cell, order: str, ended: Sequence[Ended], provider: Provider, alone_s: float) -> Row:
    """A row from what happened to every run."""
    own = [each for each in ended if each.run.sla == INTERACTIVE]
    batch = [each for each in ended if each.run.sla == BATCH]
    p95_s = quantile([each.took_s for each in own if not each.lost], 0.95)
    foretold = [each for each in own if each.foretold_s is not None and each.foretold_s > FORETOLD_S]
    came = [each for each in own if each.waited_first_s > FORETOLD_S]
    both = sum(each.waited_first_s > FORETOLD_S for each in foretold)
    stats = provider.stats()
    return Row(
        load=cell.name,
        order=order,
        runs=len(ended),
        lost=sum(each.lost for each in ended),
        p95_s=p95_s,
        times_alone=p95_s / alone_s,
        violations=stats.violations,
        refused=stats.violations / max(1, stats.calls),
        batch_done=sum(each.ended_at <= cell.load.lasts_s for each in batch),
        other_tenant_p95_s=quantile([each.waited_s for each in batch if each.run.tenant == "B"], 0.95),
        precision=both / len(foretold) if foretold else math.nan,
        recall=both / len(came) if came else math.nan,
    )


class Bounded(msgspec.Struct, frozen=True):
    """The longest wait of a batch run beside interactive runs at twice the capacity, and its bound, in seconds."""

    share: float
    waited_s_max: float
    bound_s: float


def flood(cell: Cell, share: float, lasts_s: float = FLOOD_S) -> Bounded:
    """Interactive runs at twice what the limits carry, and batch runs that come once these wait."""
    allowed = cell.allowed
    per_s = allowed.rates[1].limit / allowed.rates[1].seconds
    steady = [Run(number / (2 * per_s), INTERACTIVE) for number in range(round(2 * per_s * lasts_s))]
    load = steady + [Run(FLOODED_S, BATCH, "A") for _ in range(FLOOD_WAITING)]
    sla = SLA(BATCH, budget=0, priority=-1, queue_limit=FLOOD_WAITING, share=share)
    spec = msgspec.structs.replace(cell.spec(), share=share)
    gate = Coordinator([spec], {**CLASSES, BATCH: sla})
    ended = simulation(cell, cell.provider(), gate).serve(load)
    bound_s = longest_wait_s(sla, per_s)
    assert bound_s is not None
    return Bounded(share, max(each.waited_first_s for each in ended if each.run.sla == BATCH), bound_s)


class Inverted(msgspec.Struct, frozen=True):
    """One slot, 50 low waiters that have waited for up to 300 s, then high ones: who goes next.

    Attributes:
        high: high runs, one after the other.
        passed_over: times that a low one went before a high one that waited.
        by_share: times that the share of the low class allows: all of them wait for longer than their patience.
    """

    high: int
    passed_over: int
    by_share: float


def inversion(seed: int = 1) -> Inverted:
    """A low holder, 50 low waiters; a high one comes, and another when that one is done."""
    draws = random.Random(seed)
    low = [Run(0.0, BATCH, "A"), *(Run(draws.uniform(0.1, 299.0), BATCH, "A") for _ in range(50))]
    high = [Run(300.0 + number * 10.0, INTERACTIVE) for number in range(INVERTED_HIGH)]
    # The holder, and everything after it, takes 20 s: a high one always waits, and the next comes before it is done.
    provider = Provider(Terms(errors=0.0, concurrency=1), latencies=[Latency(20.0, 0.0)])
    spec = ResourceSpec(LLM, concurrency=1)
    world = Simulation([Target(LLM, provider)], Coordinator([spec], CLASSES), _GOING, seed)
    begun = [(each.run.at, each.run.at + each.waited_first_s, each.run.sla) for each in world.serve(low + high)]
    waits = [(at, granted_at) for at, granted_at, sla in begun if sla == INTERACTIVE]
    passed_over = sum(
        any(since < granted_at < until for since, until in waits) for _, granted_at, sla in begun if sla == BATCH
    )
    # Of the grants while high ones waited, and one for the credit that a class may have from before.
    return Inverted(len(high), passed_over, spec.share * (len(high) + passed_over) + 1)


def _terms(cell: Cell, allowed: Limit) -> Terms:
    return Terms(
        rates=allowed.rates,
        tokens=cell.tokens,
        concurrency=allowed.concurrency,
        endpoint=cell.endpoint,
        seed=cell.seed,
    )
