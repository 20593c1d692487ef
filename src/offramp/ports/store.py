"""Run records, journals, event logs and results.

Obligations of every store (cited by the conformance cases):

S1 Writes of one run become visible in the order they were made, none is lost between two that are visible (J1).
S2 A `Commit` resolves only when what it covers, and all that was written before it for that run, is on disk.
S3 A write that carries a lease other than the run's current one is refused with `LeaseLost` (J3).
S4 Events are numbered from 1 without a gap when they become visible, and never renumbered (E1).
S5 After the terminal event nothing is appended.
S6 A created run exists once per id, and once per tenant and idempotency key.
S7 An event is delivered to readers only after it is visible to every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from offramp.core.events import Draft, Frame
from offramp.core.journal import Entry
from offramp.core.run import Demotion, Outcome, RunRecord, Status
from offramp.errors import RunConflict
from offramp.ports.commit import Commit


class Lease(msgspec.Struct, frozen=True):
    """The right to write one run: `token` grows each time the run changes hands (J3)."""

    run_id: str
    owner: str
    token: int


class Idempotency(msgspec.Struct, frozen=True):
    """A client's Idempotency-Key with a digest of the body it came with."""

    key: str
    fingerprint: str
    expires_at: float


class Created(NamedTuple):
    """`existing` is the id of the run that already holds the idempotency key; None if this one was created."""

    existing: str | None


class Batch(NamedTuple):
    """Events of one run that became visible together; `first` is the number of `frames[0]`."""

    run_id: str
    first: int
    frames: list[bytes]


SIGNALS_MAX = 1_000
"""Signals that one run may be sent."""

Listener = Callable[[list[Batch]], None]


class RunLog(Protocol):
    """The only way to write to one run; bound to a lease, usable from any thread, never blocks on the disk."""

    @property
    def lease(self) -> Lease:
        """The lease that every write carries."""

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Write behind a finished step, an event, or both as one; a `durable` one is on disk when it is seen."""

    def durable(self) -> Commit[None]:
        """Resolves when everything appended so far is on disk."""

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Give the run its outcome and its terminal event, and give the lease back; resolves on disk."""


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs a listing shows; `tenant` None for every tenant's, `after` the last id of the page before."""

    tenant: str | None = ""
    session_id: str | None = None
    status: Status | None = None
    pipeline: str | None = None
    after: str | None = None
    limit: int = 20


def require_open(record: RunRecord, signals: int) -> None:
    """What `send_signal` refuses, the same in every store.

    Raises:
        RunConflict: the run has ended, or has been sent as many signals as it may.
    """
    if record.finished:
        raise RunConflict(f"{record.id} has ended ({record.status}) and takes no signal")
    if signals >= SIGNALS_MAX:
        raise RunConflict(f"{record.id} was sent {SIGNALS_MAX} signals, and takes no more")


class Store(Protocol):
    """See the obligations at the top of this module."""

    def create(
        self,
        record: RunRecord,
        event: Draft,
        *,
        owner: str | None,
        durable: bool,
        idempotency: Idempotency | None = None,
    ) -> tuple[Commit[Created], RunLog | None]:
        """A new run with its first event: queued, or running and leased to `owner`, whose log is returned."""

    def log(self, lease: Lease) -> RunLog:
        """The log of a run that this process has claimed."""

    def adopt(self, lease: Lease, demotion: Demotion) -> Commit[None]:
        """Move a leased run to the deep path (D1); resolves on disk. Repeating it changes nothing."""

    async def get(self, run_id: str, tenant: str | None = None) -> RunRecord | None:
        """The record, as far as it is visible; with a tenant, only if it is that tenant's.

        Another tenant's run takes no more work than an unknown one: neither tells that it exists.
        """

    async def open_runs(self) -> dict[str, int]:
        """How many runs each tenant has queued or running, all that was written here before the call included."""

    async def holder(self, tenant: str, key: str, now: float) -> str | None:
        """The run that holds an idempotency key."""

    async def runs(self, wanted: RunFilter) -> list[RunRecord]:
        """Records, newest first, without results above `RESULT_INLINE_BYTES_MAX`."""

    async def journal(self, run_id: str) -> list[Entry]:
        """The finished steps, in order."""

    async def events(self, run_id: str, after: int, *, skip_deltas: bool = False) -> list[Frame]:
        """Visible events numbered above `after`, in order: at least one if there is one, else a bounded batch."""

    async def signals(self, run_id: str) -> list[tuple[str, bytes]]:
        """The signals sent to a run, as name and encoded value, in the order they came."""

    async def purge(self, now: float) -> int:
        """Remove journal, events, input and result of runs past their retention; returns how many."""

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every batch that this process made visible, on the store's thread."""

    def on_lost(self, callback: Callable[[Lease], object]) -> None:
        """Call back, from any thread, when a write was refused because its lease is gone (S3)."""

    async def close(self) -> None:
        """Write what is pending, then stop."""


