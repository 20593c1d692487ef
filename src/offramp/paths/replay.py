"""Calling a pipeline again with a journal and writing nothing: to test that it repeats, and to debug a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from offramp.core.events import Draft
from offramp.core.journal import Entry
from offramp.core.names import did_you_mean
from offramp.core.run import Outcome, RunRecord
from offramp.errors import Divergence, InputError
from offramp.execution.attempt import RunFacts
from offramp.execution.history import History
from offramp.execution.runner import Execution
from offramp.execution.scope import Scope
from offramp.execution.timers import DUE
from offramp.paths.process import Process
from offramp.ports.bodies import Facts
from offramp.ports.commit import Commit, call_threadsafe
from offramp.ports.store import Lease

CHECK_TIMEOUT_S = 15.0
"""What a replay without executing anything may take before it counts as standing still."""
_MISFITS = {Divergence.code, InputError.code}


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

    def survived(self) -> None:
        """Nothing died here."""

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        return self.durable()


class Verdict(NamedTuple):
    """Whether the code that is here can finish a run: `problem` says why not, None if it can."""

    run_id: str
    pipeline: str
    version: str
    problem: str | None


class _Rehearsal:
    """One run called again with what is known of it."""

    def __init__(self, process: Process, record: RunRecord, history: History, changed: Callable[[], object]) -> None:
        facts = RunFacts.deep(Facts.of(record), process.clock)
        self.notes = _Notes(record.id)
        self.scope = Scope(facts, self.notes, process.lanes, process.clock, history, process.metrics)  # keeps nothing
        self.outcome: Outcome | None = None
        self._changed = changed
        self.execution = Execution(
            process.pipelines[record.pipeline],
            record.input,
            self.scope,
            self._ended,
            process.settings.max_result_bytes,
        )

    def _ended(self, outcome: Outcome, _error: BaseException | None) -> None:
        self.outcome = outcome
        self._changed()

    def close(self) -> None:
        self.scope.close()
        self.execution.stop_tree()


async def replay(process: Process, record: RunRecord, history: History) -> Replayed:
    """Execute a run against its journal. A step that is not in the journal is really executed."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    rehearsal = _Rehearsal(process, record, history, lambda: call_threadsafe(loop, ended.set))
    rehearsal.scope.timers.counts_anew = record.finished
    rehearsal.execution.start(process.loops)
    try:
        await ended.wait()
    finally:
        rehearsal.close()
    assert rehearsal.outcome is not None  # noqa: S101 - set before the event
    executed = [entry.name for entry in rehearsal.notes.recorded if entry.name != DUE]
    return Replayed(rehearsal.outcome, executed)


async def check(process: Process, record: RunRecord, history: History) -> Verdict:
    """Whether the pipeline, as it is here, fits a run's journal. No step is executed."""

    def verdict(problem: str | None) -> Verdict:
        return Verdict(record.id, record.pipeline, record.version, problem)

    if record.pipeline not in process.pipelines:
        return verdict(f"there is no pipeline {record.pipeline!r}; {did_you_mean(record.pipeline, process.pipelines)}")
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    rehearsal = _Rehearsal(process, record, history, lambda: call_threadsafe(loop, changed.set))
    scope = rehearsal.scope
    scope.stop_at_boundary()  # a step that is not in the journal waits instead of being executed
    scope.on_change = lambda: call_threadsafe(loop, changed.set)
    rehearsal.execution.start(process.loops)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            while True:
                await changed.wait()
                changed.clear()
                failure = rehearsal.outcome.error if rehearsal.outcome is not None else None
                if rehearsal.outcome is not None:
                    return verdict(failure.message if failure is not None and failure.code in _MISFITS else None)
                if (scope.parked or scope.waits_until() is not None) and not scope.journal.missing:
                    return verdict(None)
    except TimeoutError:
        missed = scope.journal.unasked()
        after = f" before step {missed[0].name!r} of its journal" if missed else ""
        return verdict(f"the replay stands still{after} after {CHECK_TIMEOUT_S:g} s")
    finally:
        rehearsal.close()
