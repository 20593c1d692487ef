"""Cases of limits: which of the waiting asks is granted next (R5)."""

from __future__ import annotations

from offramp.conformance.case import case
from offramp.conformance.limits_stage import RESOURCE, Asked, LimitsStage, settled
from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.ports.limits import Limits

ONE = ResourceSpec(RESOURCE, concurrency=1)
TWO = ResourceSpec(RESOURCE, concurrency=2)
HIGH = SLA("high", priority=10)
LOW = SLA("low", priority=-1)
CLASSES = (HIGH, LOW)


class Slot:
    """The one slot of a resource, held until all asks of a case wait; then each call ends as soon as it begins."""

    def __init__(self, stage: LimitsStage, limits: Limits) -> None:
        self._stage, self._limits = stage, limits
        self._held = stage.ask(limits, run=0)
        self.asked: list[Asked] = []
        self.order: list[str] = []

    async def ask(self, name: str, limits: Limits | None = None, **given: object) -> Asked:
        """Wait for the slot under this name."""
        await self._held.grant()

        def granted(asked: Asked) -> None:
            self.order.append(name)
            asked.done()

        asked = self._stage.ask(limits or self._limits, on_granted=granted, **given)  # type: ignore[arg-type]
        await asked.queue()
        self.asked.append(asked)
        return asked

    async def run(self) -> list[str]:
        """The names in the order of their grants."""
        self._held.done()
        for asked in self.asked:
            await asked.grant()
        return self.order


@case("R5")
async def the_highest_class_goes_first(stage: LimitsStage) -> None:
    slot = Slot(stage, await stage.declare(ONE, classes=CLASSES))
    for number in range(3):
        await slot.ask(f"low {number}", sla="low", priority=-1)
    await slot.ask("default")
    await slot.ask("high", sla="high", priority=10)
    assert (await slot.run())[:2] == ["high", "default"]


@case("R5", needs=("shared",))
async def the_highest_class_of_all_processes_goes_first(stage: LimitsStage) -> None:
    first = await stage.declare(ONE, classes=CLASSES)
    second = await stage.join()
    slot = Slot(stage, first)
    for number in range(3):
        await slot.ask(f"low {number}", sla="low", priority=-1)
    await slot.ask("high", second, sla="high", priority=10)
    assert (await slot.run())[0] == "high"


@case("R5")
async def the_oldest_run_of_a_class_goes_first(stage: LimitsStage) -> None:
    slot = Slot(stage, await stage.declare(ONE))
    for run in (30, 10, 20):
        await slot.ask(str(run), run=run)
    assert await slot.run() == ["10", "20", "30"]


@case("R5")
async def tenants_of_a_class_take_turns(stage: LimitsStage) -> None:
    slot = Slot(stage, await stage.declare(ONE))
    for number in range(10):
        await slot.ask("many", run=number + 1, tenant="many")
    await slot.ask("one", run=100, tenant="one")
    assert (await slot.run()).index("one") <= 2


@case("R5")
async def an_overdue_class_gets_its_share(stage: LimitsStage) -> None:
    """Of a share of one half: every other grant."""
    hasty = SLA("low", priority=-1, patience=0, share=0.5)
    shared = ResourceSpec(RESOURCE, concurrency=1, share=0.5)
    slot = Slot(stage, await stage.declare(shared, classes=(HIGH, hasty)))
    for number in range(10):
        await slot.ask("high", run=100 + number, sla="high", priority=10)
    for number in range(3):
        await slot.ask("low", run=200 + number, sla="low", priority=-1)
    order = await slot.run()
    assert "low" in order[:4], f"overdue, it is passed over: {order}"
    assert order[:6].count("high") >= 2, f"it gets more than its share: {order}"


@case("R5")
async def what_holds_a_permit_goes_first(stage: LimitsStage) -> None:
    limits = await stage.declare(TWO, classes=CLASSES)
    mine, theirs = stage.ask(limits, run=50), stage.ask(limits, run=60)
    await mine.grant()
    await theirs.grant()
    high = stage.ask(limits, run=1, sla="high", priority=10)
    await high.queue()
    more = stage.ask(limits, run=50, within=(mine.id,))
    await more.queue()
    theirs.done()
    await more.grant()
    await settled(limits)
    assert high.waits, "one that holds nothing was granted as well"


@case("R5")
async def a_lifted_run_counts_as_the_higher_class(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE, classes=CLASSES)
    slot = Slot(stage, limits)
    await slot.ask("default", run=1)
    await slot.ask("lifted while it waits", run=2, sla="low", priority=-1)
    limits.lift("run-000002", "high", 10)
    limits.lift("run-000003", "high", 10)
    await slot.ask("lifted before it asks", run=3, sla="low", priority=-1)
    assert await slot.run() == ["lifted while it waits", "lifted before it asks", "default"]