class Owner(msgspec.Struct, frozen=True):
    """A process that may hold leases; `port` is where it takes hints (UDP on loopback), 0 for nowhere."""

    id: str
    kind: str
    port: int
    ready: bool
    expires_at: float
    started_at: float


class Claim(NamedTuple):
    """A run that this process now owns; `fresh` when no process has executed any of it before."""

    record: RunRecord
    lease: Lease
    fresh: bool


class Parked(NamedTuple):
    """A run that only waits: until when, in epoch seconds (`inf` for a signal alone), having seen so many signals."""

    until: float
    signals_seen: int


class Leases(Protocol):
    """Who may write which run. `Q` obligations:

    Q1 A run is leased to at most one owner at a time; each claim has a higher token than any before.
    Q2 What an owner held becomes claimable once it is expired or retired, never while its lease runs.
    Q3 A claimed run is one that is queued and due, highest priority first, oldest first within a priority.
    Q4 A cancel request reaches the owner at its next renewal at the latest.
    Q5 A parked run is queued when its time comes, when it is sent a signal, or claimed by id; no signal is lost between
       a look into the mailbox and the parking.
    """

    async def register(self, owner: Owner) -> None:
        """Make an owner known, or change what is known of it."""

    def renew(self, owner: str, expires_at: float) -> tuple[bool, Sequence[str]]:
        """Blocking, for the lease thread: whether the owner is still known, and its runs that are to be cancelled."""

    def expire(self, now: float) -> Sequence[str]:
        """Blocking, for the lease thread: retire every owner whose lease ran out; returns their ids."""

    async def retire(self, owner: str) -> int:
        """Forget an owner and queue what it held; returns how many runs that was."""

    async def owners(self) -> Sequence[Owner]:
        """Every known owner."""

    async def claim(self, owner: str, limit: int, pipelines: Sequence[str], now: float) -> Sequence[Claim]:
        """Take up to `limit` queued runs of these pipelines."""

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Give a run back: queued for any owner, or parked, unless a signal came that its owner had not seen (Q5)."""

    async def send_signal(self, run_id: str, name: str, value: bytes, at: float) -> RunRecord | None:
        """Keep a signal, durably, for a run that is not finished, and queue it if it is parked; its record (Q5).

        Raises:
            RunConflict: the run has ended, or has `SIGNALS_MAX` signals.
        """

    def leave(self) -> None:
        """Close what the lease thread uses."""

    async def queued(self, at_most: int) -> int:
        """How many runs wait for an owner, counted no further than `at_most`."""

    async def overdue(self, now: float) -> Sequence[str]:
        """Runs that nobody owns and whose deadline has passed, a bounded number."""

    async def request_cancel(self, run_id: str) -> RunRecord | None:
        """Note the wish on a run that is not finished; returns its record after that, None if unknown."""

    async def claim_one(self, owner: str, run_id: str, now: float) -> Claim | None:
        """Take this run if it is queued or parked."""
