"""What a run that retries another one begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from offramp.core.journal import Entry


class Seed(NamedTuple):
    """Records of another run: journal entries, and signals as name and encoded value."""

    entries: Sequence[Entry] = ()
    signals: Sequence[tuple[str, bytes]] = ()


NO_SEED = Seed()
