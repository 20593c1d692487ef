"""Faults in how runs leave, one at a time, planted in the product's own code; every order of events may show them."""

from __future__ import annotations

import asyncio

import msgspec

from offramp.core import leaving
from offramp.core.ending import ended_by
from offramp.engines.embedded.engine import EmbeddedEngine
from offramp.execution import gate
from offramp.execution.history import History
from offramp.execution.lease_window import LeaseWindow
from offramp.paths.deep import DeepPath
from offramp.paths.demote import Demoter
from offramp.paths.live import LiveRun, LiveRuns
from offramp.stores.memory import MemoryStore

FAULTS = {}


def fault(plant):
    FAULTS[plant.__name__] = plant
    return plant


@fault
def a_run_is_demoted_by_two_at_once(patch):
    patch.setitem(leaving.MOVES["leaving"], "leave", "leaving")


@fault
def a_run_is_given_back_with_a_step_in_flight(patch):
    async def leave(self, run):
        run.execution.scope.move("give_back")
        await self._give_back(run)

    patch.setattr(Demoter, "_leave", leave)
    after = leaving.after
    patch.setattr(gate, "after", lambda state, move, **given: after(state, move, **given | {"is_in_flight": False}))


@fault
def a_run_is_given_back_before_its_last_entries_are_committed(patch):
    async def release(self, lease, parked=None):
        await self._leases._memory.release(lease, parked)

    patch.setattr(EmbeddedEngine, "release", release)


@fault
def a_run_is_given_back_twice(patch):
    async def give_back(self, run):
        if run.state == "ended":
            return
        self._live.drop(run)
        await self._engine.release(run.lease, run.execution.scope.gate.rest)
        await self._engine.release(run.lease, run.execution.scope.gate.rest)

    patch.setattr(Demoter, "_give_back", give_back)


@fault
def a_run_that_the_store_does_not_take_back_is_forgotten(patch):
    async def give_back(self, run):
        if run.state != "given_back":
            return
        self._live.drop(run)
        await self._engine.release(run.lease, run.execution.scope.gate.rest)

    patch.setattr(Demoter, "_give_back", give_back)


@fault
def a_demotion_that_the_store_does_not_take_is_given_up(patch):
    async def hand_off(self, run, demotion, in_flight):
        await self._adopted(run, demotion, in_flight)

    patch.setattr(Demoter, "_hand_off", hand_off)


@fault
def the_log_says_that_a_run_was_demoted_before_it_is(patch):
    async def adopt(self, handoff):
        task = asyncio.ensure_future(asyncio.sleep(0))
        task.add_done_callback(lambda _: self._store.adopt(handoff.lease, handoff.demotion))

    patch.setattr(EmbeddedEngine, "adopt", adopt)


@fault
def a_wish_to_cancel_is_overwritten_by_the_adoption(patch):
    adopt = MemoryStore.adopt

    def overwriting(self, lease, demotion):
        commit = adopt(self, lease, demotion)
        run = self._runs[lease.run_id]
        run.record = msgspec.structs.replace(run.record, cancel_requested=False)
        return commit

    patch.setattr(MemoryStore, "adopt", overwriting)


@fault
def a_wish_to_cancel_is_lost_on_a_run_that_leaves(patch):
    cancel, ending = LiveRuns.cancel, DeepPath._ending

    def lost(self, run_id):
        run = self.get(run_id)
        is_lost = run is not None and (run.state != "running" or run.record.demotion is not None)
        return True if is_lost else cancel(self, run_id)

    def forgotten(record, now):
        return ending(msgspec.structs.replace(record, cancel_requested=False), now)

    patch.setattr(LiveRuns, "cancel", lost)
    patch.setattr(DeepPath, "_ending", staticmethod(forgotten))


@fault
def a_deadline_ends_a_run_beside_its_execution(patch):
    start = LiveRuns.start

    def started(self, record, runlog, *given, **named):
        run = start(self, record, runlog, *given, **named)
        if record.deadline_at is not None:
            clock = self._process.clock
            due = clock.monotonic() + max(0.0, record.deadline_at - clock.time())
            clock.call_at(due, lambda: self.conclude(record, runlog, ended_by("expired", record.deadline_at)))
        return run

    patch.setattr(LiveRuns, "start", started)


@fault
def an_execution_goes_on_after_its_run_was_given_back(patch):
    def drop(self, run):
        self._forget(run)

    patch.setattr(LiveRuns, "drop", drop)


@fault
def a_lost_lease_is_ignored(patch):
    patch.setattr(DeepPath, "lost", lambda _self, _lease: None)


@fault
def a_lease_that_ran_out_is_believed_in(patch):
    patch.setattr(LeaseWindow, "holds", lambda _self, _now: True)


@fault
def a_run_goes_on_without_its_journal(patch):
    async def whole_history(self, run_id, patience_s=None):
        return History()

    patch.setattr(DeepPath, "whole_history", whole_history)


@fault
def steps_begin_in_a_run_that_leaves(patch):
    may_begin = leaving.may_begin

    def begins(state, **given):
        return may_begin("running" if state == "leaving" else state, **given)

    patch.setattr(gate, "may_begin", begins)


@fault
def an_outcome_is_reported_for_a_run_that_has_left(patch):
    for state in ("running", "leaving"):
        patch.delitem(leaving.MOVES[state], "drop")


@fault
def a_run_that_is_sent_away_is_forgotten_when_it_moves(patch):
    patch.setattr(LiveRun, "changed", lambda _self: None)
