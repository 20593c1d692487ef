"""Which classes of queued runs are overdue, by the ids of the runs."""

from __future__ import annotations

from collections.abc import Mapping

from offramp.core.run import first_id
from offramp.core.sla import DEFAULT_CLASS, SLA


def overdue(oldest: Mapping[str, str], classes: Mapping[str, SLA], now: float) -> set[str]:
    """The classes whose oldest queued run was accepted longer than `patience` ago.

    A run counts from its acceptance, as its client does, even if it was not in the queue all the time.

    Args:
        oldest: the id of the oldest queued run, by class.
        classes: by name.
        now: epoch seconds.
    """
    return {sla for sla, run_id in oldest.items() if run_id < overdue_before(classes.get(sla, DEFAULT_CLASS), now)}


def overdue_before(sla: SLA, now: float) -> str:
    """A text that the ids of those runs of a class are below that are overdue, and no others."""
    return first_id(now - sla.patience)
