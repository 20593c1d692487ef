"""What drives deep runs.

Obligations of every engine; `offramp.conformance` proves them and cites them by id:

N1 `start` resolves when the run is durable; starting the same id or idempotency key again changes nothing; one process
   executes it, however many there are.
N2 `adopt` resolves when the engine owns the run and everything its journal holds; adopting again changes nothing.
N3 A step in flight at adoption is executed again only if the process that ran it died (D2).
N4 A finished step is never executed again by recovery, release or drain (D2).
N5 `cancel` makes a run that has no outcome end `cancelled`, and no step of it starts afterwards but to clean up.
N6 The runs of a dead process continue in another without a request.
N7 A signal is durable once accepted, reaches its run once even if it is sent again with its key, in order per name,
   and wakes a parked run; no process executes a parked run.
N8 A process that lost a run writes nothing more of it, and the engine calls `lost` of its host (J3).
N9 A run that no process executes ends `expired` at its deadline; a run that has begun ends so once a process can
   execute it, as it may have to clean up, or `ASSIGNED_GRACE_S` later.
N10 `ready` is true while some process takes runs, and false otherwise.
N11 `start` raises `Overloaded`, and changes nothing, while the queue is full, or has as many runs of the class as its
   limit allows. Runs pass the bound only if they are
   started before the process sees that it is reached.
N12 Nor does `start` give a tenant more of the queue than its share (`core.shares`), whatever others leave free: it
   raises `TenantBusy`, and changes nothing, while the others' runs are accepted.
N13 A process is a member while its parts are started. `takes` is true from then on, if the process executes runs, until
   the parts drain; it takes no run afterwards. When the parts are closed, others have its runs (N6).
N14 `retire` releases the runs of a dead process at once, and returns their number.
N15 After `has_room`, a waiting run that fits is taken at once.
N16 An engine that declares `sharing` executes a shared run beside its steps in flight, which it leaves to their
   process; the run's journal takes what that process writes of them. Any other engine has None.
N17 A run that is started with a seed has its entries and signals from the start: no recorded step is executed again.
   While it is queued it has not started.
N18 `backlog` counts the runs that wait for a worker, in all processes, and none of the runs that a worker has taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from offramp.core.events import Draft
from offramp.core.run import Demotion, RunRecord
from offramp.core.seed import NO_SEED, Seed
from offramp.core.sla import SLA
from offramp.ports.parts import Part
from offramp.ports.store import Claim, Created, Idempotency, Lease, Parked


class Handoff(NamedTuple):
    """A demoted run: its lease, the reason, and the keys of the steps that continue in their process."""

    lease: Lease
    demotion: Demotion
    in_flight: list[str]


class RunTaker(Protocol):
    """Takes the runs that are claimed for this process."""

    @property
    def pipelines(self) -> list[str]:
        """The names this process can execute."""

    @property
    def classes(self) -> Mapping[str, SLA]:
        """The classes that it knows, by name."""

    def free(self) -> int:
        """How many more deep runs fit into this process now."""

    def execute(self, claim: Claim) -> None:
        """Begin to execute a claimed run; returns at once."""


class RunControl(Protocol):
    """How an engine reaches the runs that execute in this process."""

    def cancel(self, run_id: str) -> bool:
        """Cancel a run that is executing here; False if it is not."""

    def notice(self, run_id: str) -> bool:
        """A run was sent a signal; False if it is not executing here."""

    def listening(self) -> list[str]:
        """The runs executing here that may be waiting for a signal."""

    def held(self, until: float) -> None:
        """This process's lease runs until then, on the monotonic clock; past it, a step starts only after a check."""

    async def confirm(self) -> None:
        """This process may have lost runs that it executes: find out which, and stop those."""

    def lost(self, lease: Lease) -> None:
        """Stop the execution under this lost lease, without writing anything more (N8).

        An execution of the same run under a newer lease continues.
        """


class RunHost(RunTaker, RunControl, Protocol):
    """What an engine calls to execute runs in this process; implemented by `paths`."""


class DeepRuns(Protocol):
    """An engine's operations on single runs; from any loop."""

    async def start(
        self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None, seed: Seed = NO_SEED
    ) -> Created:
        """Take a new run straight to the deep path (N1), with what another run has recorded (N17).

        Raises:
            Overloaded: the queue is full (N11).
            TenantBusy: the tenant has its share of the queue (N12).
        """

    async def adopt(self, handoff: Handoff) -> None:
        """Take over a run from the fast path (N2)."""

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Queue the run for a worker (N4), or park it (N7): no step of it is in flight in this process any more."""

    async def signal(self, run_id: str, name: str, value: bytes, key: str | None = None) -> RunRecord | None:
        """Send a signal to a run wherever it is (N7); its record, None if it is unknown.

        Raises:
            RunConflict: the run has ended, or takes no more signals.
            IdempotencyMismatch: the key came with another signal.
        """

    async def cancel(self, run_id: str) -> RunRecord | None:
        """Cancel a run wherever it is (N5); its record, None if it is unknown."""


class Joined(Protocol):
    """A process as a member of an engine."""

    @property
    def parts(self) -> Sequence[Part]:
        """The engine's parts in this process; once they are started, it is a member (N13)."""

    async def ready(self) -> bool:
        """Whether some worker is warm (N10)."""

    def takes(self) -> bool:
        """Whether this process takes runs and may keep them; a local check, from any thread (N13)."""

    async def retire(self, owner: str) -> int:
        """Release the runs of a process known to be dead (N14); returns their number."""

    async def backlog(self) -> int:
        """How many runs wait for a worker, and on an engine with queues of its own how many steps (N18).

        Raises:
            StoreError: the runs cannot be counted.
        """

    def has_room(self) -> None:
        """A run ended here: take another if one waits (N15). From any thread."""


class Sharing(Protocol):
    """A declared capability: a demoted run continues at once, beside its steps in flight, which end in this process."""

    async def share(self, record: RunRecord, in_flight: list[str], detach: Callable[[], bool]) -> Lease | None:
        """Continue an adopted run (N2, N3, N16).

        Args:
            record: the run.
            in_flight: the keys of its steps in flight.
            detach: called before the run changes hands: from then on this process may write only what belongs to these
                steps, and not before this returns. False if the run has ended instead.

        Returns:
            The lease under which they are written, each in `FIRST_TURN`; `delivered` is called as each of them ends.
            None if the run stays here, to be released once none of them is in flight.
        """

    async def delivered(self, run_id: str) -> None:
        """A step that was in flight when its run was shared has ended, and is on disk (N3)."""


class Engine(DeepRuns, Joined, Protocol):
    """See the obligations at the top of this module."""

    @property
    def sharing(self) -> Sharing | None:
        """How it shares runs; None where every run has one process (N16)."""
