"""How a replay that differs from its journal is told: the recorded call and the one that was made. Pure wording."""

from __future__ import annotations

from offramp.core.journal import Entry


def differs(recorded: Entry, what: str, key: str | None = None) -> str:
    """What the pipeline did (`what`, with its `key` if it is a call) where its journal has another entry."""
    made = what if key is None else f"{what} ({key})"
    return f"the pipeline {made} where its journal has {named(recorded)}{_compared(recorded.key, key)}"


def named(entry: Entry) -> str:
    """An entry as its author knows it, with its key."""
    what = f"step {entry.name!r}" if entry.kind == "step" else f"{entry.name}()"
    return f"{what} ({entry.key})"


def _compared(recorded: str, made: str | None) -> str:
    """Whether two calls of one name differ by their arguments."""
    if made is None:
        return ""
    (name, digest, *_), (other_name, other_digest, *_) = recorded.split(":"), made.split(":")
    if name != other_name:
        return ""
    return ": the arguments differ" if digest != other_digest else ": the arguments are the same"
