"""What drives deep runs.

Obligations of every engine; `offramp.conformance` proves them and cites them by id:

N1 `start` resolves when the run is durable; starting the same id or idempotency key again changes nothing; whatever
   number of processes there is, one executes it.
N2 `adopt` resolves when the engine owns the run and everything its journal holds; adopting again changes nothing.
N3 A step in flight at adoption is executed again only if the process that ran it died (D2).
N4 A finished step is never executed again by recovery, release or drain (D2).
N5 `cancel` makes a run that has no outcome end `cancelled`, and no step of it starts afterwards but to clean up.
N6 What a dead process held goes on elsewhere without anybody asking.
N7 A signal is durable when it is taken, reaches its run once, though it is sent again with its key, in order per name,
   and wakes it if it is parked; a parked run is executed by nobody.
N8 A process that lost a run writes nothing more of it, and its host is told to stop (J3).
N9 A run that nobody executes ends `expired` at its deadline; one that has begun when a process is there that executes
   it, which it may need to clean up, or `ENTRUSTED_GRACE_S` later.
N10 `ready` is true while a process is there that takes runs, and not otherwise.
N11 `start` is refused with `Overloaded`, and changes nothing, while as many runs wait as may. The bound is passed by no
   more than what is started before it is seen to be reached.
N12 Nor does `start` give a tenant more of the queue than its share (`core.shares`), whatever others leave free: it is
   refused with `TenantBusy`, and changes nothing, while the others' runs are taken.
N13 A process is a member while its parts are started. `takes` is true from then on, if the process executes runs, until
   the parts drain; it takes no run afterwards. When the parts are closed, others have what it held (N6).
N14 `retire` releases at once what a dead process held, and says how many runs that was.
N15 After `has_room`, a run that waits and fits is taken at once.
N16 An engine that declares `sharing` executes a shared run beside its steps in flight, which it leaves to the process
   that executes them; what that process writes of them is theirs in the run's journal. Any other engine has None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from offramp.core.events import Draft
from offramp.core.run import Demotion, RunRecord
from offramp.ports.parts import Part
from offramp.ports.store import Claim, Created, Idempotency, Lease, Parked


class Handoff(NamedTuple):
    """A demoted run: its lease, why, and the keys of the steps that go on where they are."""

    lease: Lease
    demotion: Demotion
    in_flight: list[str]


class RunTaker(Protocol):
    """What becomes of a run that was claimed for this process."""

    @property
    def pipelines(self) -> list[str]:
        """The names this process can execute."""

    def free(self) -> int:
        """How many more deep runs fit into this process now."""

    def execute(self, claim: Claim) -> None:
        """Begin to execute a claimed run; returns at once."""


class RunControl(Protocol):
    """How an engine reaches the runs that execute in this process."""

    def cancel(self, run_id: str) -> bool:
        """Cancel a run that is executing here; False if it is not."""

    def notice(self, run_id: str) -> bool:
        """A signal came for a run; False if it is not executing here."""

    def listening(self) -> list[str]:
        """The runs executing here that may be waiting for a signal."""

    def held(self, until: float) -> None:
        """This process holds what it executes until then, on the monotonic clock; past it, no step starts unasked."""

    async def confirm(self) -> None:
        """This process may have lost what it executes: find out which runs, and stop those."""

    def lost(self, lease: Lease) -> None:
        """Stop the execution that holds this lease, as it is gone, without writing anything more (N8).

        An execution of the same run under a newer lease goes on.
        """


class RunHost(RunTaker, RunControl, Protocol):
    """What an engine calls to execute runs in this process; implemented by `paths`."""


class DeepRuns(Protocol):
    """What is asked of an engine for single runs; from any loop."""

    async def start(self, record: RunRecord, accepted: Draft, idempotency: Idempotency | None) -> Created:
        """Take a new run that goes deep at once (N1).

        Raises:
            Overloaded: as many runs wait as may (N11).
            TenantBusy: as many of the tenant's runs wait as may (N12).
        """

    async def adopt(self, handoff: Handoff) -> None:
        """Take over a run from the fast path (N2)."""

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """No step of the run is in flight in this process any more: let a worker take it (N4), or park it (N7)."""

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
        """What this process does for the engine; started, it is a member (N13)."""

    async def ready(self) -> bool:
        """Whether some worker is warm (N10)."""

    def takes(self) -> bool:
        """Whether this process takes runs and may keep them; asks nobody, from any thread (N13)."""

    async def retire(self, owner: str) -> int:
        """Release at once what a process held that is known to be dead (N14); how many runs that was."""

    def has_room(self) -> None:
        """A run ended here: look whether another waits (N15). From any thread."""


class Sharing(Protocol):
    """A declared capability: a demoted run goes on at once, beside its steps in flight, which end in this process."""

    async def share(self, record: RunRecord, in_flight: list[str], detach: Callable[[], bool]) -> Lease | None:
        """Go on with an adopted run (N2, N3, N16).

        Args:
            record: the run.
            in_flight: the keys of its steps in flight.
            detach: called when the run is about to change hands: from then on nothing but what belongs to these steps
                may be written here, and that not before this returns. False if the run has ended instead.

        Returns:
            The lease under which they are written, each in `FIRST_TURN`; `delivered` is called as each of them ends.
            None if the run stays here, and is released when none of them is in flight any more.
        """

    async def delivered(self, run_id: str) -> None:
        """A step that was in flight when its run was shared has ended, and is on disk (N3)."""


class Engine(DeepRuns, Joined, Protocol):
    """See the obligations at the top of this module."""

    @property
    def sharing(self) -> Sharing | None:
        """How it shares runs; None where every run has one process (N16)."""
