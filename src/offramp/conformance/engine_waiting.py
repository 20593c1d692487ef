"""Cases of what reaches a run from outside: cancelling, signals, deadlines (N5, N7, N9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offramp.conformance.case import case, until
from offramp.conformance.engine_stage import EngineStage, Member
from offramp.conformance.store_stage import unsupported
from offramp.core.run import RunRecord
from offramp.errors import RunConflict


@case("N5")
async def a_queued_run_is_cancelled_without_a_step(stage: EngineStage) -> None:
    member = await stage.join(works=False)
    run = await stage.started(member, "one")
    record = await member.engine.cancel(run.id)
    assert record is not None
    assert await stage.outcome(run) == "cancelled"
    assert stage.ledger.steps(run) == [], "a cancelled run was executed"


@case("N5")
async def an_executing_run_is_cancelled_and_starts_no_step(stage: EngineStage) -> None:
    member = await stage.join()
    stage.ledger.hold("held")
    run = await stage.started(member, "held", "two")
    await stage.reached(run, "held")
    await member.engine.cancel(run.id)
    assert await stage.outcome(run) == "cancelled"
    stage.ledger.let_go("held")
    await stage.settle()
    assert stage.ledger.steps(run) == ["held"], "a step of a cancelled run started"


@case("N5", needs=("shared",))
async def a_run_is_cancelled_from_another_process(stage: EngineStage) -> None:
    gateway = await stage.join("gateway", works=False)
    await stage.join("a")
    stage.ledger.hold("held")
    run = await stage.started(gateway, "held", "two")
    await stage.let_pass(2 * stage.site.notice_s)
    await stage.reached(run, "held")
    await gateway.engine.cancel(run.id)
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "cancelled"
    assert stage.ledger.steps(run) == ["held"]


@case("N5", needs=("shared",))
async def a_wish_to_cancel_outlives_the_process_that_should_have_obeyed(stage: EngineStage) -> None:
    gateway = await stage.join("gateway", works=False)
    member = await stage.join("a")
    stage.ledger.hold("held")
    run = await stage.started(gateway, "held", "two")
    await stage.let_pass(2 * stage.site.notice_s)
    await stage.reached(run, "held")
    await stage.kill(member)
    await gateway.engine.cancel(run.id)
    await stage.join("b")
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "cancelled"
    assert stage.ledger.steps(run) == ["held"]


@case("N5", needs=("signals",))
async def a_parked_run_is_cancelled(stage: EngineStage) -> None:
    member, run = await _parked(stage, "signal:go:0", "two")
    await member.engine.cancel(run.id)
    assert await stage.outcome(run) == "cancelled"
    assert stage.ledger.steps(run) == []


@case("N5")
async def what_has_ended_is_not_cancelled(stage: EngineStage) -> None:
    member = await stage.join()
    run = await stage.started(member, "one")
    await stage.outcome(run)
    record = await member.engine.cancel(run.id)
    assert record is not None
    assert record.status == "completed"
    assert await stage.outcome(run) == "completed"
    assert await member.engine.cancel(stage.record().id) is None


async def _parked(stage: EngineStage, *script: str, **changes: Any) -> tuple[Member, RunRecord]:
    """A run that waits, parked, for a signal."""
    member = await stage.join("a")
    run = await stage.started(member, *script, **changes)
    await until(lambda: run.id in stage.ledger.parked)
    return member, run


async def _send(member: Member, run: RunRecord, signals: Sequence[tuple[str, bytes]] = (("go", b"1"),)) -> None:
    for name, value in signals:
        assert await member.engine.signal(run.id, name, value) is not None, f"{run.id} is unknown to {member.owner}"


@case("N7", needs=("signals",))
async def a_parked_run_is_executed_by_nobody(stage: EngineStage) -> None:
    member, run = await _parked(stage, "signal:go:0")
    await stage.let_pass(2 * stage.site.takeover_s)
    assert stage.ledger.taken == [("a", run.id)], "a parked run was taken though nothing had happened"
    assert (await stage.seen(run)).status == "running"
    assert member.host.free() == 10, "a parked run takes up room"


@case("N7", needs=("signals",))
async def a_signal_wakes_a_parked_run_and_reaches_it_once(stage: EngineStage) -> None:
    member, run = await _parked(stage, "one", "signal:go:0", "two")
    await _send(member, run)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"1"]
    assert stage.ledger.steps(run) == ["one", "two"]


@case("N7", needs=("signals",))
async def a_signal_that_is_sent_again_reaches_its_run_once(stage: EngineStage) -> None:
    member, run = await _parked(stage, "one", "signal:go:0", "signal:go:1")
    for key in ("a", "a", "b"):
        assert await member.engine.signal(run.id, "go", key.encode(), key) is not None
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"a", b"b"]


@case("N7", needs=("signals", "shared"))
async def a_signal_wakes_a_parked_run_from_another_process(stage: EngineStage) -> None:
    _, run = await _parked(stage, "signal:go:0")
    gateway = await stage.join("gateway", works=False)
    await _send(gateway, run)
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"1"]


@case("N7", needs=("signals",))
async def signals_are_received_in_order_per_name(stage: EngineStage) -> None:
    member = await stage.join()
    stage.ledger.hold("held")
    run = await stage.started(member, "held", "signal:stop:0", "signal:go:0", "signal:go:1")
    await stage.reached(run, "held")
    await _send(member, run, [("go", b"1"), ("go", b"2"), ("stop", b"3")])
    stage.ledger.let_go("held")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"3", b"1", b"2"]


@case("N7", needs=("signals",))
async def a_signal_that_crosses_the_parking_is_not_lost(stage: EngineStage) -> None:
    member = await stage.join()
    stage.ledger.hold("park signal:go:0")
    run = await stage.started(member, "one", "signal:go:0")
    await until(lambda: len(stage.ledger.recorded) == 1)
    await stage.settle()
    await _send(member, run)
    stage.ledger.let_go("park signal:go:0")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"1"]


@case("N7", needs=("signals",))
async def a_run_that_listens_is_told_of_its_signal(stage: EngineStage) -> None:
    member = await stage.join()
    run = await stage.started(member, "one", "listen:go:0")
    await until(lambda: member.host.listening() == [run.id])
    await _send(member, run)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"1"]


@case("N7", needs=("signals", "shared"))
async def a_run_that_listens_is_told_of_a_signal_from_another_process(stage: EngineStage) -> None:
    member = await stage.join("a")
    gateway = await stage.join("gateway", works=False)
    run = await stage.started(member, "one", "listen:go:0")
    await until(lambda: member.host.listening() == [run.id])
    await _send(gateway, run)
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"1"]


@case("N7", needs=("signals", "shared", "durable"))
async def a_signal_that_was_taken_outlives_its_process(stage: EngineStage) -> None:
    gateway = await stage.join("gateway", works=False)
    run = await stage.started(gateway, "signal:go:0")
    await _send(gateway, run)
    await stage.kill(gateway)
    await stage.join("b")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"1"]


@case("N7", needs=("signals",))
async def a_run_that_has_ended_takes_no_signal(stage: EngineStage) -> None:
    member = await stage.join()
    run = await stage.started(member, "one")
    await stage.outcome(run)
    try:
        await member.engine.signal(run.id, "go", b"1")
    except RunConflict:
        assert await member.engine.signal(stage.record().id, "go", b"1") is None
        return
    raise AssertionError("a run that has ended took a signal")


@case("N7", lacks="signals")
async def without_signals_sending_one_is_refused(stage: EngineStage) -> None:
    member = await stage.join(works=False)
    run = await stage.started(member, "one")
    await unsupported(member.engine.signal(run.id, "go", b"1"), "signals")


@case("N9")
async def a_queued_run_expires_at_its_deadline(stage: EngineStage) -> None:
    member = await stage.join(works=False)
    run = await stage.started(member, "one", deadline_at=stage.site.now() + stage.site.takeover_s)
    await stage.let_pass(stage.site.takeover_s / 4)
    assert (await stage.seen(run)).status == "queued", "a run expired before its deadline"
    await stage.let_pass(2 * stage.site.takeover_s)
    assert await stage.outcome(run) == "expired"
    assert stage.ledger.steps(run) == []


@case("N9", needs=("signals",))
async def a_parked_run_expires_at_its_deadline(stage: EngineStage) -> None:
    _, run = await _parked(stage, "signal:go:0", deadline_at=stage.site.now() + stage.site.takeover_s)
    await stage.let_pass(stage.site.takeover_s / 4)
    assert (await stage.seen(run)).status == "running", "a run expired before its deadline"
    await stage.let_pass(2 * stage.site.takeover_s)
    assert await stage.outcome(run) == "expired"
