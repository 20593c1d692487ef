"""Replays of a pipeline with a journal, without writing: to test that it repeats, and to debug a run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from offramp.core.events import Draft
from offramp.core.journal import DUE, TAKEN, Entry
from offramp.core.names import did_you_mean
from offramp.core.run import Outcome, RunRecord
from offramp.errors import Divergence, InputError, ObjectLost
from offramp.execution.as_completed import Races
from offramp.execution.history import History, history_of, known_of
from offramp.execution.notes import Notes
from offramp.execution.observer import Observer
from offramp.execution.run_facts import RunFacts
from offramp.execution.runner import Execution
from offramp.execution.scope import Scope
from offramp.paths.deep import DeepPath
from offramp.paths.process import Process
from offramp.ports.bodies import Facts, Known
from offramp.ports.commit import call_threadsafe
from offramp.ports.listing import RunFilter
from offramp.ports.store import Lease

CHECK_TIMEOUT_S = 15.0
"""Seconds after which a replay that executes no step counts as stuck."""
_MISFITS = {Divergence.code, InputError.code}
CUTS_MAX = 25
"""Places in a finished run at which it is replayed as if interrupted there."""
TEXTS_MAX = 20
"""The limit of arrays of texts to look for in one run, and of texts to look at in each."""


class Case(msgspec.Struct, frozen=True):
    """A run to replay, possibly in another process. `result` is the value that it must return, None if open."""

    record: RunRecord
    known: Known
    result: bytes | None = None

    @classmethod
    def of(cls, record: RunRecord, history: History) -> Case:
        """The case of a run and its history."""
        return cls(record, known_of(history))

    def history(self) -> History:
        """The history of the run."""
        return history_of(self.known)

    def cut(self) -> Iterator[Case]:
        """The run as if interrupted: with only the first of its entries, then with more and more of them."""
        entries = self.known.entries
        step = max(1, math.ceil(len(entries) / CUTS_MAX))
        for count in range(1, len(entries), step):
            yield Case(self.record, msgspec.structs.replace(self.known, entries=entries[:count]))


class Replayed(NamedTuple):
    """How a replay ended, and the steps it executed because the journal did not hold them.

    `racing` names the place that began coroutines in an order that may differ; None if there is none.
    """

    outcome: Outcome
    executed: list[str]
    racing: str | None
    case: Case


class Verdict(NamedTuple):
    """Whether the present code can finish a run: `problem` is the reason why not, None if it can.

    `texts` are arrays of texts in its values, which its code may turn into sets.
    """

    run_id: str
    pipeline: str
    version: str
    problem: str | None
    texts: list[list[str]] = []  # noqa: RUF012 - never changed


class _Rehearsal(Observer):
    """One replay of a run with its history."""

    def __init__(self, process: Process, record: RunRecord, history: History, changed: Callable[[], object]) -> None:
        facts = RunFacts.deep(Facts.of(record), process.clock)
        self.executed: list[str] = []
        """The names of the entries that the journal did not hold."""
        self.outcome: Outcome | None = None
        self.races = Races()
        self._changed = changed
        notes = Notes(Lease(record.id, "replay", 0), self._note)
        given = facts, notes, process.steps, process.clock, history, process.metrics
        self.scope = Scope(*given, observer=self)  # stores no values
        self.execution = Execution(
            process.pipelines[record.pipeline],
            record.input,
            self.scope,
            self._ended,
            process.settings.max_result_bytes,
        )

    def _note(self, entry: Entry | None, _event: Draft | None) -> None:
        if entry is not None and entry.name not in {DUE, TAKEN}:
            self.executed.append(entry.name)

    def _ended(self, outcome: Outcome, _error: BaseException | None) -> None:
        self.outcome = outcome
        self._changed()

    def changed(self) -> None:
        """Check the outcome again."""
        self._changed()

    def began_task(self) -> None:
        """Check how the body begins its tasks."""
        self.races()

    def close(self) -> None:
        self.execution.drop()


async def replay(process: Process, record: RunRecord, history: History) -> Replayed:
    """Execute a run against its journal. Steps missing from the journal are really executed."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    rehearsal = _Rehearsal(process, record, history, lambda: call_threadsafe(loop, changed.set))
    rehearsal.scope.timers.counts_anew = record.finished
    rehearsal.execution.start(process.loops)
    try:
        while rehearsal.outcome is None:
            await changed.wait()
            changed.clear()
    finally:
        rehearsal.close()
    return Replayed(rehearsal.outcome, rehearsal.executed, rehearsal.races.problem, Case.of(record, history))


