"""Run records, journals, event logs and results.

Obligations of every store; `offramp.conformance` proves them and cites them by id:

S1 Writes of one run become visible in the order they were made; none is lost between two that are visible (J1).
S2 A `Commit` resolves only once its write, and all earlier ones of that run, are on disk.
S3 A write under a lease other than the run's current one raises `LeaseLost` and changes nothing (J3). `on_lost` is
   called before any caller that waits for the write learns of it.
S4 Events are numbered from 1 without a gap when they become visible, and never renumbered, by any writer (E1).
S5 `finish` writes the outcome and the terminal event of a run in one; nothing is appended after the terminal event.
S6 A created run exists once per id, and once per tenant and idempotency key.
S7 An event reaches listeners only after it is visible to every process; each once, in the order of the log.
S8 `get` returns the present record; for an unknown run, None, and no journal, events or signals.
S9 `adopt` moves a leased run to the deep path with its demotion and leaves it leased; repeating it changes nothing.
S10 `events` returns the events numbered above `after`, in order: at least one if any exists, and no more once they
   have `EVENTS_READ_BYTES`. `skip_deltas` leaves out `step.delta` and renumbers nothing.
S11 An idempotency key with another fingerprint raises `IdempotencyMismatch`; an expired key is free again.
S12 `runs` lists the runs that fit a filter (`RunFilter.fits`), in its order, page by page, without large results. A
   page considers a bounded number of runs: it may hold fewer than fit, and names the start of the next.
S13 `purge` empties the runs whose retention is over, once, and no others; such a run stays known, as `purged`. `due`
   names the runs that it would empty; with `only`, it empties no other. `sweep` then removes data that nothing needs
   any more, and nothing else.
S14 `close` completes pending writes; a later write fails with `StoreError`.
S15 `ahead` gets runs with the number of the last event that their readers have. It names the runs that have more
   events, have ended or are unknown, and no others.
S16 `add_cells` adds to the counts of cells, and is visible when it returns. `summed_cells` sums those of all processes,
   of one width and tenant, from the first to the last number. Cells are kept for the `KEPT_MINUTES` of their width.
S17 `unfinished` finds the runs that have not ended, all of them if they are no more than asked for.
S18 `trouble` states why writes fail, or that one takes longer than `write_timeout`; None while writes succeed. It ends
   by itself, even if no write is requested meanwhile.
S19 `take_duty` gives a duty to one owner at a time, among all processes, until the time named with it.
S20 A run created with entries has them in its journal from the same moment on, in their order and before any other; no
   claim of it is `fresh`, and the first one of a queued run starts it. Creating it again adds none. Signals that it is
   created with are its first ones.
S21 A run created with `retry_of` is in `retried_as` of that run from the same moment on, after earlier ones, once.
S22 `secret` returns the same bytes to every process of the store, for as long as it keeps runs: those that the first
   caller offered.
S23 `runs` with `waiting` shows the runs with a wait that has begun and not ended according to their events, until they
   end. `waiting` counts them by pipeline and kind of wait; a run that waits for both kinds counts for each.
S24 `ids_after` finds the runs whose ids are above a text, in the order of ids; `heads` finds the given runs, and no
   others, as they are now.
S25 `learn` adds to the weights of cells, and is visible when it returns. `learned` returns the cells that any process
   changed after an `until`, as they are now, in the order of their changes and with none left out between two reads;
   the last `CELLS_KEPT` changed ones of a pipeline and class are kept. `forget` removes the named blocks of one
   pipeline and class.
S26 `learn` counts turns of sessions in the same way, and keeps how long the last `LAST_TURNS` took; the last
   `SESSIONS_KEPT` changed sessions are kept. `learned` returns the changed ones, `turns_of` one of them.
S27 `runs_of_key` counts the runs of an API key that have not ended, and names those that it started within the last
   `WINDOW_S_MAX`, ended or not; with all earlier writes of this process, and without runs of other keys.

An adapter that lacks a capability raises `NotSupported` (or `SettingsError`, where the process is put together); it
never ignores a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from offramp.core.events import Draft, Frame
from offramp.core.journal import Entry
from offramp.core.ownership import FIRST_TURN
from offramp.core.run import Demotion, Outcome, RunHead, RunRecord
from offramp.core.sla import NO_CLASSES, SLA
from offramp.core.stats import Cell
from offramp.ports.commit import Commit
from offramp.ports.learning import Learning
from offramp.ports.listing import Page, RunFilter

EVENTS_READ_BYTES = 64 * 1024
"""Bytes of events after which a read adds no more: a reader that takes nothing holds one batch."""


class Lease(msgspec.Struct, frozen=True):
    """The right to write one run: `token` grows each time the run changes hands (J3).

    With a `step`, the right to write one step of an assigned run: in the `turn` that `take_step` returned, or in
    `FIRST_TURN`, which needs no taking.
    """

    run_id: str
    owner: str
    token: int
    step: str = ""
    turn: int = 0

    def of_step(self, step: str) -> Lease:
        """The right to write one step of this run in its first turn."""
        return Lease(self.run_id, self.owner, self.token, step, FIRST_TURN)


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


class KeyRuns(NamedTuple):
    """The runs of one API key: how many have not ended, and ids of all that it started."""

    open: int
    ids: Sequence[str]


Listener = Callable[[list[Batch]], None]


class RunLog(Protocol):
    """The only way to write to one run; bound to a lease, usable from any thread, never blocks on the disk."""

    @property
    def lease(self) -> Lease:
        """The lease that every write carries."""

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Write a finished step, an event, or both as one in the background; on disk when visible if `durable` (S1)."""

    def durable(self) -> Commit[None]:
        """Resolves when everything appended so far is on disk (S2)."""

    def survived(self) -> None:
        """Forget the deaths of the run's processes, in the background (Q15)."""

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Give the run its outcome and its terminal event, and give the lease back; resolves on disk (S2, S5)."""


class Runs(Protocol):
    """Creates, finds and writes runs; required."""

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
        """A new run with its first event: queued, or running and leased to `owner`, whose log is returned (S6, S11).

        With `entries`, steps of it are finished already (S20); its record then has `started_at`, which is `NOT_TAKEN`
        without an owner. With `signals`, as name and encoded value, it was sent these. A retry is added to the run
        that it retries (S21).

        A creation that has waited for longer than `write_timeout` fails with `StoreError` when its turn comes: its
        caller has already received a refusal.
        """

    def log(self, lease: Lease) -> RunLog:
        """The log of a run that this process has claimed (S3)."""

    def adopt(self, lease: Lease, demotion: Demotion) -> Commit[None]:
        """Move a leased run to the deep path (D1); resolves on disk. Repeating it changes nothing (S9)."""

    async def get(self, run_id: str, tenant: str | None = None) -> RunRecord | None:
        """The record, as far as it is visible (S8); with a tenant, only if it is that tenant's.

        Another tenant's run takes no more work than an unknown one, so timing does not reveal it.
        """

    async def open_runs(self) -> dict[str, int]:
        """How many runs each tenant has queued or running, including all earlier writes of this process (S8)."""

    async def runs_of_key(self, key: str, after: str, limit: int) -> KeyRuns:
        """The runs with this `api_key`: those above `after`, the newest `limit` of them, in order (S27)."""

    async def holder(self, tenant: str, key: str, now: float) -> str | None:
        """The run that holds an idempotency key (S6)."""

    async def runs(self, wanted: RunFilter) -> Page:
        """Up to `wanted.limit` records, without results above `RESULT_INLINE_BYTES_MAX` (S12)."""


class Logs(Protocol):
    """Reads what runs have written; required."""

    async def journal(self, run_id: str) -> list[Entry]:
        """The finished steps, in order (S1)."""

    async def events(self, run_id: str, after: int, *, skip_deltas: bool = False) -> list[Frame]:
        """Visible events numbered above `after`, in order: at least one if there is one, never too many (S10)."""

    async def ahead(self, positions: Mapping[str, int]) -> Sequence[str]:
        """Which of these runs have news for a reader at the given position; one query for all readers (S15)."""

    async def signals(self, run_id: str) -> list[tuple[str, bytes]]:
        """The signals sent to a run, as name and encoded value, in the order they came (Q8)."""


class Retention(Protocol):
    """A declared capability (`purge`): data past its retention is removed."""

    async def due(self, now: float) -> Sequence[str]:
        """The runs that `purge` would empty, a bounded number of them (S13)."""

    async def purge(self, now: float, only: Sequence[str] | None = None) -> int:
        """Remove journal, events, signals, input, result and reasons of runs past their retention (S13).

        Returns the number of runs, which is bounded: call again until it is 0.
        """

    async def sweep(self, now: float) -> int:
        """Remove purged runs past their own time, and expired idempotency keys (S13).

        Returns the number of removals, which is bounded: call again until it is 0.
        """


class Duties(Protocol):
    """Work that one process does for all."""

    async def take_duty(self, duty: str, owner: str, now: float, until: float) -> bool:
        """Take, keep or (until `now`) give back a duty; False if another process has it (S19)."""


class Secrets(Protocol):
    """What the processes of a store sign with, so that each accepts what another one signed."""

    async def secret(self, offered: bytes) -> bytes:
        """The shared secret; `offered`, 32 random bytes, if there is none yet (S22).

        It is read anew each time: an operator replaces it by removing it.
        """


class Statistics(Protocol):
    """What an operator looks at beside single runs: counts in cells that only grow, and heads of runs."""

    async def waiting(self) -> Mapping[tuple[str, str], int]:
        """How many runs of each pipeline wait for a signal, and for a time: by (pipeline, kind of wait) (S23)."""

    async def add_cells(self, cells: Sequence[Cell]) -> None:
        """Add to the counts of cells, after pending writes (S16).

        Raises:
            StoreError: nothing was added.
        """

    async def summed_cells(
        self, width: int, first: int, last: int, tenant: str = ""
    ) -> dict[tuple[str, str], dict[str, int]]:
        """The sums of a tenant's cells of a width, from one number to another, by pipeline and class (S16)."""

    async def unfinished(self, limit: int) -> Sequence[RunHead]:
        """Runs that have not ended, at most `limit`, in any order (S17)."""

    async def ids_after(self, run_id: str, limit: int) -> Sequence[str]:
        """The ids of runs above this text, in their order, at most `limit` (S24)."""

    async def heads(self, ids: Sequence[str]) -> Sequence[RunHead]:
        """The heads of these runs, in any order and without unknown ones (S24)."""


