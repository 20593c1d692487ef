"""Runs, owners and keys without disk, threads or processes: the tables of core/ decide what becomes of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from offramp.conformance.sample import PIPELINE
from offramp.core import ownership
from offramp.core.claims import NO_SUSPICION, Head, QueuedLine, Suspicion, after_death, choose
from offramp.core.ownership import Ownership
from offramp.errors import IdempotencyMismatch, RunConflict


@dataclass
class ModelRun:
    """One run, as every process has to see it."""

    id: str
    priority: int
    retention_s: float
    tenant: str
    state: Ownership
    demoted: bool = False
    suspicion: Suspicion = NO_SUSPICION
    purged: bool = False
    finished_at: float | None = None
    entries: list = field(default_factory=list)
    events: list = field(default_factory=lambda: ["run.accepted"])
    signals: list = field(default_factory=list)
    signal_keys: dict = field(default_factory=dict)

    @property
    def finished(self):
        return self.finished_at is not None

    def holds(self, lease):
        return ownership.holds(self.state, lease.owner, lease.token)


class Model:
    """All of them under a clock."""

    def __init__(self, now):
        self.now = now
        self.runs: dict[str, ModelRun] = {}
        self.owners: dict[str, float] = {}
        self.leaving: set[str] = set()
        self.keys: dict[str, tuple[float, str]] = {}

    def create(self, run, key, expires_at):
        """The id of the run that holds the key, None if `run` was created."""
        held = self.keys.get(key)
        if key is not None and held is not None and held[0] > self.now:
            return held[1]
        if key is not None:
            self.keys[key] = expires_at, run.id
        self.runs[run.id] = run
        return None

    def finish(self, lease, status):
        run = self.runs[lease.run_id]
        run.state, run.finished_at = ownership.finish(run.state, status), self.now
        run.events.append(f"run.{status}")

    def due(self, owner, limit):
        """The runs that a claim would take, in order, if all were of one tenant."""
        for run in self.runs.values():
            run.state = ownership.unpark(run.state, self.now)
        queued = [run for run in self.runs.values() if run.state.status == "queued"]
        died = [Head(run.id, priority=run.priority, suspicion=run.suspicion) for run in queued if run.suspicion.deaths]
        held = [run.suspicion for run in self.runs.values() if run.state.owner == owner]
        lines = {}
        for run in sorted((run for run in queued if not run.suspicion.deaths), key=lambda run: run.id):
            lines.setdefault(run.priority, []).append(run.id)
        heads = [QueuedLine(PIPELINE, of, "default", "", 0.0, ids[0], len(ids)) for of, ids in lines.items()]

        def more(line, after):
            return [run_id for run_id in lines[line.priority] if run_id > after]

        return [self.runs[run_id] for run_id in choose(heads, died, held, limit, more=more, classes={}).ids]

    def park(self, lease, until, seen):
        run = self.runs[lease.run_id]
        run.state = ownership.park(run.state, until, seen=seen, sent=len(run.signals))

    def signal(self, run, name, value, key):
        """The error, or None."""
        known = run.signal_keys.get(key)
        try:
            if known is not None:
                return ownership.require_same(known, name, value)
            run.state = ownership.signal(run.state, run.id, len(run.signals), len(value))
        except (IdempotencyMismatch, RunConflict) as error:
            return type(error)
        if key is not None:
            run.signal_keys[key] = (name, value)
        run.signals.append((name, value))
        return None

    def retire(self, owner):
        return self.forget(owner, "death")

    def forget(self, owner, left_by, blames=True):
        if owner in self.leaving and owner in self.owners:
            left_by = "exit"
        self.owners.pop(owner, None)
        held = [run for run in self.runs.values() if run.state.owner == owner]
        for run in held:
            run.state = ownership.release(run.state, left_by)
        if blames and left_by != "exit":
            known = after_death([run.suspicion for run in held], silent=left_by == "silence")
            for run, suspicion in zip(held, known, strict=True):
                run.suspicion = suspicion
        return len(held)

    def expire(self, blames):
        due = [owner for owner, expires_at in self.owners.items() if expires_at < self.now]
        for owner in due:
            self.forget(owner, "silence", blames=blames)
        return due

    def cancels(self, owner):
        return sorted(run.id for run in self.runs.values() if run.state.owner == owner and run.state.cancel_requested)

    def overdue(self):
        return {run.id for run in self.runs.values() if ownership.is_overdue(run.state, self.now)}

    def purge(self):
        due = [run for run in self.runs.values() if run.finished and not run.purged]
        due = [run for run in due if run.finished_at + run.retention_s <= self.now]
        for run in due:
            run.purged, run.entries, run.events, run.signals, run.signal_keys = True, [], [], [], {}
        self.keys = {key: held for key, held in self.keys.items() if held[0] > self.now}
        return len(due)
