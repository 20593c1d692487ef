"""The run log of an execution whose records another component writes, or none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from offramp.ports.commit import Commit

if TYPE_CHECKING:
    from offramp.core.events import Draft
    from offramp.core.journal import Entry
    from offramp.core.run import Outcome
    from offramp.ports.store import Lease


class Notes:
    """Passes all records to a function."""

    def __init__(self, lease: Lease, record: Callable[[Entry | None, Draft | None], object]) -> None:
        self.lease = lease
        self._record = record

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Pass a record on."""
        self._record(entry, event)

    def durable(self) -> Commit[None]:
        """Resolved: nothing is written here."""
        commit: Commit[None] = Commit()
        commit.resolve()
        return commit

    def survived(self) -> None:
        """Do nothing: deaths are counted where the run is written."""

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Refuse: the run ends where it is written."""
        raise AssertionError("an execution that does not write its run tried to end it")
