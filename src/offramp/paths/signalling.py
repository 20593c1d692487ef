"""Whether a signal answers what its run asks."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec

from offramp.core.fitting import Problem, problems_of
from offramp.core.question import misfit
from offramp.core.run import RunRecord
from offramp.core.seed import received_in
from offramp.core.waits import OpenWait, waits_in
from offramp.errors import InputError
from offramp.paths.deep import log_of
from offramp.ports.store import Store


class Sent(NamedTuple):
    """A signal that a run has: its record, and whether a wait takes the signal; without one, the run keeps it."""

    record: RunRecord
    awaited: bool


async def is_awaited(store: Store, record: RunRecord, name: str, value: bytes, *, keyed: bool) -> bool:
    """Whether one of the run's waits will take this signal; `keyed` if it may be a repeated one.

    Raises:
        InputError: the run waits for a signal of this name, and the value fits none of these waits.
    """
    if record.finished:
        return False
    waits = waits_in(await log_of(store, record.id))
    named = waits.named(name)
    if not named:
        return False
    # Not on the loop: a check may take some 10 ms, and there may be many waits.
    misfits = await asyncio.to_thread(lambda: [_problems(wait, value) for wait in named])
    before = [given for sent, given in await store.signals(record.id) if sent == name]
    if all(misfits):
        if keyed and value in before:
            return False  # the store decides whether it is the same signal
        problems = min(misfits, key=len)
        raise InputError(misfit(name, problems), problems)
    others = [given for given in before if not (keyed and given == value)]
    taken = waits.taken(name)
    if record.retry_of is not None:  # some of its signals were received in the run that it retries
        taken += received_in(await store.journal(record.id), name) - waits.received[name]
    return len(others) - taken < len(named)


def _problems(wait: OpenWait, value: bytes) -> list[Problem]:
    schema = msgspec.json.decode(wait.schema)
    return [] if schema is None else problems_of(schema, msgspec.json.decode(value))
