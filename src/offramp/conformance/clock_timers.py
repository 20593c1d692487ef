"""Cases of the clock (C1, C2, C3)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from offramp.conformance.case import case, until
from offramp.conformance.clock_stage import ClockStage
from offramp.conformance.store_stage import unsupported

SOON_S = 0.02
MANY = 100


@case("C1")
async def monotonic_never_goes_back(stage: ClockStage) -> None:
    clock = stage.clock
    last = clock.monotonic()
    for _ in range(MANY):
        now = clock.monotonic()
        assert now >= last, f"{now} came after {last}"
        last = now
    await stage.let_pass(SOON_S)
    assert clock.monotonic() - last >= SOON_S / 2, "time passed, and it stands still"


@case("C1", needs=("wall",))
async def a_wall_clock_that_is_set_moves_no_timer(stage: ClockStage) -> None:
    clock = stage.clock
    before, called = clock.monotonic(), stage.called_at(clock.monotonic() + SOON_S)
    for epoch in (clock.time() + 3_600, clock.time() - 7_200):
        stage.set_wall(epoch)
        assert abs(clock.time() - epoch) < 60, f"the wall clock was set to {epoch}, it says {clock.time()}"
        assert 0 <= clock.monotonic() - before < SOON_S, "the monotonic clock followed the wall clock"
    assert not called, "a timer was called when the wall clock was set"
    await stage.let_pass(2 * SOON_S)
    await until(lambda: bool(called))


@case("C1", lacks="wall")
async def a_wall_clock_that_cannot_be_set_says_so(stage: ClockStage) -> None:
    async def jump() -> None:
        stage.set_wall(stage.clock.time() + 3_600)

    await unsupported(jump(), "wall")


@case("C2")
async def a_timer_is_called_once_at_or_after_its_time(stage: ClockStage) -> None:
    due = stage.clock.monotonic() + SOON_S
    called = stage.called_at(due)
    await stage.let_pass(2 * SOON_S)
    await until(lambda: bool(called))
    await stage.let_pass(2 * SOON_S)
    assert len(called) == 1, f"called {len(called)} times"
    assert called[0] >= due, f"called {due - called[0]} s before its time"


@case("C2")
async def a_cancelled_timer_is_not_called(stage: ClockStage) -> None:
    clock = stage.clock
    called: list[bool] = []
    due = clock.monotonic() + SOON_S
    timer = clock.call_at(due, lambda: called.append(True))
    later = stage.called_at(due)
    timer.cancel()
    timer.cancel()
    await stage.let_pass(2 * SOON_S)
    await until(lambda: bool(later))
    assert not called, "a cancelled timer was called"


@case("C2")
async def a_time_that_is_past_is_called_soon_and_not_by_who_asks(stage: ClockStage) -> None:
    """The caller may hold a lock that the callback takes."""
    asking, caller = [True], threading.get_ident()
    called: list[bool] = []
    stage.clock.call_at(
        stage.clock.monotonic() - 1, lambda: called.append(bool(asking) and threading.get_ident() == caller)
    )
    asking.clear()
    await stage.let_pass(SOON_S)
    await until(lambda: bool(called))
    assert called == [False], "the callback was called in the caller's thread, before call_at returned"


@case("C2")
async def timers_are_called_by_time_whatever_their_order(stage: ClockStage) -> None:
    clock = stage.clock
    start = clock.monotonic()
    called: list[int] = []
    for place in (3, 1, 4, 2):
        clock.call_at(start + place * SOON_S / 5, _appends(called, place))
    await stage.let_pass(2 * SOON_S)
    await until(lambda: len(called) == 4)
    assert called == [1, 2, 3, 4], f"called in the order {called}"


@case("C2")
async def timers_may_be_set_from_any_thread_also_by_a_timer(stage: ClockStage) -> None:
    clock = stage.clock
    called: list[int] = []
    due = clock.monotonic() + SOON_S

    def ask(place: int) -> None:
        clock.call_at(due, lambda: clock.call_at(due, _appends(called, place)))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    await stage.let_pass(2 * SOON_S)
    await until(lambda: len(called) >= MANY)
    assert sorted(called) == list(range(MANY)), f"{len(called)} calls for {MANY} timers"


@case("C3")
async def randomness_is_in_its_bounds_and_not_repeated(stage: ClockStage) -> None:
    clock = stage.clock
    numbers = [clock.random() for _ in range(MANY)]
    assert all(0 <= number < 1 for number in numbers), f"not in [0, 1): {numbers}"
    drawn = [clock.random_bytes(16) for _ in range(MANY)]
    assert {len(each) for each in drawn} == {16}, "not as many bytes as were asked for"
    assert len(set(drawn)) == MANY, "the same bytes were given twice"
    assert [len(clock.random_bytes(count)) for count in (0, 1, 10, 5_000)] == [0, 1, 10, 5_000]


def _appends(called: list[int], place: int) -> Callable[[], object]:
    return lambda: called.append(place)
