"""What an execution of a run begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from offramp.core.events import StepState
from offramp.core.journal import Entry


class History(NamedTuple):
    """What earlier executions of a run left.

    Finished steps, steps they began and did not finish, signals received, whether a worker has resumed it before, and
    the keys of waits that they began and did not end.
    """

    entries: Sequence[Entry] = ()
    interrupted: Mapping[str, StepState] = {}
    signals: Sequence[tuple[str, bytes]] = ()
    resumed: bool = False
    waiting: frozenset[str] = frozenset()
