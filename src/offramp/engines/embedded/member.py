"""What a process is in the embedded engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from offramp.core.shares import Tenancy


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """This process among the others: its id, its kind (`gateway`, `worker`, `local`), whether it executes deep runs.

    At most `queue_max` runs may wait, which tenants share by `tenancy`.
    """

    id: str
    kind: str
    works: bool
    lease_s: float
    poll_s: float
    queue_max: int = 10_000
    tenancy: Tenancy = field(default_factory=Tenancy)
