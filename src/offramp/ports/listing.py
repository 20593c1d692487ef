"""A listing of runs: its filter and its pages."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from offramp.core.run import Path, RunRecord, Status, first_id, is_run_id

ALL_IDS = ("run_", "run`")
"""Every run's id is at least the first text and less than the second."""


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs a listing shows, in the order of their ids, which is that of their acceptance.

    Attributes:
        tenant: None for every tenant's.
        after: the last run of the page before.
        limit: runs in a page.
        sla: the name of their class.
        since: accepted at this time or later, in epoch seconds, to the millisecond.
        until: accepted before this time.
        q: a part of their id, session or one of the values of their metadata; case counts for letters outside ASCII
            alone. A whole id finds the run with that id alone.
        waiting: only runs that wait, for a signal or a time.
        newest_first: the newest run first, otherwise the oldest.
    """

    tenant: str | None = ""
    session_id: str | None = None
    status: Status | None = None
    pipeline: str | None = None
    after: str | None = None
    limit: int = 20
    sla: str | None = None
    path: Path | None = None
    since: float | None = None
    until: float | None = None
    q: str | None = None
    newest_first: bool = True
    waiting: bool = False

    @property
    def ids(self) -> tuple[str, str]:
        """The range of ids: at least the first text, less than the second."""
        low, high = ALL_IDS
        if self.since is not None:
            low = max(low, first_id(self.since))
        if self.until is not None:
            high = min(high, first_id(self.until))
        if self.q is not None and is_run_id(self.q):
            low, high = max(low, self.q), min(high, _next(self.q))
        if self.after is not None and self.newest_first:
            high = min(high, self.after)
        elif self.after is not None:
            low = max(low, _next(self.after))
        return low, high

    @property
    def part(self) -> str | None:
        """What to look for in ids, sessions and metadata; None if the range of ids says it already."""
        return None if self.q is None or is_run_id(self.q) else folded(self.q)

    def fits(self, record: RunRecord) -> bool:
        """Whether it shows this run: the meaning of the filter, which every store keeps."""
        low, high = self.ids
        asked = {name: getattr(self, name) for name in ("tenant", "session_id", "status", "pipeline", "sla", "path")}
        searched = (record.id, record.session_id or "", *record.metadata.values())
        return (
            low <= record.id < high
            and (record.waits > 0 or not self.waiting)
            and all(value is None or getattr(record, name) == value for name, value in asked.items())
            and (self.part is None or any(self.part in folded(text) for text in searched))
        )


def folded(text: str) -> str:
    """With ASCII letters in lower case, as the `lower` of databases makes it."""
    return text.encode().lower().decode()


def _next(run_id: str) -> str:
    return run_id + "\0"


class Page(NamedTuple):
    """One page of runs, in the order asked for; `after` is the cursor of the next page, None if this is the last."""

    runs: list[RunRecord]
    after: str | None
