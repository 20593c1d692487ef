"""Cases of processes that leave, die or fall silent, and of what they held; of runs that two of them share, or that
begin with a seed.
"""

from __future__ import annotations

from offramp.conformance.case import case, until
from offramp.conformance.engine_stage import EngineStage, Member
from offramp.conformance.sample import DEMOTION, drafted
from offramp.core import events
from offramp.core.journal import Entry
from offramp.core.run import RunRecord
from offramp.core.seed import Seed
from offramp.ports.engine import Handoff


async def _in_flight(stage: EngineStage) -> tuple[Member, RunRecord]:
    """A run at the second of its three steps, in process `a`; `b` has room."""
    member = await stage.join("a")
    stage.ledger.hold("held")
    run = await stage.started(member, "one", "held", "three")
    await stage.reached(run, "held")
    await stage.join("b")
    return member, run


def _seeded(*steps: str) -> Seed:
    return Seed([Entry(step, step, "step", b"1") for step in steps])


@case("N17")
async def the_steps_of_a_seed_are_not_executed(stage: EngineStage) -> None:
    member = await stage.join()
    run = stage.record("one", "two", "three")
    assert (await stage.start(member, run, seed=_seeded("one", "two"))).existing is None
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.steps(run) == ["three"], "a step of the seed was executed, or another one was not"
    assert await stage.recorded(run) == ["one", "two", "three"]


@case("N17")
async def a_run_with_a_seed_starts_when_it_is_taken(stage: EngineStage) -> None:
    member = await stage.join(room=0)
    run = stage.record("one", "two")
    await stage.start(member, run, seed=_seeded("one"))
    record = await stage.seen(run)
    assert bool(record.started_at) == (record.status == "running"), "a run that waits has started"
    member.host.room = 1
    member.host.ended()
    assert await stage.outcome(run) == "completed"
    assert (await stage.seen(run)).started_at, "a run ended without having started"


@case("N17", needs=("signals",))
async def the_signals_of_a_seed_are_received(stage: EngineStage) -> None:
    member = await stage.join()
    run = stage.record("one", "signal:go:0")
    await stage.start(member, run, seed=Seed([], [("go", b"7")]))
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.values == [b"7"]


@case("N4", "N17", needs=("shared", "durable"))
async def a_seed_survives_the_process_that_took_it(stage: EngineStage) -> None:
    members = {member.owner: member for member in (await stage.join("a"), await stage.join("b"))}
    stage.ledger.hold("two")
    run = stage.record("one", "two")
    await stage.start(members["a"], run, seed=_seeded("one"))
    await stage.reached(run, "two")
    await stage.kill(members[stage.ledger.owners(run, "two")[0]])
    stage.ledger.let_go("two")
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "completed"
    assert "one" not in stage.ledger.steps(run), "a step of the seed was executed after a death"


@case("N4", needs=("shared",))
async def recovery_repeats_no_finished_step(stage: EngineStage) -> None:
    member, run = await _in_flight(stage)
    await stage.kill(member)
    stage.ledger.let_go("held")
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "one") == ["a"], "a finished step was executed again"
    assert await stage.recorded(run) == ["one", "held", "three"]


@case("N4")
async def release_repeats_no_finished_step(stage: EngineStage) -> None:
    member = await stage.join()
    stage.ledger.hold("held")
    run = await stage.demoted(member, "one", "held", "three")
    member.host.hand_over(run.id)
    stage.ledger.let_go("held")
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.steps(run) == ["one", "held", "three"], "a release repeated or lost a step"
    assert len(stage.ledger.taken) == 2, "a released run was not taken again"


@case("N4", needs=("shared",))
async def a_process_that_leaves_takes_no_finished_step_with_it(stage: EngineStage) -> None:
    member, run = await _in_flight(stage)
    member.host.hand_over(run.id)
    stage.ledger.hold("three")
    stage.ledger.let_go("held")
    await stage.reached(run, "three")
    await stage.stop(member)
    stage.ledger.let_go("three")
    await stage.let_pass(stage.site.notice_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "one") == stage.ledger.owners(run, "held") == ["a"]


@case("N6", needs=("shared",))
async def what_a_dead_process_held_goes_on(stage: EngineStage) -> None:
    member, run = await _in_flight(stage)
    await stage.kill(member)
    stage.ledger.let_go("held")
    await stage.settle()
    await stage.let_pass(stage.site.takeover_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "three") == ["b"]


@case("N6", needs=("shared",))
async def what_a_process_gave_up_by_leaving_goes_on_at_once(stage: EngineStage) -> None:
    member, run = await _in_flight(stage)
    member.host.die()
    await stage.stop(member)
    stage.ledger.let_go("held")
    await stage.let_pass(stage.site.notice_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "three") == ["b"]


@case("N6", "N14", needs=("shared",))
async def what_a_dead_process_held_goes_on_at_once_when_it_is_retired(stage: EngineStage) -> None:
    member, run = await _in_flight(stage)
    supervisor = await stage.join("c", works=False)
    await stage.kill(member)
    stage.ledger.let_go("held")
    released = await supervisor.engine.retire("a")
    assert released in {0, 1}, f"a dead process held one run at most, but {released} were released"
    await stage.let_pass(stage.site.notice_s)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.owners(run, "three") == ["b"]


@case("N8", needs=("shared",))
async def a_process_that_lost_a_run_writes_nothing_more(stage: EngineStage) -> None:
    member, run = await _in_flight(stage)
    await member.process.mute()
    await stage.let_pass(stage.site.takeover_s)
    await stage.reached(run, "held", times=2)
    stage.ledger.let_go("held")
    assert await stage.outcome(run) == "completed"
    await until(lambda: ("a", run.id) in stage.ledger.lost)
    await stage.settle()
    assert await stage.recorded(run) == ["one", "held", "three"], "the journal has entries of two owners"
    assert stage.ledger.owners(run, "three") == ["b"], "a process went on with a run that it had lost"
    assert ("b", run.id) not in stage.ledger.lost


@case("N16", lacks="sharing")
async def an_engine_that_shares_no_runs_says_so(stage: EngineStage) -> None:
    member = await stage.join()
    assert member.engine.sharing is None, "an engine that does not declare `sharing` has it"


@case("N16", needs=("sharing",))
async def a_shared_run_goes_on_beside_its_step_in_flight(stage: EngineStage) -> None:
    member = await stage.join()
    run, log = await stage.begun(member, "held", "two")
    await member.engine.adopt(Handoff(log.lease, DEMOTION, ["held"]))
    sharing, detached = member.engine.sharing, list[str]()
    assert sharing is not None, "an engine that declares `sharing` has none"

    def detach() -> bool:
        detached.append(run.id)
        return True

    lease = await sharing.share(await stage.seen(run), ["held"], detach)
    assert lease is not None, "a run was not shared"
    assert detached == [run.id], "a run changed hands, and its process did not hear of it"
    step = member.store.log(lease.of_step("held"))
    step.append(Entry("held", "held", "step", b"1"), drafted(events.StepCompleted("held", "held", 1, 0.0)))
    await step.durable()
    await sharing.delivered(run.id)
    assert await stage.outcome(run) == "completed"
    assert stage.ledger.steps(run) == ["two"], "the step in flight was executed again"
    assert await stage.recorded(run) == ["held", "two"]
