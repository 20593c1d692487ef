"""Run records, journals, event logs and results.

Obligations of every store; `offramp.conformance` proves them and cites them by id:

S1 Writes of one run become visible in the order they were made, none is lost between two that are visible (J1).
S2 A `Commit` resolves only when what it covers, and all that was written before it for that run, is on disk.
S3 A write that carries a lease other than the run's current one is refused with `LeaseLost` and changes nothing (J3);
   `on_lost` is told, before anybody who waits for the write.
S4 Events are numbered from 1 without a gap when they become visible, and never renumbered, whoever writes (E1).
S5 `finish` gives a run its outcome and its terminal event in one; after the terminal event nothing is appended.
S6 A created run exists once per id, and once per tenant and idempotency key.
S7 An event is delivered to listeners only after it is visible to every process; each once, in the order of the log.
S8 `get` gives a record as it was created and as it became; an unknown run is None, without journal, events or signals.
S9 `adopt` puts a leased run on the deep path with its demotion and leaves it leased; repeating it changes nothing.
S10 `events` gives what is numbered above `after`, in order, at least one if there is one and never more than a bounded
   batch; `skip_deltas` leaves out `step.delta` and renumbers nothing.
S11 An idempotency key that comes with another fingerprint is refused with `IdempotencyMismatch`; an expired one is
   free again.
S12 `runs` lists the runs of a tenant, newest first, by every filter and page by page, without large results. A page
   looks at a bounded number of runs: it may hold fewer than fit, and says where the next begins.
S13 `purge` empties the runs whose retention is over, once, and no others; such a run is still known, as `purged`.
   `due` names the runs that it would empty; with `only`, it empties none but those of them. `sweep` removes what
   nothing needs any more after that, and nothing else.
S14 `close` writes what is pending; a write that is asked for afterwards fails with `StoreError`.
S15 `ahead` names, of the runs it is given with the number of the last event that their readers have, those that have
   more, those that have ended and those that are unknown, and no others.
S16 `tally` adds to the counts of a class in a minute, whichever process adds, and is visible when it returns; `tallied`
   sums what was added from a minute on, by class. Counts are kept for `KEPT_MINUTES`. Those of a tenant, and those of
   all together, which have none, are counted apart.
S17 `learn` moves the average of each pipeline that it is given by that one's share, whichever process learns, and is
   visible when it returns; it gives the averages of all pipelines that any process learned.
S18 `trouble` says that writes are refused, or that one takes longer than `write_timeout`, and why; None while they go
   through. It ends by itself, though nothing is asked for meanwhile.
S19 `take_duty` gives a duty to one owner at a time, whichever process asks, until the time that was named with it.
S20 A run that is created with entries has them in its journal from the same moment on, in their order and before any
   other; no claim of it is `fresh`. Creating it again adds none.

An adapter that lacks a capability raises `NotSupported` (or `SettingsError`, where it is put together); it never passes
over a call in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from offramp.core.events import Draft, Frame
from offramp.core.journal import Entry
from offramp.core.ownership import FIRST_TURN
from offramp.core.routing import Observed
from offramp.core.run import Demotion, Outcome, RunRecord
from offramp.core.slo import Counts, Tally
from offramp.ports.commit import Commit
from offramp.ports.listing import Page, RunFilter


class Lease(msgspec.Struct, frozen=True):
    """The right to write one run: `token` grows each time the run changes hands (J3).

    With a `step`, the right to write what belongs to one step of an entrusted run: in the `turn` that `take_step` gave,
    or in `FIRST_TURN`, which needs no taking.
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


Listener = Callable[[list[Batch]], None]


