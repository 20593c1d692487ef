"""Operations of the writer thread, as data.

`Call` is in `batch.py`, beside the transaction that it receives.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from offramp.core.events import Draft
from offramp.core.journal import Entry
from offramp.core.run import Outcome, RunRecord
from offramp.ports.commit import Commit
from offramp.ports.store import Created, Idempotency, Lease


@dataclass(slots=True, eq=False)
class Create:
    """Insert a run with its first event; leased to `owner` unless that is None. It must not be written late."""

    record: RunRecord
    event: Draft
    owner: str | None
    durable: bool
    idempotency: Idempotency | None
    entries: Sequence[Entry]
    signals: Sequence[tuple[str, bytes]]
    commit: Commit[Created]
    asked_at: float = field(default_factory=time.monotonic)


class Append(msgspec.Struct, eq=False, gc=False):
    """Append to a run's journal, its events, or both."""

    lease: Lease
    entry: Entry | None
    event: Draft | None
    durable: bool
    size: int = 0
    """Bytes that count towards the backlog: only emitted values have any."""


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
