"""What is asked of a listing of runs, and what comes of it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from offramp.core.run import RunRecord, Status


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs a listing shows; `tenant` None for every tenant's, `after` that of the page before."""

    tenant: str | None = ""
    session_id: str | None = None
    status: Status | None = None
    pipeline: str | None = None
    after: str | None = None
    limit: int = 20


class Page(NamedTuple):
    """Runs of a listing, newest first; `after` is what the next page goes on after, None where there is none."""

    runs: list[RunRecord]
    after: str | None
