"""The history of a run from its earlier executions, for the next one. Data alone; `paths/deep.py` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from offramp.core import events
from offramp.core.journal import Entry
from offramp.ports.bodies import Known


class History(NamedTuple):
    """The history of a run from earlier executions; empty for a run that has not begun.

    Attributes:
        entries: the journal.
        interrupted: steps that they began without finishing them, by key.
        signals: received, in order, as (name, encoded value).
        resumed: whether a worker has taken the run up before.
        waiting: the keys of waits that they began without ending them.
        refused: signals that do not fit a wait, as `core.waits.refusal` writes them.
        elsewhere: the keys of steps in flight in another process.
        deaths: how many processes in a row died with the run, see `RunRecord`.
    """

    entries: Sequence[Entry] = ()
    interrupted: Mapping[str, events.StepState] = {}
    signals: Sequence[tuple[str, bytes]] = ()
    resumed: bool = False
    waiting: frozenset[str] = frozenset()
    deaths: int = 0
    elsewhere: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    @property
    def under_way(self) -> list[events.StepState]:
        """The steps that were in flight when the last execution of this run ended."""
        return [step for step in self.interrupted.values() if step.status == "running" and step.starts]


def known_of(history: History) -> Known:
    """The history in the form in which it travels to a body of an engine."""
    return Known(
        list(history.entries),
        dict(history.interrupted),
        list(history.signals),
        sorted(history.waiting),
        sorted(history.elsewhere),
        sorted(history.refused),
    )


def history_of(known: Known) -> History:
    """The same, back from that form."""
    return History(
        known.entries,
        known.interrupted,
        known.signals,
        waiting=frozenset(known.waiting),
        elsewhere=frozenset(known.elsewhere),
        refused=frozenset(known.refused),
    )