class Store(Runs, Logs, Retention, Duties, Secrets, Statistics, Learning, Protocol):
    """A store as one process has it open. See the obligations at the top of this module."""

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every batch that this process made visible, on the store's thread (S7)."""

    def trouble(self) -> str | None:
        """Why writes fail now or failed a moment ago; None while they succeed (S18). Does no I/O.

        Any caller may read it, so it names no place. From any thread.
        """

    def on_lost(self, callback: Callable[[Lease], object]) -> None:
        """Call back, from any thread, when a write was refused because its lease is gone (S3)."""

    async def close(self) -> None:
        """Complete pending writes, then stop (S14)."""


class About(msgspec.Struct, frozen=True):
    """What a process says about itself.

    Attributes:
        host: the name of its machine.
        pid: its number there.
        version: of Offramp.
        held: the runs that execute in it, by tenant.
        warm_lanes: the processes of its process lane that are ready.
        busy: the places for deep runs that are taken in it; on Temporal, for steps.
        places: how many it has; 0 if it has none, or is of a version that does not say it.
        starting: the workers that it has started and that do not take runs yet; None if it does not scale any.
    """

    host: str
    pid: int
    version: str
    held: dict[str, int] = {}
    warm_lanes: int = 0
    busy: int = 0
    places: int = 0
    starting: int | None = None


