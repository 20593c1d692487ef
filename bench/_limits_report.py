"""The limits part of the benchmark of overload: what is run, its tables, and its targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench._burst import BATCH, INTERACTIVE
from bench._limits_load import Load, Run, burst, mix
from bench._limits_outage import Outage, outage
from bench._limits_served import Allowed, Served, serve
from bench._limits_shows import (
    FIFO,
    NONE,
    OURS,
    SPLIT,
    Bounded,
    Cell,
    Inverted,
    Row,
    flood,
    inversion,
    killed,
    overdeclared,
    rows,
)
from bench._provider_model import recorded
from bench._report import Target, table
from offramp.core.limits.notation import parse

CAPACITIES = (5.7, 8.0, 12.0)
UNSEEN_CAPACITIES = (5.7, 8.0)
RATIO_MAX = 1.15
FORETOLD_MIN = 0.85
REFUSED_MAX = 0.02
INTO_MAX = 0.12
OUTAGE_P95_S_MAX = 2.0
SLOW_TIMES_MAX = 2.0
BOUND_MAX = 1.05
B_WAIT_S_MAX = 5.0
TOKENS_PER_MIN = 1_500_000
"""Of tokens, less than what the calls would use that the rates allow."""
SERVED_RATES, SERVED_CONCURRENCY = ("40/s", "2400/min"), 100
"""As many calls a second as two cores can make with an SDK, beside the provider and the service."""
SERVED_BEFORE_S, SERVED_S = 10.0, 60.0
SERVED_BATCH = 1_200
CALLS = 10_000
ALLOWED = Allowed(("40/s", "1200/min"), 36, ("72000/min",))
ALLOWED_QUICK = Allowed(("12/s", "400/min"), 11, ("24000/min",), endpoint="fireworks")
"""So low that calls wait for each of them, on a busy machine too."""
CALLS_OUTPUT = 40
INTERACTIVE_SHARE = 5
"""One in so many of these calls is interactive."""


class Limits(msgspec.Struct, kw_only=True):
    """All results of limits.

    Attributes:
        tuned: the recorded burst, in all orders.
        unseen: loads, endpoints and seeds that took no part in choosing constants.
        tokens: the burst with a limit of tokens.
        declared: limits declared too high.
        killed: the coordinator killed three times.
        floods: the longest wait beside its bound.
        inverted: one slot.
        outages: a minute in which a provider is ill.
        served: the minute of the busiest second through the real service, in all orders.
        calls: 10,000 calls through it, the coordinator killed three times.
    """

    tuned: list[Row]
    unseen: list[Row]
    tokens: list[Row]
    declared: Row
    killed: Row
    floods: list[Bounded]
    inverted: Inverted
    outages: list[Outage]
    served: list[Served]
    calls: Served | None = None


async def measure(folder: Path, *, quick: bool, only_virtual: bool) -> Limits:
    """Everything; a tenth of it if `quick`."""
    load = burst()
    tuned = [Cell(load, capacity) for capacity in (CAPACITIES[:1] if quick else CAPACITIES)]
    orders = [OURS, FIFO, SPLIT, NONE]
    shown = [each for cell in tuned for each in rows(cell, orders)]
    return Limits(
        tuned=shown,
        unseen=[each for cell in unseen(load, quick=quick) for each in rows(cell, [OURS, FIFO])],
        tokens=rows(tuned[0]._replace(tokens_per_min=TOKENS_PER_MIN), [OURS]),
        declared=overdeclared(tuned[0], shown[0].p95_s),
        killed=killed(tuned[0], shown[0].p95_s),
        floods=[flood(tuned[0], share) for share in (0.05, 0.1)],
        inverted=inversion(),
        outages=[
            outage(slow=slow, limited=limited, spare=spare)
            for slow in (False, True)
            for limited, spare in ((True, True), (False, True), (False, False))
        ],
        served=[] if only_virtual else await served(folder, load, quick=quick),
        calls=None if only_virtual else await calls(folder, quick=quick),
    )


def unseen(load: Load, *, quick: bool) -> Iterator[Cell]:
    """Seeds and an endpoint that no constant was chosen by, then mixes of other clients."""
    if quick:
        yield Cell(mix(next(iter(recorded().mixes))), UNSEEN_CAPACITIES[0])
        return
    for capacity in UNSEEN_CAPACITIES:
        yield Cell(load, capacity, seed=2)
        yield Cell(load, capacity, seed=3)
        yield Cell(load, capacity, "fireworks", seed=4)
        for name in recorded().mixes:
            yield Cell(mix(name), capacity)


async def served(folder: Path, load: Load, *, quick: bool) -> list[Served]:
    """The minute of the busiest second, in each order, beside a batch."""
    begins = load.busiest_second()[0] - SERVED_BEFORE_S
    lasts_s = SERVED_S / 4 if quick else SERVED_S
    own = [run._replace(at=run.at - begins) for run in load.interactive if begins <= run.at < begins + lasts_s]
    dump = [Run(0.0, BATCH, "A") for _ in range(SERVED_BATCH // 4 if quick else SERVED_BATCH)]
    # No call of this endpoint takes minutes, for which every order would have to wait.
    allowed = Allowed(SERVED_RATES, SERVED_CONCURRENCY, endpoint="fireworks")
    found = [await serve(folder / "alone", OURS, own, allowed, within_s=lasts_s)]
    found = [msgspec.structs.replace(found[0], order="alone")]
    for order in (OURS, FIFO, SPLIT, NONE):
        found.append(await serve(folder / order.replace(" ", "-"), order, own + dump, allowed, within_s=lasts_s))
    return found


async def calls(folder: Path, *, quick: bool) -> Served:
    """So many calls in two classes; the coordinator is killed in the first, the middle and the last part of them."""
    count, allowed = (CALLS // 10, ALLOWED_QUICK) if quick else (CALLS, ALLOWED)
    expected_s = count / parse(allowed.rates[1]).limit * 60
    own = count // INTERACTIVE_SHARE
    load = [Run(number * expected_s / own, INTERACTIVE, output=CALLS_OUTPUT) for number in range(own)]
    load += [Run(0.0, BATCH, "A", output=CALLS_OUTPUT) for _ in range(count - own)]
    kills = [expected_s * part for part in (0.15, 0.45, 0.75)]
    return await serve(folder / "calls", OURS, load, allowed, within_s=expected_s, kill_at_s=kills)


def render(limits: Limits) -> str:
    """One table for each kind of result."""
    virtual = [*limits.tuned, *limits.unseen, *limits.tokens, limits.declared, limits.killed]
    parts = [
        table(
            ["load", "order", "runs", "lost", "P95, s", "x alone", "violations", "batch done", "B's P95"],
            [
                [
                    each.load,
                    each.order,
                    f"{each.runs:,}",
                    f"{each.lost:,}",
                    f"{each.p95_s:.2f}",
                    _number(each.times_alone, 2),
                    f"{each.violations:,}",
                    f"{each.batch_done:,}",
                    _number(each.other_tenant_p95_s, 1),
                ]
                for each in virtual
            ],
        ),
        table(
            ["a minute of", "runs", "lost", "P95, s", "x before", "calls into it"],
            [
                [
                    each.what,
                    f"{each.runs:,}",
                    f"{each.lost:,}",
                    f"{each.p95_s:.2f}",
                    f"{each.times_before:.2f}",
                    f"{each.into:.0%}",
                ]
                for each in limits.outages
            ],
        ),
    ]
    if limits.served:
        every = [*limits.served, *([] if limits.calls is None else [limits.calls])]
        parts.append(_served(every))
    return "\n\n".join(parts)


def _served(every: Sequence[Served]) -> str:
    titles = ["served", "runs", "lost", "calls", "P95, s", "violations", "batch done", "kills", "CPU ms", "limits' ms"]
    return table(
        titles,
        [
            [
                each.order,
                f"{each.runs:,}",
                f"{each.lost:,}",
                f"{each.calls:,}",
                f"{each.p95_s:.2f}",
                f"{each.violations:,}",
                f"{each.batch_done:,}",
                f"{each.kills}",
                f"{each.cpu_ms:.1f}",
                f"{each.coordinator_ms:.2f}",
            ]
            for each in every
        ],
    )


def targets(limits: Limits) -> list[Target]:
    """The targets of limits."""
    tuned = [each for each in limits.tuned if each.order == OURS]
    unseen = [each for each in limits.unseen if each.order == OURS]
    ours = [*tuned, *unseen]
    kept = [*ours, limits.killed, *(each for each in limits.tokens if each.order == OURS)]
    fifo = {each.load: each for each in [*limits.tuned, *limits.unseen] if each.order == FIFO}
    done = min(each.batch_done / fifo[each.load].batch_done for each in ours if each.load.startswith("burst"))
    ill, slow = (each for each in limits.outages if "breaker" in each.what)
    longest = max(each.waited_s_max / each.bound_s for each in limits.floods)
    inverted = limits.inverted.passed_over / limits.inverted.by_share
    found = [
        _most("violations, in virtual time as all that follows", max(each.violations for each in kept), 0),
        _most("runs lost", max(each.lost for each in [*kept, limits.declared]), 0),
        _most("P95 under the burst", max(each.times_alone for each in tuned), RATIO_MAX, " x"),
        _most("P95, not tuned on", max(each.times_alone for each in unseen), RATIO_MAX, " x"),
        Target("limits, batch done under the burst, of first come", done, 1.0, at_least=True),
        _most("B's P95 wait behind A's", max(each.other_tenant_p95_s for each in ours), B_WAIT_S_MAX, " s"),
        _most("longest wait, of its bound", longest, BOUND_MAX, " x"),
        _most("refused when declared 1.5 x", limits.declared.refused, REFUSED_MAX),
        Target("limits, waits over 3 s, precision", tuned[0].precision, FORETOLD_MIN, at_least=True),
        Target("limits, waits over 3 s, recall", tuned[0].recall, FORETOLD_MIN, at_least=True),
        _most("lost in an outage", ill.lost, 0),
        _most("P95 in an outage", ill.p95_s, OUTAGE_P95_S_MAX, " s"),
        _most("calls into an outage", ill.into, INTO_MAX),
        _most("P95 when ten times slower", slow.times_before, SLOW_TIMES_MAX, " x"),
        _most("low before high, of what the share allows", inverted, 1.0),
    ]
    if limits.calls is not None:
        found.append(_most("served: violations, coordinator killed", limits.calls.violations, 0))
        found.append(_most("served: runs lost", limits.calls.lost, 0))
    if limits.served:
        alone, with_limits = limits.served[:2]
        found.append(_most("served: P95", with_limits.p95_s / alone.p95_s, RATIO_MAX, " x"))
        found.append(_most("served: violations", with_limits.violations, 0))
    return found


def _most(name: str, measured: float, wanted: float, unit: str = "") -> Target:
    return Target(f"limits, {name}", measured, wanted, at_least=False, unit=unit)


def _number(value: float, digits: int) -> str:
    return "" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN
