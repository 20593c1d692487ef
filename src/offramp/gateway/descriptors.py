"""How many connections and streams fit into this process: its limit on open files, less what it needs for itself.

Past that a client is told so, and probes are answered: see `accepting`.
"""

from __future__ import annotations

import contextlib
import sys

FILES_RESERVED = 256
"""Open files that are no connections: database, sockets, pipes of workers and lanes, webhooks. At most a quarter."""
STREAMS_SHARE_MAX = 0.9
"""Of the connections that fit, those that may stream; the others are for requests that end at once."""


def raise_limit() -> None:
    """Let this process open as many files as the system allows it: the limit that it starts with is often 1,024."""
    if sys.platform == "win32":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # macOS calls a limit unlimited that it then does not let anybody set.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def files_max() -> int | None:
    """Files that this process may have open now; None for any number."""
    return _limit(0)


def files_allowed() -> int | None:
    """Files that `raise_limit` would let it open; None for any number."""
    return _limit(1)


def _limit(which: int) -> int | None:
    if sys.platform == "win32":  # which has no such limit
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[which]
    return None if limit == resource.RLIM_INFINITY else limit


def connections_max() -> int | None:
    """Connections that fit; None for any number."""
    files = files_max()
    return None if files is None else files - min(FILES_RESERVED, files // 4)


def streams_max() -> int | None:
    """Streams that fit beside other requests; None for any number."""
    connections = connections_max()
    return None if connections is None else int(connections * STREAMS_SHARE_MAX)
