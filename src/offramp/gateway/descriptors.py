"""How many connections and streams this process can hold: its limit on open files, less those it needs itself.

Past that, requests are refused and probes still answered (`wire/accepting.py`).
"""

from __future__ import annotations

import contextlib
import sys

FILES_RESERVED = 256
"""Open files other than connections: database, sockets, pipes of workers and lanes, webhooks. At most a quarter."""
STREAMS_SHARE_MAX = 0.9
"""The share of connections that may stream; the rest is for short requests."""


def raise_limit() -> None:
    """Let this process open as many files as the system allows; the initial limit is often 1,024."""
    if sys.platform == "win32":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # macOS reports an unlimited hard limit and then refuses it as a soft limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def files_max() -> int | None:
    """How many files this process may have open; None for no limit."""
    return _limit(0)


def files_allowed() -> int | None:
    """How many files it may have open after `raise_limit`; None for no limit."""
    return _limit(1)


def _limit(which: int) -> int | None:
    if sys.platform == "win32":  # Windows has no such limit
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[which]
    return None if limit == resource.RLIM_INFINITY else limit


def connections_max() -> int | None:
    """How many connections may be open; None for no limit."""
    files = files_max()
    return None if files is None else files - min(FILES_RESERVED, files // 4)


def streams_max() -> int | None:
    """How many streams may be open beside other requests; None for no limit."""
    connections = connections_max()
    return None if connections is None else int(connections * STREAMS_SHARE_MAX)
