"""What a retried run begins with: which records of the earlier run it keeps, and in which form. Pure.

The order is the recorded one, in which the body of the earlier run saw its results. A body that replays the beginning
of a journal is where it was when that was recorded, so the beginning of a journal is always a sound seed. Only failures
are taken out of it. What was recorded after the first of them may depend on it: those results are kept at hand, and a
call that asks for one gets it, but no call has to. So a recorded step is never executed again, and a body that takes
another way after a step that now succeeds has not diverged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from offramp.core.ending import CLEANUP, STRUCK
from offramp.core.events import StepState
from offramp.core.journal import BEGUN, DUE, KEPT, TIMER, Entry, digest, parted
from offramp.core.timestamps import rfc3339
from offramp.errors import EffectUnknown, LaneDied, StepKilledProcess, StepTimeout

SIGNAL = "offramp.signal"
"""Name of the entries of signals, and of the times until which they are awaited."""
FIRED = f"{TIMER}:timer:"
"""Begins the key of a timer that ended a block, as of `asyncio.timeout`, and did not end a sleep."""
_UNSURE = {kind.code for kind in (EffectUnknown, LaneDied, StepKilledProcess, StepTimeout)}
"""Codes of failures after which the effect of a step may have happened."""
_KEPT_KINDS = {"step", "value", "emit", "sleep"}


class Seed(NamedTuple):
    """Records of another run: journal entries, and signals as name and encoded value."""

    entries: Sequence[Entry] = ()
    signals: Sequence[tuple[str, bytes]] = ()


NO_SEED = Seed()


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """A step that was begun, and whose effect may have happened: its name, and the attempt."""

    name: str
    attempt: int


def calls_of(entries: Sequence[Entry], steps: Mapping[str, StepState]) -> dict[str, str]:
    """The step calls that a run has made, or the run that it retries: their names by key."""
    recorded = {entry.key: entry.name for entry in entries if entry.kind == "step"}
    return recorded | {step.key: step.name for step in (steps_begun(entries) | dict(steps)).values()}


def seed_of(
    entries: Sequence[Entry],
    signals: Sequence[tuple[str, bytes]],
    steps: Mapping[str, StepState],
    start: str | None = None,
) -> Seed:
    """The seed of a run that retries another.

    Args:
        entries: the journal of the earlier run, in the order in which its body saw it.
        signals: that it was sent.
        steps: its steps according to its event log, by key.
        start: a step's name or key: neither the first result recorded under it, nor any later one, is part of the
            seed. Then only signals that the rest received are.
    """
    head, seen = parted(entries)
    keys = {entry.key for entry in seen}
    beside = [entry for entry in head if entry.key not in keys and entry.name not in {KEPT, BEGUN}]
    ordered = _before([*seen, *beside], start)
    in_order = next((place for place, entry in enumerate(ordered[: len(seen)]) if _is_failure(entry)), len(seen))
    received = {entry.key for entry in ordered[:in_order] if entry.kind == "signal"}
    before: list[Entry] = []
    kept: list[Entry] = []
    struck_at = None
    for place, entry in enumerate(ordered):
        if entry.key == STRUCK:
            struck_at = entry.started_at
        elif entry.failure is not None or not _belongs(entry, received):
            continue
        elif place < in_order:
            before.append(entry)
        elif _may_be_kept(entry, struck_at if place < len(seen) else None):
            kept.append(entry)
    begun = _begun([*seen, *beside], steps, steps_begun(head))
    kept += [
        Entry(f"{BEGUN}:{key}", BEGUN, "value", msgspec.json.encode(step))
        for key, step in begun.items()
        if start not in {key, step.name}
    ]
    if kept:
        kept.insert(0, Entry(KEPT, KEPT, "value", msgspec.json.encode(len(kept))))
    taken = signals if start is None else _received(ordered, signals)
    return Seed([*kept, *before], list(taken))


def _before(entries: list[Entry], start: str | None) -> list[Entry]:
    for place, entry in enumerate(entries):
        if entry.kind == "step" and start in {entry.name, entry.key}:
            return entries[:place]
    return entries


def _is_failure(entry: Entry) -> bool:
    """Whether the run may go another way here: a failure, a timeout, a cancellation."""
    return entry.failure is not None or _is_timeout(entry) or entry.key == STRUCK


def _is_timeout(entry: Entry) -> bool:
    return entry.name == TIMER and entry.key.startswith(FIRED)


def _belongs(entry: Entry, received: set[str]) -> bool:
    """Whether an entry has a meaning in another run: times until which the earlier one waited have none."""
    if entry.name == SIGNAL and entry.kind == "value":
        return entry.key.removesuffix(":due") in received
    return entry.name not in {DUE, CLEANUP} and not _is_timeout(entry)


def _may_be_kept(entry: Entry, struck_at: float | None) -> bool:
    """Whether a result may be kept at hand: not one of a cleanup, which the next cancellation needs again.

    A signal comes from the mailbox instead, where it still is; a timer counts anew.
    """
    if struck_at is not None and (entry.kind != "step" or entry.started_at >= struck_at):
        return False
    return entry.kind in _KEPT_KINDS and entry.name not in {TIMER, SIGNAL}


def _begun(entries: list[Entry], steps: Mapping[str, StepState], before: Mapping[str, StepState]) -> dict[str, Begun]:
    """The steps whose effect may have happened, by key: `before` those that were so when the run began.

    A step that failed after an interruption is one of them: it was not executed, but asked what had happened.
    """
    found = {key: Begun(step.name, step.attempts) for key, step in before.items()}
    found |= {
        key: Begun(step.name, step.attempts)
        for key, step in steps.items()
        if step.interrupted or (step.status == "running" and step.starts)
    }
    for entry in entries:
        if entry.failure is not None and entry.failure.code in _UNSURE:
            found[entry.key] = Begun(entry.name, entry.attempt)
    recorded = {entry.key for entry in entries if entry.kind == "step" and entry.failure is None}
    return {key: begun for key, begun in found.items() if key not in recorded}


def _received(ordered: list[Entry], signals: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The signals that were received, in the order in which they were sent."""
    left = Counter((entry.key.split(":")[1], entry.value) for entry in ordered if entry.kind == "signal")
    taken = []
    for name, value in signals:
        made = digest(msgspec.json.encode(name)), value
        if left[made] > 0:
            left[made] -= 1
            taken.append((name, value))
    return taken


