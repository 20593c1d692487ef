"""Classes and limits under overload: a recorded burst of interactive runs while a tenant's batch fills what is scarce.

First in virtual time, with the state machines of the service (`core.order`, `core.limits`) and nothing else of it; then
the minute of its busiest second through `offramp serve`. Beside each: interactive runs alone, and the same load first
come first served; for limits, which are a provider's, also without any, and split over processes. README.md explains
the rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench import _limits_report  # noqa: E402 - found through the line above
from bench._burst import (  # noqa: E402
    BATCH,
    BUDGET_S,
    CALLS,
    DUMP,
    DUMPS_AT_S,
    FLOODED_S,
    INTERACTIVE,
    Burst,
    Work,
    merged,
)
from bench._hybrid import Ended, Service, quantile  # noqa: E402
from bench._limits_report import Limits  # noqa: E402
from bench._overload_served import Served, Terms, serve  # noqa: E402
from bench._report import Target, show, table  # noqa: E402
from offramp.core.order import longest_wait_s  # noqa: E402
from offramp.core.sla import SLA  # noqa: E402

CAPACITIES = (5.7, 8.0, 12.0)
"""Runs that all places together carry, in times the mean rate of interactive runs."""
RATIO_MAX = 1.15
FLOOD_S = 600.0
FLOOD_WAITING = 100
BATCH_QUEUE = len(DUMPS_AT_S) * DUMP + 1_000
CLASSES = {
    INTERACTIVE: SLA(INTERACTIVE, budget=BUDGET_S, priority=10, queue_limit=1_000),
    BATCH: SLA(BATCH, budget=0, priority=-1, queue_limit=BATCH_QUEUE),
}
SERVED_AT = 8.0
SERVED_BATCH = 2_000
SERVED_DUMP_S = 25.0
"""The batch is handed in for so long before the minute: a faster client is limited by its machine."""
SERVED_S = 60.0
SERVED_BEFORE_S = 10.0
"""The served minute begins so long before the busiest second."""
SPEED = 4.0
SERVED_FLOOD_PLACES = 24
SERVED_FLOOD_S = 240.0
SERVED_FLOOD_WAITING = 12
SERVED_FLOOD_PATIENCE_S = 30.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One load and order; durations in seconds, from acceptance, waits in the queue."""

    load: str
    order: str
    runs: int
    lost: int
    p95_s: float
    times_alone: float
    waited_s_max: float
    batch_waited_s_max: float
    other_tenant_waited_p95_s: float


class Flood(msgspec.Struct, frozen=True):
    """The longest wait of a batch run beside interactive runs at twice the capacity, and its bound, in seconds."""

    waited_s_max: float
    bound_s: float


class Measured(msgspec.Struct, kw_only=True):
    """All results."""

    busiest_second_runs: int
    busiest_second_times_mean: float
    virtual: list[Row]
    flood: Flood
    served: list[Row]
    served_flood: Flood | None = None


