"""Ends of a run that come from outside, cancellation and deadline, and how its journal records them.

Pure: what to write; `execution/ending.py` decides when.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from offramp.core.failure import failure_of
from offramp.core.journal import Entry
from offramp.core.run import Outcome
from offramp.core.timestamps import rfc3339
from offramp.errors import RunCancelled, RunExpired

EndedBy = Literal["cancelled", "expired"]

STRUCK = "offramp.struck"
"""Key and name of the entry that marks where in a run its cancellation or deadline reached its body."""
CLEANUP = "offramp.cleanup"
"""Name of the entries that state until when a run may clean up."""
CLEANUP_S_MAX = 60.0
"""The limit of all cleanups of a run together, counted from when its cancellation or deadline reached its body."""


def ended_by(status: EndedBy, deadline_at: float | None) -> Outcome:
    """The outcome of a run that was cancelled, or reached its deadline (in epoch seconds)."""
    if status == "cancelled":
        return Outcome(status, error=failure_of(RunCancelled("the run was cancelled")))
    text = f"the run did not end by its deadline {rfc3339(deadline_at or 0.0)}"
    return Outcome(status, error=failure_of(RunExpired(text)))


def struck(status: EndedBy, at: float) -> Entry:
    """The entry of a run that ends so; `at` in epoch seconds."""
    return Entry(STRUCK, STRUCK, "value", msgspec.json.encode(status), started_at=at)


def struck_by(entry: Entry) -> EndedBy:
    """The outcome in such an entry."""
    status: EndedBy = msgspec.json.decode(entry.value or b"null", type=EndedBy)
    return status