async def check(process: Process, case: Case) -> Verdict:
    """Whether the present pipeline matches a run's journal. No step is executed."""
    record, history = case.record, case.history()
    texts = texts_in(case)

    def verdict(problem: str | None) -> Verdict:
        return Verdict(record.id, record.pipeline, record.version, rehearsal.races.problem or problem, texts)

    if record.pipeline not in process.pipelines:
        problem = f"there is no pipeline {record.pipeline!r}; {did_you_mean(record.pipeline, process.pipelines)}"
        return Verdict(record.id, record.pipeline, record.version, problem)
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    rehearsal = _Rehearsal(process, record, history, lambda: call_threadsafe(loop, changed.set))
    scope = rehearsal.scope
    scope.move("leave")  # a step missing from the journal waits instead of executing
    rehearsal.execution.start(process.loops)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            while True:
                await changed.wait()
                changed.clear()
                if rehearsal.outcome is not None:
                    # If the run ends for another reason, the scope has the mismatch.
                    return verdict(_misfit(rehearsal.outcome, case.result) or scope.replay.diverged)
                if (scope.gate.parked or scope.waits.until() is not None) and not scope.replay.journal.missing:
                    return verdict(None if case.result is None else "it makes a call that the run did not make")
    except TimeoutError:
        missed = scope.replay.journal.unasked()
        after = f" before step {missed[0].name!r} of its journal" if missed else ""
        return verdict(f"the replay is stuck{after} after {CHECK_TIMEOUT_S:g} s")
    finally:
        rehearsal.close()


def _misfit(outcome: Outcome, result: bytes | None) -> str | None:
    if outcome.error is not None and (outcome.error.code in _MISFITS or result is not None):
        return outcome.error.message
    if result is not None and outcome.result != result:
        return f"it returned {outcome.result!r}, the run {result!r}"
    return None


async def check_parts(process: Process, case: Case) -> Verdict:
    """Check a finished run both as if interrupted and as a whole: a complete journal hides the order of calls."""
    for part in case.cut():
        verdict = await check(process, part)
        if verdict.problem is not None:
            of = f"with the first {len(part.known.entries)} of its {len(case.known.entries)} journal entries"
            return verdict._replace(problem=f"{of}: {verdict.problem}")
    return await check(process, case)


async def check_all(process: Process, deep: DeepPath) -> AsyncGenerator[Verdict, None]:
    """Check every unfinished run, see `Service.check`."""
    for status in ("running", "queued"):
        after: str | None = ""
        while after is not None:
            page = await process.store.runs(RunFilter(tenant=None, status=status, after=after or None, limit=100))
            after = page.after
            for record in page.runs:
                try:
                    history = await deep.whole_history(record.id, 0.0)
                except ObjectLost as error:
                    yield Verdict(record.id, record.pipeline, record.version, str(error))
                else:
                    yield await check(process, Case.of(record, history))


def texts_in(case: Case) -> list[list[str]]:
    """Arrays of different texts in the values that a run was given: its code may turn them into sets."""
    found: list[list[str]] = []
    for encoded in (case.record.input, *(entry.value for entry in case.known.entries)):
        if encoded is not None and b"[" in encoded:
            for array in _arrays(msgspec.json.decode(encoded)):
                texts = list(dict.fromkeys(item for item in array if isinstance(item, str)))[:TEXTS_MAX]
                if len(texts) > 1 and texts not in found:
                    found.append(texts)
                if len(found) == TEXTS_MAX:
                    return found
    return found


def _arrays(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, list):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _arrays(item)
