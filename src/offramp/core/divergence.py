"""Describes how a replay differs from its journal: the recorded call and the one that was made. Pure wording."""

from __future__ import annotations

from offramp.core.journal import Entry

OWN = "offramp."
"""Prefix of the names of calls that are not steps."""


def differs(recorded: Entry, what: str, key: str | None = None) -> str:
    """What the pipeline did (`what`, with its `key` if it is a call) where its journal has another entry."""
    made = what if key is None else f"{what} ({key})"
    difference = f"the pipeline {made} where its journal has {_named(recorded)}"
    if key is None or recorded.kind != "step" or key.startswith(OWN):
        return difference
    return f"{difference}: the arguments {'are the same' if _arguments(key) == _arguments(recorded.key) else 'differ'}"


def _named(entry: Entry) -> str:
    what = f"step {entry.name!r}" if entry.kind == "step" else f"{entry.name}()"
    return f"{what} ({entry.key})"


def _arguments(key: str) -> str:
    """Their digest."""
    return key.split(":")[1]
