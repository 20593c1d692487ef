"""Reads a run for its body: by local activities, page by page, with the values that are in the object store."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from offramp.core.journal import Entry
from offramp.core.reference import reference_in
from offramp.engines.temporal.payloads import Begun, Elsewhere, Page, Read, Signals, value_in
from offramp.errors import ObjectLost
from offramp.ports.bodies import Known

BEGIN, JOURNAL, VALUE, SIGNALS = "offramp.begin", "offramp.journal", "offramp.value", "offramp.signals"
RECORD, FINISH, FINISH_LARGE = "offramp.record", "offramp.finish", "offramp.finish_large"
LOCAL_S_MAX = 30.0
"""The timeout of one attempt of a local activity."""
RETRY_SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_interval=timedelta(seconds=5))

T = TypeVar("T")


async def local(name: str, argument: Any, result: type[T], what: str | None = None) -> T:
    """Execute one of our local activities; a list stands for several arguments.

    If `what` is given, a replay has to do the same thing in its place.
    """
    made: T = await workflow.execute_local_activity(
        name,
        args=argument if isinstance(argument, list) else [argument],
        result_type=result,
        activity_id=what,
        start_to_close_timeout=timedelta(seconds=LOCAL_S_MAX),
        retry_policy=RETRY_SOON,
    )
    return made


async def whole(begun: Begun) -> Known:
    """The journal, page by page, and the signals.

    Raises:
        ObjectLost: the result of a finished step is missing in the object store.
    """
    entries, following = list(begun.page.entries), begun.page.following
    while following is not None:
        page = await local(JOURNAL, Read(following), Page)
        entries += page.entries
        following = page.following
    entries = list(await asyncio.gather(*map(with_value, entries)))
    signals = await signals_after(0) if begun.signals else []
    return Known(entries, begun.interrupted, signals, begun.waiting, refused=begun.refused)


async def with_value(entry: Entry, what: str | None = None) -> Entry:
    """An entry with the value that it refers to, read from the object store: history holds the reference alone.

    `what` as in `local`.

    Raises:
        ObjectLost: the object is missing.
    """
    if entry.value is None or reference_in(entry.value) is None:
        return entry
    value = await local(VALUE, Elsewhere(entry.value), RawValue, what)
    return msgspec.structs.replace(entry, value=value_of_step(entry.name, value))


def value_of_step(name: str, value: RawValue) -> bytes:
    """A step's result as JSON.

    Raises:
        ObjectLost: it was in the object store, and is missing.
    """
    try:
        return value_in(value)
    except ObjectLost as error:
        raise ObjectLost(f"the result of step {name!r}: {error}") from error


async def signals_after(count: int) -> list[tuple[str, bytes]]:
    """The signals after the first so many."""
    received: list[tuple[str, bytes]] = []
    while True:
        part = await local(SIGNALS, Read(count + len(received)), Signals)
        received += part.received
        if not part.more:
            return received