class RunLog(Protocol):
    """The only way to write to one run; bound to a lease, usable from any thread, never blocks on the disk."""

    @property
    def lease(self) -> Lease:
        """The lease that every write carries."""

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Write behind a finished step, an event, or both as one; a `durable` one is on disk when seen (S1, S4)."""

    def durable(self) -> Commit[None]:
        """Resolves when everything appended so far is on disk (S2)."""

    def survived(self) -> None:
        """Write behind that the deaths of the run's processes are forgotten (Q15)."""

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Give the run its outcome and its terminal event, and give the lease back; resolves on disk (S2, S5)."""


class Runs(Protocol):
    """Creating runs, finding them, and writing to them; required."""

    def create(
        self,
        record: RunRecord,
        event: Draft,
        *,
        owner: str | None,
        durable: bool,
        idempotency: Idempotency | None = None,
        entries: Sequence[Entry] = (),
    ) -> tuple[Commit[Created], RunLog | None]:
        """A new run with its first event: queued, or running and leased to `owner`, whose log is returned (S6, S11).

        With `entries`, steps of it are finished already (S20); its record says since when it is `started_at`.

        One that has waited for longer than `write_timeout` is refused with `StoreError` when its turn comes: whoever
        asked for it was told that it is not taken.
        """

    def log(self, lease: Lease) -> RunLog:
        """The log of a run that this process has claimed (S3)."""

    def adopt(self, lease: Lease, demotion: Demotion) -> Commit[None]:
        """Move a leased run to the deep path (D1); resolves on disk. Repeating it changes nothing (S9)."""

    async def get(self, run_id: str, tenant: str | None = None) -> RunRecord | None:
        """The record, as far as it is visible (S8); with a tenant, only if it is that tenant's.

        Another tenant's run takes no more work than an unknown one: neither tells that it exists.
        """

    async def open_runs(self) -> dict[str, int]:
        """How many runs each tenant has queued or running, all that was written here before included (S8)."""

    async def holder(self, tenant: str, key: str, now: float) -> str | None:
        """The run that holds an idempotency key (S6)."""

    async def runs(self, wanted: RunFilter) -> Page:
        """Up to `wanted.limit` records, without results above `RESULT_INLINE_BYTES_MAX` (S12)."""


class Logs(Protocol):
    """What runs have written; required."""

    async def journal(self, run_id: str) -> list[Entry]:
        """The finished steps, in order (S1)."""

    async def events(self, run_id: str, after: int, *, skip_deltas: bool = False) -> list[Frame]:
        """Visible events numbered above `after`, in order: at least one if there is one, never too many (S10)."""

    async def ahead(self, positions: Mapping[str, int]) -> Sequence[str]:
        """Which of these runs a reader at the given position must look at: one look for any number of readers (S15)."""

    async def signals(self, run_id: str) -> list[tuple[str, bytes]]:
        """The signals sent to a run, as name and encoded value, in the order they came (Q8)."""


class Retention(Protocol):
    """A declared capability (`purge`): data past its retention is removed."""

    async def due(self, now: float) -> Sequence[str]:
        """The runs that `purge` would empty, a bounded number of them (S13)."""

    async def purge(self, now: float, only: Sequence[str] | None = None) -> int:
        """Remove journal, events, signals, input and result of runs past their retention (S13).

        Returns how many runs that was; a bounded number, so ask again until it is 0.
        """

    async def sweep(self, now: float) -> int:
        """Remove what is left of purged runs and their own time is over for, and expired idempotency keys (S13).

        Returns how much that was; a bounded amount, so ask again until it is 0.
        """


class Duties(Protocol):
    """Work that one process does for all."""

    async def take_duty(self, duty: str, owner: str, now: float, until: float) -> bool:
        """Take, keep or (until `now`) give back what one process does for all; False where another has it (S19)."""


class Statistics(Protocol):
    """What processes count and learn together."""

    async def tally(self, tallies: Sequence[Tally]) -> None:
        """Add to the counts of runs that kept or broke their class's promise, behind what is pending (S16).

        Raises:
            StoreError: nothing was added.
        """

    async def tallied(self, since: int, tenant: str = "") -> dict[str, Counts]:
        """The counts of a tenant from minute `since` on, by class; of classes that have any (S16)."""

    async def learn(self, observed: Sequence[Observed]) -> dict[str, float]:
        """Move the averages of pipelines (`Observed.moved`); all of them after that, in seconds, by pipeline (S17).

        Raises:
            StoreError: nothing was learned.
        """


class Store(Runs, Logs, Retention, Duties, Statistics, Protocol):
    """A store as one process has it open. See the obligations at the top of this module."""

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every batch that this process made visible, on the store's thread (S7)."""

    def trouble(self) -> str | None:
        """Why writes do not go through now or did not a moment ago, None while they do (S18); asks nobody.

        For anybody to read, so it names no place. From any thread.
        """

    def on_lost(self, callback: Callable[[Lease], object]) -> None:
        """Call back, from any thread, when a write was refused because its lease is gone (S3)."""

    async def close(self) -> None:
        """Write what is pending, then stop (S14)."""


