"""What an adapter gives the suites: how to open it, the capabilities it declares, how its process dies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from offramp.conformance.bodies import ScriptedBodyHost
from offramp.core.limits.spec import ResourceSpec
from offramp.core.reference import Reference
from offramp.core.shares import Tenancy
from offramp.core.sla import SLA
from offramp.ports.blobs import Blobs
from offramp.ports.clock import Clock
from offramp.ports.engine import Engine
from offramp.ports.limits import Limits
from offramp.ports.outbox import Outbox
from offramp.ports.store import Leases, Store

Capability = Literal["shared", "durable", "signals", "purge", "webhooks", "wall", "sharing", "successor"]
"""What an adapter may lack. A declared capability has to work; use of any other has to raise `NotSupported` or
`SettingsError`.

`shared`: several processes at the same data. `durable`: the data outlives its process. `signals`: runs can be sent
signals. `purge`: data past its retention is removed. `webhooks`: an outbox keeps the announcements that are due.
`wall`: a test can set a clock's wall time. `sharing`: an engine continues a run beside its steps in flight; one that
does not declare it has None instead. `successor`: the process that keeps the limits can die, and another takes over.
"""

Capabilities = frozenset[Capability]


class StoreInstance(Protocol):
    """The store as one process has it open."""

    @property
    def store(self) -> Store:
        """Runs, journals, events."""

    @property
    def leases(self) -> Leases:
        """The leases of its runs."""

    @property
    def outbox(self) -> Outbox:
        """The outbox; not used unless `webhooks` is declared."""

    async def close(self) -> None:
        """Leave like a process that stops in order; called last and once, also after `crash`."""


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
        """The only process at this data dies abruptly; another one opens the remaining data.

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
        """Leave like a process that stops in order; what it holds is given back."""

    async def kill(self) -> None:
        """Die: nothing is given back, nothing that was not durable is written. The host is dead already."""

    async def mute(self) -> None:
        """Appear dead to the others while host and store keep running: a process that is suspended or cut off."""


class EngineSite(Protocol):
    """Fresh data and a time of its own, with the processes that join."""

    @property
    def notice_s(self) -> float:
        """Seconds after which another process takes released work without a notification."""

    @property
    def takeover_s(self) -> float:
        """Seconds after which the runs of a silent process have a new owner."""

    @property
    def queue_max(self) -> int:
        """The bound of the queue; at least 10, and low, as a case fills it."""

    @property
    def queue_limits(self) -> Mapping[str, int]:
        """The bound of one class in the queue of every member, lower than a tenant's share of it."""

    @property
    def tenancy(self) -> Tenancy:
        """How tenants share the queue of every member: by half, once a case says that they have keys."""

    def now(self) -> float:
        """Epoch seconds, as the members see them."""

    async def advance(self, seconds: float) -> None:
        """Let time pass, leaving the living processes the chance to renew what they hold."""

    async def join(self, owner: str, host_of: HostOf, *, works: bool = True) -> EngineMember:
        """A process joins; it executes runs only if it `works`.

        The adapter calls `host.lost` for a lease that the store reports as lost.

        Raises:
            NotSupported: there is one already and the adapter does not declare `shared` (or SettingsError).
        """

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
        """The secrets that no message may show."""

    async def open(self) -> Blobs:
        """A process at a place of its own, which is empty."""

    async def reopen(self, blobs: Blobs) -> Blobs:
        """Another process at the same place."""

    async def spoil(self, blobs: Blobs, reference: Reference, data: bytes | None) -> None:
        """Another program overwrites the object with these bytes, or removes it."""

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


class LimitsSite(Protocol):
    """Fresh limits, in real time, and the processes that share them."""

    async def join(self) -> Limits:
        """One more process.

        Raises:
            NotSupported: there is one already and the adapter does not declare `shared`.
        """

    async def kill(self, limits: Limits) -> None:
        """A process dies abruptly."""

    async def crash(self) -> None:
        """The process that keeps the limits dies abruptly.

        Raises:
            NotSupported: the adapter does not declare `successor`.
        """

    async def close(self) -> None:
        """End every process and remove the data."""


class LimitsHarness(Protocol):
    """An adapter of limits under test."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def capabilities(self) -> Capabilities:
        """What the adapter declares."""

    async def meet(self, specs: Sequence[ResourceSpec], classes: Mapping[str, SLA]) -> LimitsSite:
        """A fresh site, where every process declares these resources and classes."""
