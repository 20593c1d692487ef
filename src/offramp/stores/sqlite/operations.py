"""What can be asked of the writer thread, as data."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from offramp.core.events import Draft
from offramp.core.journal import Entry
from offramp.core.run import Outcome, RunRecord
from offramp.ports.commit import Commit
from offramp.ports.store import Created, Idempotency, Lease

if TYPE_CHECKING:
    from offramp.stores.sqlite.batch import Transaction


@dataclass(slots=True, eq=False)
class Create:
    """Insert a run with its first event; leased to `owner` unless that is None. It is not wanted late."""

    record: RunRecord
    event: Draft
    owner: str | None
    durable: bool
    idempotency: Idempotency | None
    commit: Commit[Created]
    asked_at: float = field(default_factory=time.monotonic)


class Append(msgspec.Struct, eq=False, gc=False):
    """Append to a run's journal, its events, or both."""

    lease: Lease
    entry: Entry | None
    event: Draft | None
    durable: bool
    size: int = 0
    """Bytes that count towards the backlog: those of emitted values."""


@dataclass(slots=True, eq=False)
class Finish:
    """Give a run its outcome and terminal event."""

    lease: Lease
    outcome: Outcome
    event: Draft
    at: float
    commit: Commit[None]


@dataclass(slots=True, eq=False)
class Sync:
    """Resolve once everything before it is on disk; with a lease, only if that still holds."""

    lease: Lease | None
    commit: Commit[None]


@dataclass(slots=True, eq=False)
class Call:
    """Run statements between the others, in order; they may take and give up runs through the transaction.

    `point` names what they write, see `crash_points`; what is not wanted late says when it was `asked_at`, on the
    monotonic clock.
    """

    function: Callable[[sqlite3.Connection, Transaction], Any]
    durable: bool
    commit: Commit[Any]
    point: str = ""
    asked_at: float = math.inf


Operation = Create | Append | Finish | Sync | Call