class Owner(msgspec.Struct, frozen=True):
    """A process that may hold leases.

    `port` is where it takes hints (UDP on loopback), 0 for nowhere; `leaving` is whether it was told to stop.
    """

    id: str
    kind: str
    port: int
    ready: bool
    expires_at: float
    started_at: float
    leaving: bool = False


class Claim(NamedTuple):
    """A run that this process now owns; `fresh` when no process has executed any of it before."""

    record: RunRecord
    lease: Lease
    fresh: bool


class Turn(NamedTuple):
    """A turn at a step; `finished` when its entry is in the journal, and then there is nothing left to write."""

    lease: Lease
    finished: bool


class Parked(NamedTuple):
    """A run that only waits: until when, in epoch seconds (`inf` for a signal alone), having seen so many signals."""

    until: float
    signals_seen: int


class Ownership(Protocol):
    """Who may write which run; required. `Q` obligations, with those of `Signals` and `Entrusted`:

    Q1 A run is leased to at most one owner at a time; each claim has a higher token than any before.
    Q2 What an owner held becomes claimable once it is expired or retired, never while its lease runs.
    Q3 `claim` takes queued runs of the named pipelines, at most `limit`, highest priority first, oldest first within
       a priority.
    Q4 A cancel request reaches the owner at its next renewal at the latest and stays with a run that nobody owns; it
       changes nothing of a run that has ended.
    Q5 A parked run is queued when its time or its deadline comes, when it is sent a signal or is to be cancelled, and
       not earlier; neither a signal nor that wish is lost between a look into the mailbox and the parking.
    Q6 An owner is known, with what it said last, until it is expired or retired; renewing it then says that it is not.
    Q7 A released run is free for any owner; a claim is `fresh` only if no process has executed any of the run.
    Q8 A signal is on disk when it was taken; a run's signals are kept as they were sent, in order. None is taken by a
       run that has ended, or would have more than `SIGNALS_MAX` of them or `SIGNALS_BYTES_MAX` in them.
    Q9 `overdue` names the runs that nobody owns, that have not ended and whose deadline has passed, and no others but
       the entrusted ones whose engine let it pass by `ENTRUSTED_GRACE_S`.
    Q10 `claim_one` takes the named run if it is queued or parked, or entrusted and overdue, and nothing else.
    Q11 `queued` counts the runs of each tenant that wait for an owner, however many there are, without looking at each.
    Q12 A signal that is sent again with its key is kept once, and taken though its run has ended since, until that is
       purged; with another name or value its key is refused with `IdempotencyMismatch`. Keys are a run's own.
    Q13 `entrust` takes a run that has not ended from whoever holds it and gives it to `ENGINE`, once; after that every
       process may write with that lease, and what they write becomes one log (S4).
    Q14 `take_step` gives a step of an entrusted run to its newest taker: what an earlier one writes of it is refused,
       as is whatever is written of it after its entry.
    Q15 A run counts a death when its owner is retired or expired that did not say that it leaves, unless `expire` is
       told to blame no run. `survived` sets the count back to 0, in turn with the run's other writes. A run's record
       says how its last owner came to leave it (`left_by`).
    Q16 `claim` gives what `core.claims.choose` chooses of the queue: of the runs with deaths an owner holds at no time
       more than the `company` that any of them may have, for suspects half of those that they died with
       (`core.claims.after_death`). Runs without deaths wait for none of them.
    Q17 `unheard` names the entrusted runs that were sent more signals and wishes to cancel than `heard` was told of.
    """

    async def register(self, owner: Owner) -> None:
        """Make an owner known, or change what is known of it (Q6)."""

    def renew(self, owner: str, expires_at: float) -> tuple[bool, Sequence[str]]:
        """Blocking, for the lease thread: whether the owner is known still; its runs to be cancelled (Q4, Q6)."""

    def expire(self, now: float, *, blames: bool = True) -> Sequence[str]:
        """Blocking, for the lease thread: retire every owner whose lease ran out; returns their ids (Q2).

        Args:
            now: epoch seconds.
            blames: whether its runs count the silence as a death; not where something else may have caused it (Q15).
        """

    async def retire(self, owner: str) -> int:
        """Forget an owner that has ended and queue what it held; returns how many runs that was (Q2, Q15)."""

    async def owners(self) -> Sequence[Owner]:
        """Every known owner (Q6)."""

    async def claim(self, owner: str, limit: int, pipelines: Sequence[str], now: float) -> Sequence[Claim]:
        """Take up to `limit` queued runs of these pipelines (Q1, Q3, Q16)."""

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Give a run back: queued for any owner, or parked, unless a signal came that its owner had not seen (Q5, Q7).

        Raises:
            LeaseLost: another process owns it now (S3).
        """

    async def queued(self) -> dict[str, int]:
        """How many runs of each tenant wait for an owner, all that was written here before included (Q11)."""

    async def overdue(self, now: float) -> Sequence[str]:
        """Runs that nobody owns and whose deadline has passed, a bounded number (Q9)."""

    async def claim_one(self, owner: str, run_id: str, now: float) -> Claim | None:
        """Take this run if it is queued or parked, or its engine does not end it (Q10)."""


class Signals(Protocol):
    """What reaches a run from outside. Signals are a declared capability (`signals`), wishes to cancel are required."""

    async def send_signal(
        self, run_id: str, name: str, value: bytes, at: float, key: str | None = None
    ) -> RunRecord | None:
        """Keep a signal, durably, for a run that has not ended, and queue it if it is parked; its record then (Q5, Q8).

        With a key that one of the run's signals came with, nothing is changed (Q12). One that has waited too long is
        refused, as by `Store.create`.

        Raises:
            RunConflict: the run has ended, or has as many signals as it may.
            IdempotencyMismatch: the key came with another signal.
        """

    async def request_cancel(self, run_id: str) -> RunRecord | None:
        """Note the wish on a run that has not ended; returns its record after that, None if unknown (Q4)."""


class Entrusted(Protocol):
    """Runs that are given to an engine of many processes."""

    async def entrust(self, run_id: str, now: float) -> Claim | None:
        """Give a run to `ENGINE`; None if it has ended or is unknown. `fresh` the first time only (Q13)."""

    async def take_step(self, lease: Lease, step: str) -> Turn:
        """Begin to execute a step, by its journal key, under the lease of an entrusted run (Q14).

        Raises:
            LeaseLost: the run has ended, or was taken from the engine.
        """

    async def unheard(self) -> Sequence[str]:
        """Entrusted runs whose engine is still to be told of a signal or a wish to cancel, a bounded number (Q17)."""

    async def heard(self, run_id: str) -> None:
        """The engine was told of one of them (Q17)."""


class Leases(Ownership, Signals, Entrusted, Protocol):
    """The leases as one process has them open."""

    def leave(self) -> None:
        """Close what the lease thread uses (S14)."""
