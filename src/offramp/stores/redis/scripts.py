"""The Lua scripts: assembled from their files, loaded once, and called by their digest."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError

from offramp.core.claims import CLASSES_SPARE, HEADS_MAX, SUSPECT_DEATHS, UNBOUNDED
from offramp.core.order import SPARE
from offramp.core.ownership import ASSIGNED_GRACE_S, ENGINE, FIRST_TURN
from offramp.core.rates import WINDOW_S_MAX

CHECKED_MAX = 100
"""Open runs of an API key that each count checks for having ended."""
LINES_MAX = 600
"""Lines that one claim sees in order of their turns, and of all overdue classes by their oldest runs."""
MENDED_MAX = 250
"""Runs that one claim compares with their lines, after a process of an older version has changed the queue."""

_CONSTANTS = (
    f"local ENGINE, GRACE_S, FIRST_TURN = '{ENGINE}', {ASSIGNED_GRACE_S:g}, {FIRST_TURN}\n"
    f"local SUSPECT, UNBOUNDED, HEADS_MAX = {SUSPECT_DEATHS}, {UNBOUNDED}, {HEADS_MAX}\n"
    f"local WINDOW_S_MAX, CHECKED_MAX = {WINDOW_S_MAX}, {CHECKED_MAX}\n"
    f"local TAGS_SPARE, CLASSES_SPARE = {SPARE}, {CLASSES_SPARE}\n"
    f"local LINES_MAX, MENDED_MAX = {LINES_MAX}, {MENDED_MAX}\n"
)
"""Constants from the tables of core/; the scripts define none of their own."""
_READS, _FREES = "no-writes", "allow-oom"
"""Flags of a script that only reads, and of one that may write while memory is full: it frees some or renews leases."""


class Script:
    """One script.

    Args:
        parts: names of its files, in order.
        flags: of `#!lua flags=`; without any, the server refuses the script while memory is full.
    """

    def __init__(self, *parts: str, flags: str = "") -> None:
        folder = files(__package__)
        source = "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
        self.source = ("#!lua flags=" + flags if flags else "#!lua") + "\n" + _CONSTANTS + source
        self._digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: redis.Redis, keys: list[str], *args: Any) -> Any:
        """Call it; loads it again if the server no longer knows it.

        Raises:
            RedisError: the server refused it, or did not answer.
        """
        try:
            return client.evalsha(self._digest, len(keys), *keys, *args)
        except NoScriptError:
            return client.eval(self.source, len(keys), *keys, *args)


APPLY = Script("record", "run", "claim", "outbox", "apply")
GET = Script("record", "get", flags=_READS)
LIST = Script("record", "list", flags=_READS)
EVENTS = Script("events", flags=_READS)
AHEAD = Script("ahead", flags=_READS)
HEADS = Script("heads", flags=_READS)
LEARNED = Script("learned", flags=_READS)
OWNERS = Script("owners", flags=_READS)
QUEUED = Script("queued", flags=_FREES)
KEY = Script("key", flags=_FREES)
RENEW = Script("renew", flags=_FREES)
EXPIRE = Script("run", "expire", flags=_FREES)
PURGE = Script("run", "outbox", "purge", flags=_FREES)
SWEEP = Script("run", "sweep", flags=_FREES)
DUTY = Script("duty", flags=_FREES)
