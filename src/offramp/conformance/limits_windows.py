"""Cases of limits: how many calls at once, and how many in any window (R2); what a successor knows of both (R4)."""

from __future__ import annotations

from itertools import pairwise

from offramp.conformance.case import case, until
from offramp.conformance.limits_stage import RESOURCE, Asked, LimitsStage, settled
from offramp.conformance.store_stage import unsupported
from offramp.core.limits.spec import ResourceSpec
from offramp.core.rates import Rate
from offramp.ports.limits import Done, Granted, Limits

THREE_A_SECOND = ResourceSpec(RESOURCE, rates=(Rate(3, 1),))
TWO_A_MINUTE = ResourceSpec(RESOURCE, rates=(Rate(2, 60),))
ONE = ResourceSpec(RESOURCE, concurrency=1)


def written(asked: Asked) -> None:
    """A call that takes no time."""
    asked.written()
    asked.done()


def assert_apart(asked: list[Asked], limit: int, seconds: float) -> None:
    """In no window of so many seconds were more calls granted."""
    times = sorted(at for each in asked if (at := each.granted_at) is not None)
    for first, last in zip(times, times[limit:], strict=False):
        assert last - first >= seconds, f"{limit + 1} calls within {last - first:.3f} s"


@case("R2")
async def no_more_permits_exist_than_concurrency(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, concurrency=3))
    await _at_most_three(stage, [limits])


@case("R2", needs=("shared",))
async def no_more_permits_exist_over_all_processes(stage: LimitsStage) -> None:
    first = await stage.declare(ResourceSpec(RESOURCE, concurrency=3))
    await _at_most_three(stage, [first, await stage.join(), await stage.join()])


async def _at_most_three(stage: LimitsStage, processes: list[Limits]) -> None:
    asked = [stage.ask(processes[number % len(processes)]) for number in range(12)]
    over = 0
    while over < len(asked):
        await until(lambda wanted=over + 3: sum(each.is_final for each in asked) >= wanted)
        await settled(*processes)
        held = [each for each in asked if each.granted_at is not None]
        assert len(held) == over + 3, f"{len(held) - over} permits at once"
        for each in sorted(held, key=lambda each: each.granted_at or 0.0)[over:]:
            each.done()
        over += 3


@case("R2")
async def no_window_has_more_calls_than_its_rate(stage: LimitsStage) -> None:
    limits = await stage.declare(THREE_A_SECOND)
    asked = [stage.ask(limits, on_granted=written) for _ in range(6)]
    for each in asked:
        await each.grant()
    assert_apart(asked, 3, 1.0)


@case("R2", needs=("shared",))
async def no_window_has_more_calls_of_all_processes(stage: LimitsStage) -> None:
    first = await stage.declare(THREE_A_SECOND)
    second = await stage.join()
    asked = [stage.ask(limits, on_granted=written) for limits in (first, second) for _ in range(3)]
    for each in asked:
        await each.grant()
    assert_apart(asked, 3, 1.0)


@case("R2")
async def a_call_counts_from_when_it_was_written(stage: LimitsStage) -> None:
    """A permit that is held for long before its request is sent counts all the time."""
    limits = await stage.declare(ResourceSpec(RESOURCE, rates=(Rate(1, 1),)), ResourceSpec("pace", rates=(Rate(1, 2),)))
    await stage.ask(limits, "pace", on_granted=written).grant()
    first = stage.ask(limits)
    await first.grant()
    second = stage.ask(limits)
    await second.queue()
    # The other resource tells when two seconds have passed, without a clock.
    await stage.ask(limits, "pace").grant()
    await settled(limits)
    assert second.waits, "its window was over before the first request was written"
    first.written()
    await settled(limits)
    assert second.waits, "a request that has just been written does not count"
    await second.grant()


@case("R2")
async def a_permit_that_was_not_used_counts_for_nothing(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, rates=(Rate(1, 3600),)))
    for _ in range(3):
        unused = stage.ask(limits)
        await unused.grant()
        unused.withdraw()
    for _ in range(3):
        unused = stage.ask(limits)
        await unused.grant()
        unused.done(Done(how="unused"))
    await stage.ask(limits, on_granted=written).grant()
    waits = await stage.ask(limits).queue()
    assert waits.reason == "rate", f"it waits for {waits.reason}"


@case("R2")
async def no_window_has_more_tokens_than_its_limit(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, tokens=(Rate(10, 1),)))
    asked = [stage.ask(limits, tokens=4, on_granted=written) for _ in range(4)]
    for each in asked:
        await each.grant()
    assert_apart(asked, 2, 1.0)


