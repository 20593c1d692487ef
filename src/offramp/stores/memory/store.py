"""Store and leases in memory, for tests and throw-away runs: visible at once, gone with the process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from offramp.core import ownership
from offramp.core.claims import NO_SUSPICION, LeftBy, after_death
from offramp.core.events import Draft, Frame, first_bytes, frame
from offramp.core.journal import Entry
from offramp.core.ownership import ENGINE, StepTurn
from offramp.core.run import Demotion, Outcome, RunHead, RunRecord
from offramp.core.sla import NO_CLASSES, SLA
from offramp.core.stats import Cell
from offramp.core.waits import change_in, kinds_in
from offramp.errors import IdempotencyMismatch, LeaseLost, OfframpError, StoreError
from offramp.ports.commit import Commit
from offramp.ports.learning import BeliefCell, EndedTurn, Learned, SessionTurns
from offramp.ports.listing import Page, RunFilter
from offramp.ports.store import (
    EVENTS_READ_BYTES,
    About,
    Batch,
    Claim,
    Created,
    Idempotency,
    KeyRuns,
    Lease,
    Listener,
    Owner,
    Parked,
    RunLog,
    Turn,
)
from offramp.stores.memory.figures import MemoryCells
from offramp.stores.memory.learned import MemoryLearned
from offramp.stores.memory.outbox import MemoryOutbox
from offramp.stores.memory.queue import MemoryQueue
from offramp.stores.memory.run import MemoryRun, paged


class MemoryStore:
    """The store and the lease port over one dictionary."""

    def __init__(self) -> None:
        self._runs: dict[str, MemoryRun] = {}
        self._queue = MemoryQueue()
        self._owners: dict[str, Owner] = {}
        self._keys: dict[tuple[str, str], tuple[Idempotency, str]] = {}
        self._cells = MemoryCells()
        self._learned = MemoryLearned()
        self._duties: dict[str, tuple[str, float]] = {}
        self._secret: bytes | None = None
        self._closed = False
        self.lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._lost: Callable[[Lease], object] = lambda _lease: None
        self.outbox = MemoryOutbox()

    def change(self, lease: Lease, function: Callable[[MemoryRun], Any], *, reports: bool = False) -> Commit[Any]:
        """Change a run if the lease is current; with `reports`, a lost lease is reported like a refused write (S3)."""
        commit: Commit[Any] = Commit()
        with self.lock:
            run = self._runs.get(lease.run_id)
            value, error = None, self._refusal(lease, run)
            if run is not None and error is None:
                value = function(run)
        if reports and isinstance(error, LeaseLost):
            self._lost(lease)
        commit.resolve(value, error)
        return commit

    def _refusal(self, lease: Lease, run: MemoryRun | None) -> OfframpError | None:
        if self._closed:
            return StoreError("the store is closed")
        if run is None or not run.held(lease):
            return LeaseLost(f"{lease.run_id} is owned by another process now; nothing was written")
        return None

    def write(self, lease: Lease, entry: Entry | None, event: Draft | None) -> None:
        """Append to journal and events."""
        with self.lock:
            run = self._runs.get(lease.run_id)
            error = self._refusal(lease, run)
            if run is not None and error is None and not ownership.may_append(run.turn(lease.step), lease.turn):
                error = LeaseLost(f"another process has taken over step {lease.step} of {lease.run_id}")
            if run is not None and error is None:
                if entry is not None:
                    run.entries.append(entry)
                    if lease.step:
                        run.turns[lease.step] = StepTurn(lease.turn, finished=True)
                if event is not None:
                    self._append(run, event)
        if isinstance(error, LeaseLost):
            self._lost(lease)

    def _append(self, run: MemoryRun, event: Draft) -> None:
        seq = len(run.frames) + 1
        made = Frame(seq, frame(event, run.record.id, seq))
        run.frames.append(made)
        if (change := change_in(event)) is not None:
            run.note_wait(change)
        self.outbox.note(run.record.id, seq, event.type)
        # Under the lock, so that listeners see the order of the log.
        for listener in self._listeners:
            listener([Batch(run.record.id, seq, [made.data])])

    # The store port.

    def create(
        self,
        record: RunRecord,
        event: Draft,
        *,
        owner: str | None,
        durable: bool,
        idempotency: Idempotency | None = None,
        entries: Sequence[Entry] = (),
        signals: Sequence[tuple[str, bytes]] = (),
    ) -> tuple[Commit[Created], RunLog | None]:
        """Create a run with its first event."""
        commit: Commit[Created] = Commit()
        log = None if owner is None else self.log(Lease(record.id, owner, 1))
        if self._closed:
            commit.resolve(error=StoreError("the store is closed"))
            return commit, log
        with self.lock:
            existing = record.id if record.id in self._runs else None
            if idempotency is not None:
                key = (record.tenant, idempotency.key)
                before = self._keys.get(key)
                if before is not None and before[0].expires_at > record.created_at:
                    if before[0].fingerprint != idempotency.fingerprint:
                        commit.resolve(error=IdempotencyMismatch("this Idempotency-Key was used with another request"))
                        return commit, log
                    existing = before[1]
                else:
                    self._keys[key] = (idempotency, record.id)
            if existing is None:
                run = self._runs[record.id] = MemoryRun(msgspec.structs.replace(record), owner, self._queue)
                run.entries += entries
                run.signals += signals
                if (retried := self._runs.get(record.retry_of or "")) is not None:
                    retried.retried(record.id)
                self.outbox.add(record)
                self._append(run, event)
        commit.resolve(Created(existing))
        return commit, log

    def log(self, lease: Lease) -> RunLog:
        """The log of a run that this process holds."""
        return MemoryRunLog(self, lease)

    def adopt(self, lease: Lease, demotion: Demotion) -> Commit[None]:
        """Move a leased run to the deep path."""

        def change(run: MemoryRun) -> None:
            run.record = msgspec.structs.replace(run.record, path="deep", demotion=demotion)

        return self.change(lease, change)

    async def get(self, run_id: str, tenant: str | None = None) -> RunRecord | None:
        """The record."""
        with self.lock:
            run = self._runs.get(run_id)
            if run is None or tenant not in {None, run.record.tenant}:
                return None
            return msgspec.structs.replace(run.record)

    async def open_runs(self) -> dict[str, int]:
        """How many runs each tenant has queued or running."""
        with self.lock:
            return dict(Counter(run.record.tenant for run in self._runs.values() if not run.record.finished))

    async def runs_of_key(self, key: str, after: str, limit: int) -> KeyRuns:
        """The open and the newest runs of an API key."""
        with self.lock:
            found = [run.record for run in self._runs.values() if run.record.api_key == key]
        ids = sorted(record.id for record in found if record.id > after)
        return KeyRuns(sum(not record.finished for record in found), ids[-limit:])

    async def holder(self, tenant: str, key: str, now: float) -> str | None:
        """The run that holds an idempotency key."""
        with self.lock:
            kept = self._keys.get((tenant, key))
        return kept[1] if kept is not None and kept[0].expires_at > now else None

    async def runs(self, wanted: RunFilter) -> Page:
        """A page of records."""
        with self.lock:
            records = [run.record for run in self._runs.values()]
        return paged(records, wanted)

    async def journal(self, run_id: str) -> list[Entry]:
        """The finished steps, in order."""
        with self.lock:
            return list(self._runs[run_id].entries) if run_id in self._runs else []

    async def events(self, run_id: str, after: int, *, skip_deltas: bool = False) -> list[Frame]:
        """Events numbered above `after`."""
        with self.lock:
            frames = self._runs[run_id].frames[after:] if run_id in self._runs else []
        kept = (made for made in frames if not (skip_deltas and made.type == "step.delta"))
        return first_bytes(kept, EVENTS_READ_BYTES)

    async def ahead(self, positions: Mapping[str, int]) -> list[str]:
        """The runs with more events than their readers have, and those that ended or are unknown."""
        with self.lock:
            known = self._runs
            return [run_id for run_id, seq in positions.items() if run_id not in known or known[run_id].beyond(seq)]

    async def signals(self, run_id: str) -> list[tuple[str, bytes]]:
        """The signals sent to a run, in order."""
        with self.lock:
            return list(self._runs[run_id].signals) if run_id in self._runs else []

    async def due(self, now: float) -> list[str]:
        """Runs past their retention."""
        with self.lock:
            return [run.record.id for run in self._due(now)]

    def _due(self, now: float) -> list[MemoryRun]:
        return [run for run in self._runs.values() if run.is_due(now, announces=self.outbox.holds(run.record.id))]

    async def purge(self, now: float, only: Sequence[str] | None = None) -> int:
        """Remove the data of runs past their retention."""
        count = 0
        with self.lock:
            for run in self._due(now):
                if only is not None and run.record.id not in only:
                    continue
                run.empty()
                self.outbox.drop(run.record.id)
                count += 1
        return count

    async def sweep(self, now: float) -> int:
        """Forget expired idempotency keys."""
        with self.lock:
            before = len(self._keys)
            self._keys = {key: kept for key, kept in self._keys.items() if kept[0].expires_at > now}
            return before - len(self._keys)

    async def waiting(self) -> dict[tuple[str, str], int]:
        """How many runs wait, by pipeline and kind of wait."""
        with self.lock:
            records = [run.record for run in self._runs.values()]
        return Counter((record.pipeline, kind) for record in records for kind in kinds_in(record.waits))

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every batch."""
        self._listeners.append(listener)

    def on_lost(self, callback: Callable[[Lease], object]) -> None:
        """Call back when a write is refused because its lease is lost."""
        self._lost = callback

    async def close(self) -> None:
        """Refuse further writes."""
        self._closed = True

    # Shared counts and duties of processes.

    def trouble(self) -> str | None:
        """None: memory accepts every write."""
        return None

    async def add_cells(self, cells: Sequence[Cell]) -> None:
        """Add to the counts of cells."""
        if self._closed:
            raise StoreError("the store is closed")
        with self.lock:
            self._cells.add(cells)

    async def summed_cells(
        self, width: int, first: int, last: int, tenant: str = ""
    ) -> dict[tuple[str, str], dict[str, int]]:
        """The sums of a tenant's cells."""
        with self.lock:
            return self._cells.summed(width, first, last, tenant)

    async def learn(self, cells: Sequence[BeliefCell], turns: Sequence[EndedTurn]) -> None:
        """Add to what is learned."""
        if self._closed:
            raise StoreError("the store is closed")
        with self.lock:
            self._learned.add(cells, turns)

    async def learned(self, after: int, limit: int) -> Learned:
        """What has been learned since."""
        with self.lock:
            return self._learned.changed(after, limit)

    async def forget(self, pipeline: str, sla: str, blocks: Sequence[int]) -> None:
        """Remove blocks of cells."""
        with self.lock:
            self._learned.forget(pipeline, sla, blocks)

    async def turns_of(self, session: str) -> SessionTurns | None:
        """What is known of a session."""
        with self.lock:
            return self._learned.turns_of(session)

    async def unfinished(self, limit: int) -> list[RunHead]:
        """Runs that have not ended."""
        with self.lock:
            return [run.head for run in self._runs.values() if not run.record.finished][:limit]

    async def ids_after(self, run_id: str, limit: int) -> list[str]:
        """The ids of runs above a text."""
        with self.lock:
            return sorted(known for known in self._runs if known > run_id)[:limit]

    async def heads(self, ids: Sequence[str]) -> list[RunHead]:
        """The heads of these runs."""
        with self.lock:
            return [self._runs[run_id].head for run_id in ids if run_id in self._runs]

    async def take_duty(self, duty: str, owner: str, now: float, until: float) -> bool:
        """Take or renew a duty, which one process performs for all."""
        with self.lock:
            holder, held_until = self._duties.get(duty, (owner, now))
            if holder != owner and held_until > now:
                return False
            self._duties[duty] = owner, until
            return True

    async def secret(self, offered: bytes) -> bytes:
        """The secret of this store."""
        with self.lock:
            self._secret = self._secret or offered
            return self._secret

    # The lease port.

    async def register(self, owner: Owner) -> None:
        """Make an owner known."""
        with self.lock:
            before = self._owners.get(owner.id)
            said = owner.about or (before and before.about)
            self._owners[owner.id] = msgspec.structs.replace(owner, about=said)

    async def describe(self, owner: str, about: About) -> None:
        """Set what an owner says about itself."""
        with self.lock:
            if owner in self._owners:
                self._owners[owner] = msgspec.structs.replace(self._owners[owner], about=about)

    def renew(self, owner: str, expires_at: float) -> tuple[bool, Sequence[str]]:
        """Extend a lease; returns the owner's runs with a request to cancel."""
        with self.lock:
            known = self._owners.get(owner)
            if known is not None:
                self._owners[owner] = msgspec.structs.replace(known, expires_at=expires_at)
            mine = [run.record for run in self._runs.values() if run.owner == owner]
            return known is not None, [record.id for record in mine if record.cancel_requested]

    def expire(self, now: float, *, blames: bool = True) -> Sequence[str]:
        """Retire the owners whose lease ran out."""
        with self.lock:
            late = [owner.id for owner in self._owners.values() if owner.expires_at < now]
            for owner_id in late:
                self._forget(owner_id, "silence", blames=blames)
            return late

    def _forget(self, owner: str, left_by: LeftBy, *, blames: bool = True) -> int:
        if (gone := self._owners.pop(owner, None)) is not None and gone.leaving:
            left_by = "exit"
        held = [run for run in self._runs.values() if run.owner == owner]
        known = [run.record.suspicion for run in held]
        if blames and left_by != "exit":
            known = after_death(known, silent=left_by == "silence")
        for run, suspicion in zip(held, known, strict=True):
            run.suspect(suspicion)
            run.move(ownership.release(run.ownership, left_by))
        return len(held)

    async def retire(self, owner: str) -> int:
        """Forget an owner and queue its runs."""
        with self.lock:
            return self._forget(owner, "death")

    async def owners(self) -> Sequence[Owner]:
        """Every known owner."""
        with self.lock:
            return list(self._owners.values())

    async def claim(
        self,
        owner: str,
        limit: int,
        pipelines: Sequence[str],
        now: float,
        classes: Mapping[str, SLA] = NO_CLASSES,
    ) -> Sequence[Claim]:
        """Take up to `limit` queued runs."""
        with self.lock:
            runs = list(self._runs.values())
            for run in runs:
                if run.parked_until is not None:
                    run.move(ownership.unpark(run.ownership, now))
            held = [run.record.suspicion for run in runs if run.owner == owner]
            ids = self._queue.chosen(held, limit, pipelines, classes, now)
            return [claim for run_id in ids if (claim := self._runs[run_id].claim(owner, now)) is not None]

    async def claim_one(self, owner: str, run_id: str, now: float) -> Claim | None:
        """Take this run if it is queued or parked."""
        with self.lock:
            run = self._runs.get(run_id)
            return None if run is None else run.claim(owner, now)

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Give a run back: queued, or parked."""

        def change(run: MemoryRun) -> None:
            if parked is None:
                run.move(ownership.release(run.ownership))
            else:
                seen, sent = parked.signals_seen, len(run.signals)
                run.move(ownership.park(run.ownership, parked.until, seen=seen, sent=sent))

        await self.change(lease, change)

    async def send_signal(
        self, run_id: str, name: str, value: bytes, at: float, key: str | None = None
    ) -> RunRecord | None:
        """Store a signal and wake its run if that is parked."""
        with self.lock:
            run = self._runs.get(run_id)
            if run is None:
                return None
            if key is not None and key in run.signal_keys:
                ownership.require_same(run.signals[run.signal_keys[key]], name, value)
                return msgspec.structs.replace(run.record)
            size = sum(len(kept) for _, kept in run.signals) + len(value)
            run.move(ownership.signal(run.ownership, run_id, len(run.signals), size))
            if key is not None:
                run.signal_keys[key] = len(run.signals)
            run.signals.append((name, value))
            return msgspec.structs.replace(run.record)

    async def queued(self) -> dict[str, int]:
        """How many runs of each tenant are queued."""
        with self.lock:
            return dict(Counter(run.record.tenant for run in self._runs.values() if run.record.status == "queued"))

    async def queued_by_class(self) -> dict[str, int]:
        """How many runs of each class are queued."""
        with self.lock:
            return dict(Counter(run.record.sla for run in self._runs.values() if run.record.status == "queued"))

    async def overdue(self, now: float) -> Sequence[str]:
        """Runs without an owner whose deadline has passed."""
        with self.lock:
            return [run_id for run_id, run in self._runs.items() if ownership.is_overdue(run.ownership, now)]

    async def request_cancel(self, run_id: str) -> RunRecord | None:
        """Record the request on an unfinished run."""
        with self.lock:
            run = self._runs.get(run_id)
            if run is None:
                return None
            run.move(ownership.cancel(run.ownership))
            return msgspec.structs.replace(run.record)

    async def assign_to_engine(self, run_id: str, now: float) -> Claim | None:
        """Give a run to the engine."""
        with self.lock:
            run = self._runs.get(run_id)
            if run is None:
                return None
            return run.give(ownership.assign(run.ownership, now), fresh=run.owner != ENGINE)

    async def take_step(self, lease: Lease, step: str) -> Turn:
        """Begin to execute a step of an assigned run."""

        def change(run: MemoryRun) -> Turn:
            run.turns[step] = turn = ownership.take_turn(run.turn(step))
            return Turn(msgspec.structs.replace(lease, step=step, turn=turn.number), turn.finished)

        return await self.change(lease, change)  # type: ignore[no-any-return]

    async def pending_notices(self) -> Sequence[str]:
        """Assigned runs whose engine has a notice pending."""
        with self.lock:
            return [run.record.id for run in self._runs.values() if run.notices and not run.record.finished]

    async def acknowledge_notice(self, run_id: str) -> None:
        """The engine has received one notice."""
        with self.lock:
            run = self._runs.get(run_id)
            if run is not None:
                run.move(ownership.acknowledge(run.ownership))

    def leave(self) -> None:
        """Nothing to close."""


class MemoryRunLog:
    """Writes of one run; see the port."""

    def __init__(self, store: MemoryStore, lease: Lease) -> None:
        self._store = store
        self.lease = lease

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Write."""
        self._store.write(self.lease, entry, event)

    def durable(self) -> Commit[None]:
        """Resolved at once: no data here survives the process anyway."""
        return self._store.change(self.lease, lambda _run: None, reports=True)

    def survived(self) -> None:
        """Forget the run's deaths."""
        self._store.change(self.lease, lambda run: run.suspect(NO_SUSPICION))

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Write the outcome and the terminal event."""

        def change(run: MemoryRun) -> None:
            run.move(ownership.finish(run.ownership, outcome.status))
            run.record = msgspec.structs.replace(run.record, finished_at=at, result=outcome.result, error=outcome.error)
            run.note_end()

        with self._store.lock:  # a reader of the terminal event finds the outcome
            self._store.write(self.lease, None, event)
            return self._store.change(self.lease, change)