def received_in(entries: Sequence[Entry], name: str) -> int:
    """How many signals of this name a journal has."""
    made = digest(msgspec.json.encode(name))
    return sum(
        entry.kind == "signal" and entry.failure is None and entry.key.split(":")[1] == made for entry in entries
    )


def steps_before(entries: Sequence[Entry]) -> dict[str, StepState]:
    """The finished steps of a journal, by key, as far as it describes them."""
    head, seen = parted(entries)
    return {
        entry.key: StepState(
            entry.name,
            entry.key,
            "completed" if entry.failure is None else "failed",
            entry.attempt,
            rfc3339(entry.started_at),
            entry.duration_ms,
            label=entry.label,
        )
        for entry in (*seen, *head)
        if entry.kind == "step"
    }


def steps_begun(entries: Sequence[Entry]) -> dict[str, StepState]:
    """The steps that only an earlier run began, by key; `starts` is 0, as this run has not."""
    head, _ = parted(entries)
    found = {}
    for entry in head:
        if entry.name == BEGUN:
            key, begun = entry.key.removeprefix(f"{BEGUN}:"), msgspec.json.decode(entry.value or b"", type=Begun)
            found[key] = StepState(begun.name, key, "running", begun.attempt, "", starts=0)
    return found


def results_kept(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The results that a retried run keeps at hand, by key."""
    head, _ = parted(entries)
    return {entry.key: entry for entry in head if entry.name not in {KEPT, BEGUN}}