@case("R2")
async def tokens_are_settled_by_what_was_used(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, tokens=(Rate(10, 3600),)))
    first = stage.ask(limits, tokens=8)
    await first.grant()
    second = stage.ask(limits, tokens=8)
    waits = await second.queue()
    assert waits.reason == "tokens", f"it waits for {waits.reason}"
    first.written()
    first.done(Done(tokens=2))
    await second.grant()


@case("R2")
async def a_call_that_can_never_fit_is_refused(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, tokens=(Rate(10, 60),)))
    refused = await stage.ask(limits, tokens=11).refusal()
    assert refused.why == "too-small", f"it was refused as {refused.why}"
    assert {"10", "11"} <= {word.strip(".,;:") for word in refused.says.replace("/", " ").split()}, refused.says


@case("R2")
async def a_refusal_of_the_provider_holds_up_all(stage: LimitsStage) -> None:
    limits = await stage.declare(ResourceSpec(RESOURCE, concurrency=10))
    refused = stage.ask(limits)
    await refused.grant()
    refused.written()
    refused.done(Done(how="throttled", says="429", blocked_s=1.0))
    waits = await stage.ask(limits, on_granted=written).queue()
    assert waits.reason == "retry-after", f"it waits for {waits.reason}"
    (level,) = await limits.levels()
    assert (level.throttled, level.blocked_s is not None) == (1, True), level


# What a successor knows.


@case("R4", needs=("successor",))
async def a_permit_outlives_the_limits_process(stage: LimitsStage) -> None:
    first = await stage.declare(ONE)
    second = await stage.join()
    held = stage.ask(first)
    await held.grant()
    waiting = stage.ask(second)
    await waiting.queue()
    await stage.site.crash()
    await settled(first, second)
    assert waiting.waits, f"it was answered {waiting.answers}"
    held.done()
    await waiting.grant()
    assert len(held.of(Granted)) == 1, "it was granted again"


@case("R4", needs=("successor",))
async def an_ask_outlives_the_limits_process(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    held = stage.ask(limits)
    await held.grant()
    waiting = [stage.ask(limits, on_granted=lambda asked: asked.done()) for _ in range(5)]
    for asked in waiting:
        await asked.queue()
    await stage.site.crash()
    held.done()
    times = [await asked.grant() for asked in waiting]
    assert all(one <= other for one, other in pairwise(times)), "they lost their places"
    await settled(limits)
    assert [len(asked.of(Granted)) for asked in waiting] == [1] * 5


@case("R4", needs=("successor",))
async def an_ask_without_a_limits_process_waits_for_its_successor(stage: LimitsStage) -> None:
    limits = await stage.declare(ONE)
    await stage.site.crash()
    asked = stage.ask(limits, on_granted=lambda each: each.done())
    gone = stage.ask(limits)
    gone.withdraw()
    await asked.grant()
    assert gone.granted_at is None, "a withdrawn ask was granted"
    await stage.ask(limits).grant()


@case("R4", needs=("successor",))
async def calls_count_after_the_limits_process_has_died(stage: LimitsStage) -> None:
    first = await stage.declare(TWO_A_MINUTE)
    second = await stage.join()
    for limits in (first, second):
        await stage.ask(limits, on_granted=written).grant()
    await stage.site.crash()
    asked = stage.ask(first)
    await settled(first, second)
    assert asked.granted_at is None, "a third call within the minute"
    await asked.queue()


@case("R4", needs=("successor",))
async def calls_of_a_dead_process_count_after_the_limits_process_has_died(stage: LimitsStage) -> None:
    first = await stage.declare(TWO_A_MINUTE)
    second = await stage.join()
    await stage.ask(first, on_granted=written).grant()
    await stage.ask(first).grant()  # which it may have written, as far as anyone knows
    await settled(first)
    await stage.site.kill(first)
    held_up = stage.ask(second)
    await held_up.queue()
    await settled(second)
    await stage.site.crash()
    await settled(second)
    assert held_up.waits, f"it was answered {held_up.answers}"


@case("R4", lacks="successor")
async def limits_that_nothing_takes_over_say_so(stage: LimitsStage) -> None:
    await stage.declare(ONE)
    await unsupported(stage.site.crash(), "successor")


@case("R4", needs=("successor",))
async def three_deaths_under_load_exceed_nothing(stage: LimitsStage) -> None:
    first = await stage.declare(ResourceSpec(RESOURCE, concurrency=4, rates=(Rate(20, 1),)))
    processes = [first, await stage.join()]
    asked = [stage.ask(processes[number % 2], on_granted=written) for number in range(60)]
    for served in (15, 30, 45):
        await until(lambda served=served: sum(each.is_final for each in asked) >= served)
        await stage.site.crash()
    for each in asked:
        await each.grant()
    assert_apart(asked, 20, 1.0)
    assert [len(each.of(Granted)) for each in asked] == [1] * 60