class Owner(msgspec.Struct, frozen=True):
    """A process that may hold leases.

    `port` receives hints (UDP on loopback), 0 for none; `leaving` is true once it stops in order. `about` is None until
    the process says it.
    """

    id: str
    kind: str
    port: int
    ready: bool
    expires_at: float
    started_at: float
    leaving: bool = False
    about: About | None = None


class Claim(NamedTuple):
    """A run that this process now owns; `fresh` if no process has executed any of it."""

    record: RunRecord
    lease: Lease
    fresh: bool


class Turn(NamedTuple):
    """A turn at a step; `finished` if its entry is in the journal, so that nothing is left to write."""

    lease: Lease
    finished: bool


class Parked(NamedTuple):
    """A run that only waits: until a time in epoch seconds (`inf` for a signal alone), and how many signals it saw."""

    until: float
    signals_seen: int


class Ownership(Protocol):
    """Leases on runs; required. The `Q` obligations, with those of `Signals` and `AssignedRuns`:

    Q1 A run is leased to at most one owner at a time; each claim has a higher token than any before.
    Q2 An owner's runs become claimable once it is expired or retired, never while its lease runs.
    Q3 `claim` takes queued runs of the named pipelines, at most `limit`, highest priority first. Runs of one priority
       and tenant are taken in the order of their acceptance, wherever they were since.
    Q4 A cancel request reaches the owner at its next renewal at the latest, and stays with a run that has no owner; it
       changes nothing of a run that has ended.
    Q5 A parked run is queued when its time or its deadline comes, when it gets a signal or a cancel request, and not
       earlier; neither a signal nor a request is lost between a read of the mailbox and the parking.
    Q6 An owner is known, with its latest registration, until it is expired or retired; after that, renewing fails.
    Q7 A released run is free for any owner; a claim is `fresh` only if no process has executed any of the run.
    Q8 An accepted signal is on disk; a run's signals keep their order and values. A run that has ended accepts none,
       nor one past `SIGNALS_MAX` signals or `SIGNALS_BYTES_MAX` bytes of them.
    Q9 `overdue` names the runs without an owner that have not ended and whose deadline has passed, and assigned runs
       whose engine is late by `ASSIGNED_GRACE_S`; no others.
    Q10 `claim_one` takes the named run if it is queued or parked, or assigned and overdue, and nothing else.
    Q11 `queued` counts the runs of each tenant that wait for an owner, at a cost that does not grow with their number.
    Q12 A signal sent again with its key is stored once, and accepted even if its run has ended since, until the run is
       purged; its key with another name or value raises `IdempotencyMismatch`. Keys belong to a run.
    Q13 `assign_to_engine` takes a run that has not ended from its owner and gives it to `ENGINE`, once; after that
       every process may write under that lease, and their writes become one log (S4).
    Q14 `take_step` gives a step of an assigned run to its newest taker: writes of an earlier taker are refused, and so
       is any write of the step after its entry.
    Q15 A run counts a death when its owner is expired or retired without having announced that it leaves, unless
       `expire` blames no run. `survived` resets the count to 0, in turn with the run's other writes. A run's record
       shows how its last owner left it (`left_by`).
    Q16 `claim` takes the runs that `core.claims.choose` chooses from the queue: an owner never holds more runs with
       deaths than the `company` of any of them, which for suspects is half of the runs they died with
       (`core.claims.after_death`). Runs without deaths wait for none of them.
    Q17 `pending_notices` names the assigned runs with signals and cancel requests that were not acknowledged by
       `acknowledge_notice`.
    Q18 `describe` sets what a known owner says about itself, which stays when it registers again without it, and is
       forgotten with the owner. Of an owner that is not known, nothing is set.
    Q19 `claim` is fair between the tenants of a priority, over all claims of all processes, and gives a class whose
       oldest run was accepted more than `patience` ago its `share` of what it takes (`core.claims.choose`). What it
       reads does not grow with the number of queued runs, nor with that of tenants.
    Q20 `queued_by_class` counts the same runs as `queued`, by class, at such a cost.
    """

    async def register(self, owner: Owner) -> None:
        """Register an owner, or update its registration (Q6)."""

    def renew(self, owner: str, expires_at: float) -> tuple[bool, Sequence[str]]:
        """Blocking, for the lease thread: whether the owner is still known; its runs to be cancelled (Q4, Q6)."""

    def expire(self, now: float, *, blames: bool = True) -> Sequence[str]:
        """Blocking, for the lease thread: retire every owner whose lease ran out; returns their ids (Q2).

        Args:
            now: epoch seconds.
            blames: whether its runs count the silence as a death; false if it may have another cause (Q15).
        """

    async def retire(self, owner: str) -> int:
        """Forget an owner that has ended and queue its runs; returns their number (Q2, Q15)."""

    async def owners(self) -> Sequence[Owner]:
        """Every known owner (Q6)."""

    async def describe(self, owner: str, about: About) -> None:
        """Set what a process says about itself (Q18)."""

    async def claim(
        self,
        owner: str,
        limit: int,
        pipelines: Sequence[str],
        now: float,
        classes: Mapping[str, SLA] = NO_CLASSES,
    ) -> Sequence[Claim]:
        """Take up to `limit` queued runs of these pipelines (Q1, Q3, Q16, Q19); other classes have defaults."""

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Give a run back: queued for any owner, or parked unless its owner has missed a signal (Q5, Q7).

        Raises:
            LeaseLost: another process owns it now (S3).
        """

    async def queued(self) -> dict[str, int]:
        """How many runs of each tenant wait for an owner, including all earlier writes of this process (Q11)."""

    async def queued_by_class(self) -> dict[str, int]:
        """How many runs of each class wait for an owner, including all earlier writes of this process (Q20)."""

    async def overdue(self, now: float) -> Sequence[str]:
        """Runs without an owner whose deadline has passed, a bounded number (Q9)."""

    async def claim_one(self, owner: str, run_id: str, now: float) -> Claim | None:
        """Take this run if it is queued or parked, or its engine does not end it (Q10)."""


class Signals(Protocol):
    """Messages to a run. Signals are a declared capability (`signals`), cancel requests are required."""

    async def send_signal(
        self, run_id: str, name: str, value: bytes, at: float, key: str | None = None
    ) -> RunRecord | None:
        """Store a signal, durably, for a run that has not ended, and queue a parked run; returns its record (Q5, Q8).

        With the key of one of the run's signals, nothing changes (Q12). A signal that has waited too long fails, as in
        `Runs.create`.

        Raises:
            RunConflict: the run has ended, or accepts no more signals.
            IdempotencyMismatch: the key came with another signal.
        """

    async def request_cancel(self, run_id: str) -> RunRecord | None:
        """Record the request on a run that has not ended; returns its record, None if unknown (Q4)."""


class AssignedRuns(Protocol):
    """Runs of an engine that spans processes."""

    async def assign_to_engine(self, run_id: str, now: float) -> Claim | None:
        """Give a run to `ENGINE`; None if it has ended or is unknown. `fresh` the first time only (Q13)."""

    async def take_step(self, lease: Lease, step: str) -> Turn:
        """Begin to execute a step, by its journal key, under the lease of an assigned run (Q14).

        Raises:
            LeaseLost: the run has ended, or was taken from the engine.
        """

    async def pending_notices(self) -> Sequence[str]:
        """Assigned runs whose engine has not acknowledged a signal or cancel request, a bounded number (Q17)."""

    async def acknowledge_notice(self, run_id: str) -> None:
        """The engine knows of one of them (Q17)."""


class Leases(Ownership, Signals, AssignedRuns, Protocol):
    """The leases as one process has them open."""

    def leave(self) -> None:
        """Close the resources of the lease thread (S14)."""