class Both(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The results of both parts, or of one."""

    classes: Measured | None = None
    limits: Limits | None = None


def row(load: str, order: str, alone_s: float, ended: Sequence[Ended], count: int) -> Row:
    """A row from what happened to every run."""
    own = [each for each in ended if each.work.sla == INTERACTIVE]
    batch = [each for each in ended if each.work.sla == BATCH]
    p95_s = quantile([each.took_s for each in own], 0.95)
    return Row(
        load=load,
        order=order,
        runs=count,
        lost=count - len(ended),
        p95_s=p95_s,
        times_alone=p95_s / alone_s,
        waited_s_max=max(each.waited_s for each in own),
        batch_waited_s_max=max((each.waited_s for each in batch), default=0.0),
        other_tenant_waited_p95_s=quantile([each.waited_s for each in batch if each.work.tenant == "B"], 0.95),
    )


def virtual(endpoint: str, capacity: float, seed: int, budget_s: float) -> list[Row]:
    """One load in virtual time, in three orders."""
    burst = Burst(endpoint, seed)
    # The batch alone fills the places where interactive runs have a budget.
    places = round(capacity * burst.rate * burst.call_s * CALLS)
    own, batch = burst.interactive(), burst.batch()
    both = merged(own, batch)
    where = f"budget {budget_s:g} s" if budget_s else "all deep"
    load = f"{endpoint}, {capacity:g} x, seed {seed}, {where}"
    alone = Service(places, CLASSES, budget_s).serve(own)
    alone_s = quantile([each.took_s for each in alone], 0.95)
    orders: list[tuple[str, Mapping[str, SLA] | None]] = [("classes", CLASSES), ("first come", None)]
    return [
        row(load, "alone", alone_s, alone, len(own)),
        *(row(load, name, alone_s, Service(places, each, budget_s).serve(both), len(both)) for name, each in orders),
    ]


def flood(capacity: float) -> Flood:
    """Interactive runs, all deep, at twice what the places carry, and batch runs that come when all are taken."""
    burst = Burst()
    per_s = capacity * burst.rate
    places = round(per_s * burst.call_s * CALLS)
    sla = SLA(BATCH, budget=0, priority=-1, queue_limit=FLOOD_WAITING)
    load = merged(burst.flood(2 * per_s, FLOOD_S, FLOOD_WAITING))
    ended = Service(places, {**CLASSES, BATCH: sla}, 0.0).serve(load)
    bound_s = longest_wait_s(sla, per_s)
    assert bound_s is not None
    return Flood(max(each.waited_s for each in ended if each.work.sla == BATCH), bound_s)


async def served(folder: Path) -> list[Row]:
    """The minute of the busiest second through the real service, in three orders."""
    burst = Burst()
    places = round(SERVED_AT * burst.rate * burst.call_s * CALLS)
    begins = burst.busiest(1.0)[0] - SERVED_BEFORE_S
    own = [work for work in burst.interactive() if begins <= work.at < begins + SERVED_S]
    batch = burst.batch()
    handed = [work for work in batch if work.tenant == "A"][:SERVED_BATCH]
    pace_s = SERVED_DUMP_S / SERVED_BATCH
    dump = [work._replace(at=begins - SERVED_DUMP_S + number * pace_s) for number, work in enumerate(handed)]
    others = [work for work in batch if work.tenant == "B" and begins <= work.at < begins + SERVED_S]
    rows: list[Row] = []
    loads: list[tuple[str, list[Work], bool]] = [
        ("alone", merged(own), True),
        ("classes", merged(dump, own, others), True),
        ("first come", merged(dump, own, others), False),
    ]
    for name, load, ordered in loads:
        ended = await serve(folder / name.replace(" ", "-"), load, Terms(places, SPEED, ordered))
        rows.append(served_row(name, ended, len(load), rows[0].p95_s if rows else None))
    return rows


async def served_flood(folder: Path) -> Flood:
    """The flood through the real service, smaller: the bound is of the rate at which its runs began."""
    burst = Burst()
    per_s = SERVED_FLOOD_PLACES / (burst.call_s * CALLS)
    load = merged(burst.flood(2 * per_s, SERVED_FLOOD_S, SERVED_FLOOD_WAITING))
    ended = await serve(
        folder / "flood",
        load,
        Terms(SERVED_FLOOD_PLACES, SPEED, ordered=True, budget_s=0.0, patience_s=SERVED_FLOOD_PATIENCE_S),
    )
    batch = [each for each in ended if each.sla == BATCH]
    began = sorted(each.began_at for each in ended if each.began_at >= FLOODED_S)
    rate = (len(began) - 1) / (began[-1] - began[0])
    sla = SLA(BATCH, patience=SERVED_FLOOD_PATIENCE_S, queue_limit=SERVED_FLOOD_WAITING)
    bound_s = longest_wait_s(sla, rate)
    assert bound_s is not None
    return Flood(max(each.began_s for each in batch), bound_s)


def served_row(order: str, ended: Sequence[Served], count: int, alone_s: float | None) -> Row:
    """A row from the database."""
    p95_s = quantile([each.took_s for each in ended if each.sla == INTERACTIVE], 0.95)
    batch = [each for each in ended if each.sla == BATCH]
    return Row(
        load="minute of the burst, served",
        order=order,
        runs=count,
        lost=count - sum(each.completed for each in ended),
        p95_s=p95_s,
        times_alone=p95_s / (alone_s or p95_s),
        waited_s_max=float("nan"),
        batch_waited_s_max=max((each.began_s for each in batch), default=0.0),
        other_tenant_waited_p95_s=quantile([each.began_s for each in batch if each.tenant == "b"], 0.95),
    )


def render(measured: Measured) -> str:
    """One row for each load and order."""
    titles = ["load", "order", "runs", "lost", "P95, s", "x alone", "longest", "batch longest", "B's P95"]
    rows = [
        [
            each.load,
            each.order,
            f"{each.runs:,}",
            f"{each.lost}",
            f"{each.p95_s:.2f}",
            f"{each.times_alone:.2f}",
            *(
                "" if value != value else f"{value:.1f}"  # noqa: PLR0124 - NaN
                for value in (each.waited_s_max, each.batch_waited_s_max, each.other_tenant_waited_p95_s)
            ),
        ]
        for each in [*measured.virtual, *measured.served]
    ]
    about = f"busiest second: {measured.busiest_second_runs} runs, {measured.busiest_second_times_mean:.1f} x the mean"
    return f"{about}\n\n{table(titles, rows)}"


def targets(measured: Measured) -> list[Target]:
    """The targets of classes."""
    every = [*measured.virtual, *measured.served]
    with_classes = [each for each in every if each.order == "classes"]
    hybrid = [each for each in measured.virtual if each in with_classes and "budget" in each.load]
    found = [
        Target("runs lost", max(each.lost for each in with_classes), 0, at_least=False),
        Target("P95 in virtual time", max(each.times_alone for each in hybrid), RATIO_MAX, at_least=False, unit=" x"),
        Target(
            "longest wait in a flood, of its bound",
            measured.flood.waited_s_max / measured.flood.bound_s,
            1.05,
            at_least=False,
            unit=" x",
        ),
        Target("B's P95 behind A's runs", max(each.other_tenant_waited_p95_s for each in hybrid), 5.0, at_least=False),
    ]
    if measured.served_flood is not None:
        part = measured.served_flood.waited_s_max / measured.served_flood.bound_s
        found.append(Target("the same, served", part, 1.05, at_least=False, unit=" x"))
    if measured.served:
        ratio = measured.served[1].times_alone
        found.insert(2, Target("P95 of the served minute", ratio, RATIO_MAX, at_least=False, unit=" x"))
    return found


async def measure(folder: Path, *, quick: bool, only_virtual: bool) -> Measured:
    """Everything."""
    burst = Burst()
    at_once = burst.busiest(1.0)[1]
    loads = [
        (endpoint, capacity, seed, budget_s)
        for endpoint in ("together", "fireworks")
        for capacity in CAPACITIES
        for seed in ([1] if quick else [1, 2, 3])
        for budget_s in (BUDGET_S, 0.0)
        if not quick or (endpoint, capacity) == ("together", 8.0)
    ]
    return Measured(
        busiest_second_runs=at_once,
        busiest_second_times_mean=at_once / burst.rate,
        virtual=[each for load in loads for each in virtual(*load)],
        flood=flood(CAPACITIES[0]),
        served=[] if only_virtual else await served(folder),
        served_flood=None if only_virtual else await served_flood(folder),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one load in virtual time instead of six, and one draw of each"
    )
    parser.add_argument("--only", choices=["classes", "limits"], help="one part")
    parser.add_argument("--virtual", action="store_true", help="only in virtual time")
    parser.add_argument("--folder", type=Path, help="folder of the database; the disk matters")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="offramp-bench-", dir=given.folder) as folder:
        both = uvloop.run(parts(Path(folder), given))
    texts, found = [], []
    if both.classes is not None:
        texts.append(render(both.classes))
        found += targets(both.classes)
    if both.limits is not None:
        texts.append(_limits_report.render(both.limits))
        found += _limits_report.targets(both.limits)
    show(both, "\n\n".join(texts), found, as_document=given.json)


async def parts(folder: Path, given: argparse.Namespace) -> Both:
    """What is asked for."""
    both = Both()
    if given.only != "limits":
        both.classes = await measure(folder, quick=given.quick, only_virtual=given.virtual)
    if given.only != "classes":
        both.limits = await _limits_report.measure(folder, quick=given.quick, only_virtual=given.virtual)
    return both


if __name__ == "__main__":
    main()
