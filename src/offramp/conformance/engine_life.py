"""Cases of how runs come to an engine: started, adopted, and whether a worker is ready and has room for them.

N1, N2, N3, N10, N11, N12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offramp.conformance.case import case, until
from offramp.conformance.engine_stage import EngineStage, Member
from offramp.conformance.sample import DEMOTION
from offramp.conformance.store_stage import unsupported
from offramp.core.journal import Entry
from offramp.core.run import RunRecord
from offramp.errors import Overloaded, TenantBusy
from offramp.ports.engine import Handoff
from offramp.ports.store import Idempotency


@case("N1")
async def a_started_run_is_executed_once(stage: EngineStage) -> None:
    member = await stage.join()
    run = await stage.started(member, "one", "two")
    assert await stage.outcome(run) == "completed"
    await stage.settle()
    assert stage.ledger.steps(run) == ["one", "two"], "not every step was executed, or not once"
    assert await stage.recorded(run) == ["one", "two"]


@case("N1")
async def starting_the_same_id_again_changes_nothing(stage: EngineStage) -> None:
    member = await stage.join()
    stage.ledger.hold("held")
    run = await stage.started(member, "held")
    await stage.reached(run, "held")
    before = await stage.seen(run)
    assert (await stage.start(member, run)).existing == run.id
    await stage.settle()
    assert await stage.seen(run) == before
    stage.ledger.let_go("held")
    assert await stage.outcome(run) == "completed"
    assert (await stage.start(member, run)).existing == run.id
    await stage.settle()
    assert stage.ledger.steps(run) == ["held"], "the run was executed again"


@case("N1", needs=("shared",))
async def starting_the_same_id_in_another_process_changes_nothing(stage: EngineStage) -> None:
    member, peer = await stage.join("a"), await stage.join("b")
    stage.ledger.hold("held")
    run = await stage.started(member, "held")
    await stage.reached(run, "held")
    assert (await stage.start(peer, run)).existing == run.id
    await stage.settle()
    stage.ledger.let_go("held")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.steps(run) == ["held"], "the run was executed in two processes"


@case("N1")
async def starting_the_same_key_again_gives_the_first_run(stage: EngineStage) -> None:
    member = await stage.join()
    key = Idempotency("key", "body", stage.site.now() + 1_000)
    first, second = stage.record("one"), stage.record("one")
    assert (await stage.start(member, first, key)).existing is None
    assert (await stage.start(member, second, key)).existing == first.id
    assert await stage.outcome(first) == "completed"
    await stage.settle()
    assert stage.ledger.steps(second) == [], "a run that was not created was executed"
    assert await member.store.get(second.id) is None


@case("N1", needs=("shared", "durable"))
async def a_started_run_survives_the_process_that_took_it(stage: EngineStage) -> None:
    member, peer = await stage.join("a"), await stage.join("b")
    run = await stage.started(member, "one")
    await stage.kill(member)
    await stage.let_pass(stage.site.takeover_s)
    assert peer.owner == "b"
    assert await stage.outcome(run) == "completed"


@case("N1", needs=("shared",))
async def every_run_is_executed_by_one_process(stage: EngineStage) -> None:
    gateway = await stage.join("gateway", works=False)
    for name in ("a", "b"):
        await stage.join(name, room=2)
    runs = [await stage.started(gateway, "one", "two") for _ in range(10)]
    for run in runs:
        await stage.site.advance(stage.site.notice_s)
        assert await stage.outcome(run) == "completed"
        assert stage.ledger.steps(run) == ["one", "two"], f"executed {stage.ledger.steps(run)}"
    taken = [run_id for _, run_id in stage.ledger.taken]
    assert sorted(taken) == sorted(run.id for run in runs), "a run was taken twice, or never"


@case("N1", needs=("shared",))
async def a_run_waits_for_a_process_that_works(stage: EngineStage) -> None:
    gateway = await stage.join("gateway", works=False)
    run = await stage.started(gateway, "one")
    await stage.settle()
    assert (await stage.seen(run)).status == "queued"
    await stage.join("a")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "one") == ["a"]


@case("N1", "N3", "N6", "N8", "N14", lacks="shared")
async def a_second_process_is_refused_where_one_is_all(stage: EngineStage) -> None:
    await stage.join("a")
    await unsupported(stage.join("b"), "shared")


async def _filled(stage: EngineStage, member: Member) -> list[RunRecord]:
    """As many waiting runs as the queue takes; another is refused."""
    runs = [await stage.started(member, "one") for _ in range(stage.site.queue_max)]
    await stage.let_pass(stage.site.notice_s)
    await _refused(stage, member, len(runs))
    return runs


async def _refused(stage: EngineStage, member: Member, waiting: int, **changes: Any) -> None:
    """One run more is refused, with a time to retry, and nothing is left of it."""
    late = stage.record("one", **changes)
    retry_after_s = 0.0
    try:
        await stage.start(member, late)
    except Overloaded as refusal:
        retry_after_s = refusal.retry_after
    assert retry_after_s > 0, (
        f"{waiting} runs wait, the most allowed: another was taken, or refused without a time to retry"
    )
    assert await member.store.get(late.id) is None, "a run that was refused is there"


async def _emptied(stage: EngineStage, member: Member, runs: Sequence[RunRecord]) -> None:
    """These runs are executed to their end, and no other: the queue has room again, and every process knows it."""
    member.host.room = len(runs)
    member.host.ended()
    for run in runs:
        assert await stage.outcome(run) == "completed"
    member.host.room = 0
    await stage.let_pass(stage.site.notice_s)


@case("N11", "N15")
async def a_full_queue_refuses_until_it_has_room_again(stage: EngineStage) -> None:
    member = await stage.join(room=0)
    runs = await _filled(stage, member)
    await _emptied(stage, member, runs)
    await stage.started(member, "one")


@case("N11", "N15")
async def a_class_with_a_limit_leaves_the_queue_to_others(stage: EngineStage) -> None:
    member = await stage.join(room=0)
    [(sla, limit)] = stage.site.queue_limits.items()
    runs = [await stage.started(member, "one", sla=sla) for _ in range(limit)]
    await _refused(stage, member, limit, sla=sla)
    runs.append(await stage.started(member, "one"))
    await _emptied(stage, member, runs)
    await stage.started(member, "one", sla=sla)


@case("N11", "N12", "N15")
async def a_tenant_that_has_its_share_of_the_queue_leaves_room_for_the_next(stage: EngineStage) -> None:
    member = await stage.join(room=0)
    stage.site.tenancy.is_keyed = lambda: True
    part = stage.site.tenancy.part(stage.site.queue_max)
    runs = [await stage.started(member, "one", tenant="acme") for _ in range(part)]
    late = stage.record("one", tenant="acme")
    retry_after_s = 0.0
    try:
        await stage.start(member, late)
    except TenantBusy as refusal:
        retry_after_s = refusal.retry_after
    assert retry_after_s > 0, f"{part} runs are a tenant's share: another was taken, or refused without a time to retry"
    assert await member.store.get(late.id) is None, "a run that was refused is there"
    runs.append(await stage.started(member, "one", tenant="beta"))
    await _emptied(stage, member, runs)
    await stage.started(member, "one", tenant="acme")


@case("N18", "N11")
async def runs_that_wait_for_a_worker_are_counted(stage: EngineStage) -> None:
    member = await stage.join(room=0)
    runs = [await stage.started(member, "one") for _ in range(3)]
    assert await member.engine.backlog() == len(runs), "runs that wait are not counted, or others are"
    await _emptied(stage, member, runs)
    assert await member.engine.backlog() == 0, "no run waits, and some are counted"


@case("N15")
async def a_run_that_waits_is_taken_when_another_ends(stage: EngineStage) -> None:
    member = await stage.join(room=1)
    stage.ledger.hold("held")
    first = await stage.started(member, "held")
    await stage.reached(first, "held")
    second = await stage.started(member, "two")
    await stage.settle()
    stage.ledger.let_go("held")
    assert await stage.outcome(first) == await stage.outcome(second) == "completed"


@case("N2")
async def an_adopted_run_is_the_engines_and_goes_on(stage: EngineStage) -> None:
    member = await stage.join()
    stage.ledger.hold("held")
    run = await stage.demoted(member, "one", "held", "three")
    stored = await stage.seen(run)
    assert (stored.path, stored.demotion, stored.status) == ("deep", DEMOTION, "running")
    stage.ledger.let_go("held")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.steps(run) == ["one", "held", "three"]


@case("N2")
async def adopting_again_changes_nothing(stage: EngineStage) -> None:
    member = await stage.join()
    run, log = await stage.begun(member, "one")
    handoff = Handoff(log.lease, DEMOTION, [])
    await member.engine.adopt(handoff)
    before = await stage.seen(run)
    await member.engine.adopt(handoff)
    assert await stage.seen(run) == before
    await member.engine.release(log.lease)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.steps(run) == ["one"]


@case("N2", needs=("shared", "durable"))
async def what_the_journal_held_at_adoption_survives(stage: EngineStage) -> None:
    member, _ = await stage.join("a"), await stage.join("b")
    run, log = await stage.begun(member, "one", "two")
    log.append(Entry("one", "one", "step", b"1"), None)
    await member.engine.adopt(Handoff(log.lease, DEMOTION, []))
    await stage.kill(member)
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.steps(run) == ["two"], "the journal was not durable when the run was adopted"


@case("N3", needs=("shared",))
async def a_step_in_flight_at_adoption_goes_on_where_it_is(stage: EngineStage) -> None:
    member, _ = await stage.join("a"), await stage.join("b")
    stage.ledger.hold("held")
    run = await stage.demoted(member, "held", "two")
    await stage.let_pass(2 * stage.site.takeover_s)
    assert stage.ledger.owners(run, "held") == ["a"], "a step in flight was executed again while its process lived"
    member.host.hand_over(run.id)
    stage.ledger.let_go("held")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "held") == ["a"], "a step that ended where it was is executed again"


@case("N3", needs=("shared",))
async def a_step_in_flight_is_executed_again_when_its_process_died(stage: EngineStage) -> None:
    member, _ = await stage.join("a"), await stage.join("b")
    stage.ledger.hold("held")
    run = await stage.demoted(member, "one", "held")
    await stage.kill(member)
    stage.ledger.let_go("held")
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "held") == ["a", "b"]
    assert await stage.recorded(run) == ["one", "held"]


@case("N13")
async def a_process_takes_runs_until_it_leaves(stage: EngineStage) -> None:
    member = await stage.join()
    assert member.engine.takes(), "a process that executes runs has joined, and says that it takes none"
    await stage.let_pass(2 * stage.site.takeover_s)
    assert member.engine.takes(), "a process says that it takes no runs any more, though it did not leave"
    await stage.stop(member)
    assert not member.engine.takes(), "a process that left says that it takes runs"


@case("N13", needs=("shared",))
async def a_process_that_executes_no_runs_takes_none(stage: EngineStage) -> None:
    gateway = await stage.join("gateway", works=False)
    await stage.join("a")
    assert not gateway.engine.takes(), "a process that executes no runs says that it takes them"


@case("N10")
async def an_engine_is_ready_while_somebody_works(stage: EngineStage) -> None:
    member = await stage.join()
    assert await member.engine.ready(), "a process takes runs, but the engine is not ready"
    await stage.let_pass(2 * stage.site.takeover_s)
    assert await member.engine.ready(), "a process still takes runs, but the engine is ready no more"


@case("N10", needs=("shared",))
async def an_engine_is_not_ready_while_nobody_works(stage: EngineStage) -> None:
    gateway = await stage.join("gateway", works=False)
    assert not await gateway.engine.ready(), "no process takes runs, but the engine is ready"
    worker = await stage.join("a")
    assert await gateway.engine.ready()
    await stage.stop(worker)
    assert not await gateway.engine.ready(), "the only worker left, but the engine is ready"
    worker = await stage.join("b")
    await stage.kill(worker)
    await stage.let_pass(2 * stage.site.takeover_s)

    async def is_known() -> bool:
        return not await gateway.engine.ready()

    await until(is_known)
