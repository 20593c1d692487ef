"""Calling a pipeline again with a journal and writing nothing: to test that it repeats, and to debug a run."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from offramp.core.events import Draft
from offramp.core.journal import Entry, Journal
from offramp.core.run import Outcome, RunRecord
from offramp.execution.attempt import RunFacts
from offramp.execution.runner import Execution
from offramp.execution.scope import Scope
from offramp.paths.process import Process
from offramp.ports.commit import Commit, call_threadsafe
from offramp.ports.store import Lease


class Replayed(NamedTuple):
    """How a replay ended, and the steps it executed because the journal did not hold them."""

    outcome: Outcome
    executed: list[str]


class _Notes:
    """A run log that only takes notes."""

    def __init__(self, run_id: str) -> None:
        self.lease = Lease(run_id, "replay", 0)
        self.recorded: list[Entry] = []

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        if entry is not None:
            self.recorded.append(entry)

    def durable(self) -> Commit[None]:
        commit: Commit[None] = Commit()
        commit.resolve()
        return commit

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        return self.durable()


async def replay(process: Process, record: RunRecord, entries: list[Entry]) -> Replayed:
    """Execute a run against its journal. A step that is not in the journal is really executed."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Outcome] = loop.create_future()
    facts = RunFacts(
        run_id=record.id,
        pipeline=record.pipeline,
        session_id=record.session_id,
        metadata=record.metadata,
        path="deep",
        budget_ends=0.0,
        deadline_at=record.deadline_at,
        clock=process.clock,
    )
    notes = _Notes(record.id)
    scope = Scope(facts, Journal(entries), notes, process.lanes, process.clock, {})
    execution = Execution(
        process.pipelines[record.pipeline],
        record.input,
        scope,
        lambda outcome, _error: call_threadsafe(loop, ended.set_result, outcome),
        process.settings.max_result_bytes,
    )
    execution.start(process.loops)
    try:
        outcome = await ended
    finally:
        scope.close()
        execution.stop_tree()
    return Replayed(outcome, [entry.name for entry in notes.recorded])
