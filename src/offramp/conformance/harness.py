"""What an adapter hands to the suites: how it is opened, what it claims to be able to do, how its process dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from offramp.conformance.bodies import ScriptedBodyHost
from offramp.core.reference import Reference
from offramp.core.shares import Tenancy
from offramp.ports.blobs import Blobs
from offramp.ports.clock import Clock
from offramp.ports.engine import Engine
from offramp.ports.outbox import Outbox
from offramp.ports.store import Leases, Store

Capability = Literal["shared", "durable", "signals", "purge", "webhooks", "wall"]
"""What an adapter may lack. A declared capability has to work; one that is not declared has to be refused with
`NotSupported` or `SettingsError`.

`shared`: several processes at the same data. `durable`: the data outlives its process. `signals`: runs can be sent
signals. `purge`: data past its retention is removed. `webhooks`: an outbox keeps what is still to be announced of runs.
`wall`: a clock's wall time can be set by a test.
"""

Capabilities = frozenset[Capability]


class StoreInstance(Protocol):
    """The store as one process has it open."""

    @property
    def store(self) -> Store:
        """Runs, journals, events."""

    @property
    def leases(self) -> Leases:
        """Who may write them."""

    @property
    def outbox(self) -> Outbox:
        """What is still to be announced; not asked for where `webhooks` is not declared."""

    async def close(self) -> None:
        """Leave as a process does that stops; called last and once, also after `crash`."""


class StoreHarness(Protocol):
    """A store adapter under test."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def capabilities(self) -> Capabilities:
        """What the adapter declares."""

    async def open(self) -> StoreInstance:
        """A process at fresh, empty data of its own."""

    async def reopen(self, instance: StoreInstance) -> StoreInstance:
        """Another process at the same data.

        Raises:
            NotSupported: the adapter does not declare `shared` (or SettingsError).
        """

    async def crash(self, instance: StoreInstance) -> StoreInstance:
        """The only process at this data dies now, without a last word; another one opens what is left.

        Raises:
            NotSupported: the adapter does not declare `durable` (or SettingsError).
        """


HostOf = Callable[[Store], ScriptedBodyHost]


class EngineMember(Protocol):
    """One process that runs the engine."""

    @property
    def engine(self) -> Engine:
        """Open and, if it works, taking runs."""

    @property
    def store(self) -> Store:
        """The store as this process has it."""

    async def stop(self) -> None:
        """Leave as a process does that stops; what it holds is given back."""

    async def kill(self) -> None:
        """Die: nothing is given back, nothing that was not durable is written. The host is dead already."""

    async def mute(self) -> None:
        """Be taken for dead by the others, while host and store go on: a process that is stopped, or cut off."""


class EngineSite(Protocol):
    """Fresh data and a time of its own, with the processes that join."""

    @property
    def notice_s(self) -> float:
        """Seconds after which work that was given up is taken by another process, should nobody have told it."""

    @property
    def takeover_s(self) -> float:
        """Seconds after which what a silent process held has gone elsewhere."""

    @property
    def queue_max(self) -> int:
        """Runs that may wait; at least 10, and few, as a case fills the queue."""

    @property
    def tenancy(self) -> Tenancy:
        """How tenants share the queue of every member: by half, once a case says that they have keys."""

    def now(self) -> float:
        """Epoch seconds, as the members see them."""

    async def advance(self, seconds: float) -> None:
        """Let time pass, leaving the living processes the chance to renew what they hold."""

    async def join(self, owner: str, host_of: HostOf, *, works: bool = True) -> EngineMember:
        """A process joins; it executes runs only if it `works`.

        The adapter calls `host.lost` for a lease that the store reports as lost, and has `host.ended` tell the engine
        that there is room.

        Raises:
            NotSupported: there is one already and the adapter does not declare `shared` (or SettingsError).
        """

    async def bury(self, dead: str, by: EngineMember) -> None:
        """A supervisor tells `by` that this process is dead; not needed by an engine that finds out at once."""

    async def close(self) -> None:
        """End every process and remove the data."""


class EngineHarness(Protocol):
    """An engine adapter under test."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def capabilities(self) -> Capabilities:
        """What the adapter declares."""

    async def open(self) -> EngineSite:
        """A fresh site."""


class BlobsHarness(Protocol):
    """A place for objects under test."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def capabilities(self) -> Capabilities:
        """None are known."""

    @property
    def secrets(self) -> Sequence[str]:
        """What no message may say."""

    async def open(self) -> Blobs:
        """A process at a place of its own, which is empty."""

    async def reopen(self, blobs: Blobs) -> Blobs:
        """Another process at the same place."""

    async def spoil(self, blobs: Blobs, reference: Reference, data: bytes | None) -> None:
        """Somebody else overwrites the object with these bytes, or removes it."""

    async def cut_off(self, blobs: Blobs) -> None:
        """From now on the place cannot be reached from anywhere."""

    async def close(self, blobs: Blobs) -> None:
        """Called last and once for the first process, after what `reopen` gave was closed; removes the place."""


class ClockHarness(Protocol):
    """A clock under test."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def capabilities(self) -> Capabilities:
        """What the clock declares: `wall`, or nothing."""

    def make(self) -> Clock:
        """A clock of a case's own."""

    async def let_pass(self, clock: Clock, seconds: float) -> None:
        """Let time pass for this clock."""

    def set_wall(self, clock: Clock, epoch: float) -> None:
        """Let its wall time jump to this many seconds since the epoch.

        Raises:
            NotSupported: `wall` is not declared.
        """
