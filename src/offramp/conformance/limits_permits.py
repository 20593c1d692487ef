"""Cases of limits: asking, answering, giving back (R1, R3, R7), and what waits for itself (R6)."""

from __future__ import annotations

import asyncio
import threading

from offramp.conformance.case import case, until
from offramp.conformance.limits_stage import RESOURCE, Asked, LimitsStage, settled
from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.ports.limits import Done, Granted, Limits

ONE = ResourceSpec(RESOURCE, concurrency=1)
OTHER = ResourceSpec("other", concurrency=1)
THREADS = 8
EACH = 25


@case("R1")
async def an_ask_is_answered_once(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, concurrency=2))
    many = [stage.ask(limits, on_granted=lambda asked: asked.done()) for _ in range(20)]
    for asked in many:
        await asked.grant()
    await settled(limits)
    for asked in many:
        assert len(asked.of(Granted)) == 1, f"{asked.id} was granted {len(asked.of(Granted))} times"
        assert isinstance(asked.answers[-1][1], Granted), f"{asked.id} heard more after its grant: {asked.answers}"


@case("R1")
async def an_ask_that_waits_hears_so_before_it_is_granted(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    first, second = stage.ask(limits), stage.ask(limits)
    await first.grant()
    waits = await second.queue()
    assert waits.reason == "concurrency", f"it waits for {waits.reason}"
    first.done()
    await second.grant()


@case("R1")
async def an_ask_that_does_not_queue_is_refused_rather_than_to_wait(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    held = stage.ask(limits)
    await held.grant()
    refused = await stage.ask(limits, queues=False).refusal()
    assert refused.why == "busy", f"it was refused as {refused.why}"
    held.done()
    await settled(limits)
    await stage.ask(limits, queues=False).grant()


@case("R1")
async def a_withdrawn_ask_hears_nothing_more(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    held, given_up, next_one = (stage.ask(limits) for _ in range(3))
    await held.grant()
    await given_up.queue()
    given_up.withdraw()
    heard = len(given_up.answers)
    held.done()
    await next_one.grant()
    await settled(limits)
    assert len(given_up.answers) == heard, f"it heard {given_up.answers[heard:]}"


@case("R1")
async def an_undeclared_resource_is_refused(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    refused = await stage.ask(limits, "nothing").refusal()
    assert "nothing" in refused.says, f"the refusal does not name it: {refused.says}"


@case("R3")
async def a_permit_ends_with_its_call(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    for how in ("ok", "failed", "slow", "cancelled", "unused"):
        held = stage.ask(limits)
        await held.grant()
        held.done(Done(how=how))
    await stage.ask(limits).grant()


@case("R3")
async def a_permit_that_is_withdrawn_is_free(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    held, waiting = stage.ask(limits), stage.ask(limits)
    await held.grant()
    await waiting.queue()
    held.withdraw()
    await waiting.grant()


@case("R3")
async def a_permit_withdrawn_while_it_is_granted_is_free(stage: LimitsStage) -> None:
    """The withdrawal and the grant may cross each other."""
    limits = await stage.declare(ONE)
    for _ in range(20):
        stage.ask(limits).withdraw()
    await stage.ask(limits).grant()


@case("R3", needs=("shared",))
async def the_permits_of_a_dead_process_are_free(stage: LimitsStage) -> None:
    first = await stage.declare(ResourceSpec(RESOURCE, concurrency=2))
    second = await stage.join()
    for _ in range(2):
        await stage.ask(first).grant()
    waiting = [stage.ask(second) for _ in range(2)]
    for asked in waiting:
        await asked.queue()
    await stage.site.kill(first)
    for asked in waiting:
        await asked.grant()


@case("R3", needs=("shared",))
async def what_a_dead_process_asked_for_holds_up_nothing(stage: LimitsStage) -> None:
    first = await stage.declare(ONE)
    second = await stage.join()
    held = stage.ask(second)
    await held.grant()
    of_the_dead = [stage.ask(first) for _ in range(3)]
    for asked in of_the_dead:
        await asked.queue()
    waiting = stage.ask(second)
    await waiting.queue()
    await stage.site.kill(first)
    held.done()
    await waiting.grant()


@case("R3", needs=("shared",))
async def closing_gives_back_what_is_held_and_refuses_what_waits(stage: LimitsStage) -> None:
    first = await stage.declare(ONE)
    second = await stage.join()
    held, mine = stage.ask(first), stage.ask(first)
    await held.grant()
    await mine.queue()
    theirs = stage.ask(second)
    await theirs.queue()
    first.close()
    assert (await mine.refusal()).why == "closed"
    await theirs.grant()
    late = stage.ask(first)
    assert (await late.refusal()).why == "closed", "a closed process still asks"


@case("R1", needs=("shared",))
async def what_is_asked_before_a_process_is_connected_is_answered(stage: LimitsStage) -> None:
    first = await stage.declare(ONE, classes=(SLA("short", queue_limit=1),))
    held = stage.ask(first)
    await held.grant()
    early = await stage.site.join()
    waiting, past = (stage.ask(early, sla="short") for _ in range(2))
    hasty = stage.ask(early, queues=False)
    await waiting.queue()
    assert (await past.refusal()).why == "busy", "one more waits than may"
    assert (await hasty.refusal()).why == "busy", "one that does not wait has to"
    held.done()
    await waiting.grant()


@case("R6")
async def what_waits_for_its_own_permit_is_refused(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    held = stage.ask(limits, run=1)
    await held.grant()
    refused = await stage.ask(limits, run=1, within=(held.id,)).refusal()
    assert refused.why == "deadlock", f"it was refused as {refused.why}"
    held.done()
    await stage.ask(limits).grant()


@case("R6")
async def two_that_wait_for_each_other_are_not_stuck(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE, OTHER)
    one, other = stage.ask(limits, run=1), stage.ask(limits, "other", run=2)
    await one.grant()
    await other.grant()
    waiting = stage.ask(limits, "other", run=1, within=(one.id,))
    await waiting.queue()
    refused = await stage.ask(limits, run=2, within=(other.id,)).refusal()
    assert refused.why == "deadlock", f"it was refused as {refused.why}"
    other.done()
    await waiting.grant()


@case("R6", needs=("shared",))
async def two_processes_that_wait_for_each_other_are_not_stuck(stage: LimitsStage) -> None:
    first = await stage.declare(ONE, OTHER)
    second = await stage.join()
    one, other = stage.ask(first, run=1), stage.ask(second, "other", run=2)
    await one.grant()
    await other.grant()
    waiting = stage.ask(first, "other", run=1, within=(one.id,))
    await waiting.queue()
    assert (await stage.ask(second, run=2, within=(other.id,)).refusal()).why == "deadlock"
    other.done()
    await waiting.grant()


@case("R6")
async def keeping_a_permit_while_others_end_is_no_deadlock(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, concurrency=2))
    mine, theirs = stage.ask(limits, run=1), stage.ask(limits, run=2)
    await mine.grant()
    await theirs.grant()
    more = stage.ask(limits, run=1, within=(mine.id,))
    await more.queue()
    theirs.done()
    await more.grant()


@case("R7")
async def many_threads_ask_at_once(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, concurrency=3))
    asked: list[Asked] = []

    def use() -> None:
        asked.extend(stage.ask(limits, on_granted=lambda each: each.done()) for _ in range(EACH))

    def wait() -> None:
        for thread in threads:
            thread.join()

    threads = [threading.Thread(target=use) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(wait)
    await until(lambda: all(each.is_final for each in asked))
    assert [each.id for each in asked if len(each.of(Granted)) != 1] == []
    await until_free(limits)


@case("R7")
async def an_answer_may_be_answered_at_once(stage: LimitsStage) -> None:
    """What is notified may call every method, on the thread that it is called on."""
    limits = await stage.declare(ONE)
    chain: list[Asked] = []

    def again(asked: Asked) -> None:
        asked.written()
        asked.done()
        limits.lift(asked.ask.run_id, "default", 5)
        if len(chain) < 50:
            chain.append(stage.ask(limits, on_granted=again))

    chain.append(stage.ask(limits, on_granted=again))
    await until(lambda: len(chain) >= 50 and all(asked.is_final for asked in chain))
    await until_free(limits)


@case("R7")
async def levels_show_what_is_held_and_what_waits(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    seen: list[tuple[int, int]] = []
    limits.watch(
        lambda levels: seen.extend(
            (level.in_use, sum(each.count for each in level.waiting.values())) for level in levels
        )
    )
    held, waiting = stage.ask(limits), stage.ask(limits)
    await held.grant()
    await waiting.queue()
    (level,) = await limits.levels()
    assert (level.name, level.in_use, level.concurrency) == (RESOURCE, 1, 1)
    assert {name: each.count for name, each in level.waiting.items()} == {"default": 1}
    await until(lambda: (1, 1) in seen)
    held.done()
    await waiting.grant()
    waiting.done()
    await until(lambda: seen[-1] == (0, 0))


async def until_free(limits: Limits) -> None:
    """Until no permit exists."""

    async def free() -> bool:
        return all(level.in_use == 0 for level in await limits.levels())

    await until(free)
