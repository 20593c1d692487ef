"""Reads what documents show of runs, and of their steps: records, event logs and, where asked for, journals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from offramp.core.events import Frame, StepState, fold_steps
from offramp.core.inspection import Showing, step_link
from offramp.core.journal import Entry, as_seen
from offramp.core.names import did_you_mean
from offramp.core.run import RunRecord, document, links
from offramp.core.seed import steps_before
from offramp.core.waits import waits_in
from offramp.errors import RunGone, UnknownStep
from offramp.execution.values import Values
from offramp.paths.deep import log_of
from offramp.ports.store import Store

KEYS_NAMED_MAX = 10
"""Keys that an error names."""


async def document_of(store: Store, record: RunRecord, prefix: str, showing: Showing) -> dict[str, Any]:
    """The document of a run, with its steps and waits from its event log, and the steps that a retry began with."""
    frames = await log_of(store, record.id)
    is_asked = record.retry_of is not None or "steps" in showing.include
    entries = as_seen(await store.journal(record.id)) if is_asked else []
    steps = _steps(record, frames, entries).values()
    waits = [] if record.finished else waits_in(frames).document()
    made = document(record, [step.document() for step in steps], prefix, waits)
    return showing.add_to(made, record, steps, entries) if showing.include else made


def _steps(record: RunRecord, frames: Sequence[Frame], entries: Sequence[Entry]) -> dict[str, StepState]:
    steps = fold_steps([frame.data for frame in frames], finished=record.finished)
    return steps if record.retry_of is None else steps_before(entries) | steps


async def step_of(store: Store, values: Values, record: RunRecord, key: str, prefix: str) -> dict[str, Any]:
    """One step of a run with all that went in and out, whole.

    Raises:
        RunGone: the run's data was removed at the end of its retention.
        UnknownStep: the run has not called such a step.
        ObjectLost: its result was stored as an object that no longer exists.
        ObjectsUnavailable: its result is stored as an object, and cannot be read now.
    """
    require_kept(record)
    entries = as_seen(await store.journal(record.id))
    steps = _steps(record, await log_of(store, record.id), entries)
    step = steps.get(key)
    if step is None:
        named = [each.key for each in steps.values() if each.name == key][:KEYS_NAMED_MAX]
        hint = f"calls of that name have the keys {', '.join(named)}" if named else did_you_mean(key, steps)
        raise UnknownStep(f"{record.id} has no step with the key {key[:200]!r}; {hint}")
    entry = next((each for each in entries if each.key == key), None)
    if entry is not None and entry.value is not None:
        entry = msgspec.structs.replace(entry, value=await values.whole(entry.value))
    link = step_link(links(record.id, prefix)["self"], key)
    return Showing(frozenset({"traceback"}), whole=True).step(step, entry, link)


def require_kept(record: RunRecord) -> None:
    """Refuse a run whose data was removed.

    Raises:
        RunGone: it was.
    """
    if record.purged:
        raise RunGone(f"the input and the steps of {record.id} were removed when its retention ended")
