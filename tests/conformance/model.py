"""What a store with its leases is, without disk, threads or processes: what the real ones are held against."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from offramp.core.claims import NO_SUSPICION, Head, Suspicion, after_death, choose
from offramp.errors import IdempotencyMismatch, RunConflict

OUTCOMES = {"completed", "cancelled"}


@dataclass
class ModelRun:
    """One run, as every process has to see it."""

    id: str
    priority: int
    deadline_at: float | None
    retention_s: float
    status: str
    owner: str | None
    token: int = 1
    started: bool = True
    path: str = "fast"
    demoted: bool = False
    cancel: bool = False
    suspicion: Suspicion = NO_SUSPICION
    tenant: str = ""
    purged: bool = False
    finished_at: float | None = None
    parked_until: float | None = None
    entries: list = field(default_factory=list)
    events: list = field(default_factory=lambda: ["run.accepted"])
    signals: list = field(default_factory=list)
    signal_keys: dict = field(default_factory=dict)

    @property
    def finished(self):
        return self.status in OUTCOMES

    def queue(self):
        self.status, self.owner, self.parked_until = "queued", None, None

    def holds(self, lease):
        return (self.owner, self.token) == (lease.owner, lease.token)


class Model:
    """Runs, owners and idempotency keys under a clock."""

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
        run.status, run.owner, run.finished_at = status, None, self.now
        run.events.append(f"run.{status}")

    def due(self, owner, limit):
        """The runs that a claim takes, in order."""
        for run in self.runs.values():
            if run.parked_until is not None and run.parked_until <= self.now:
                run.queue()
        heads = [Head(run.id, run.priority, run.suspicion) for run in self.runs.values() if run.status == "queued"]
        held = [run.suspicion for run in self.runs.values() if run.owner == owner]
        return [self.runs[run_id] for run_id in choose(heads, held, limit)]

    def take(self, run, owner):
        """Whether the claim is a fresh one."""
        fresh, run.started = not run.started, True
        run.status, run.path, run.owner, run.parked_until = "running", "deep", owner, None
        run.token += 1
        return fresh

    def release(self, lease, until, seen):
        run = self.runs[lease.run_id]
        run.queue()
        if until is not None and seen == len(run.signals) and not run.cancel:
            run.status, run.parked_until = "running", min(until, run.deadline_at or math.inf)

    def signal(self, run, name, value, key):
        """What becomes of it: an error, or None."""
        known = run.signal_keys.get(key)
        if known is not None:
            return None if known == (name, value) else IdempotencyMismatch
        if run.finished:
            return RunConflict
        if key is not None:
            run.signal_keys[key] = (name, value)
        run.signals.append((name, value))
        if run.parked_until is not None:
            run.queue()
        return None

    def cancel(self, run):
        run.cancel = run.cancel or not run.finished
        if run.parked_until is not None:
            run.queue()

    def retire(self, owner):
        return self.forget(owner)

    def forget(self, owner, blames=True, silent=False):
        died = blames and not (owner in self.leaving and owner in self.owners)
        self.owners.pop(owner, None)
        held = [run for run in self.runs.values() if run.owner == owner]
        known = after_death([run.suspicion for run in held], silent=silent) if died else ()
        for run in held:
            run.queue()
        for run, suspicion in zip(held, known, strict=False):
            run.suspicion = suspicion
        return len(held)

    def expire(self, blames):
        due = [owner for owner, expires_at in self.owners.items() if expires_at < self.now]
        for owner in due:
            self.forget(owner, blames=blames, silent=True)
        return due

    def cancels(self, owner):
        return sorted(run.id for run in self.runs.values() if run.owner == owner and run.cancel)

    def overdue(self):
        free = [run for run in self.runs.values() if run.owner is None and not run.finished]
        return {run.id for run in free if run.deadline_at is not None and run.deadline_at <= self.now}

    def purge(self):
        due = [run for run in self.runs.values() if run.finished and not run.purged]
        due = [run for run in due if run.finished_at + run.retention_s <= self.now]
        for run in due:
            run.purged, run.entries, run.events, run.signals, run.signal_keys = True, [], [], [], {}
        self.keys = {key: held for key, held in self.keys.items() if held[0] > self.now}
        return len(due)
