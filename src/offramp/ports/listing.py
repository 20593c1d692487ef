"""A listing of runs: its filter and its pages."""

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
    """One page of runs, newest first; `after` is the cursor of the next page, None if this is the last."""

    runs: list[RunRecord]
    after: str | None
