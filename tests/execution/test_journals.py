"""Journals that earlier versions recorded are replayed by this one: nothing executed again, the same order, one end."""

from __future__ import annotations

import msgspec
import pytest

from offramp import testing
from offramp.execution import replay, timers, turns, waits
from tests.execution import recorded
from tests.execution.recorded import JOURNALS, PIPELINES, Recorded, app

FILES = sorted(JOURNALS.glob("*.json"))
EVERY = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
RACES = [
    "as_completed",
    "cleaned",
    "demoted",
    "drawn",
    "expired",
    "failing",
    "gathered",
    "grouped",
    "handed_over",
    "raced",
    "retried",
    "slept",
]
"""Kinds in which what the body sees first is in the turns of the loop that each result gets."""
replace = msgspec.structs.replace


def read(name):
    return msgspec.json.decode((JOURNALS / f"{name}.json").read_bytes(), type=Recorded)


def with_entries(stored, entries):
    """The same run with another journal."""
    return replace(stored, case=replace(stored.case, known=replace(stored.case.known, entries=entries)))


@pytest.fixture
async def service():
    recorded.forget()
    async with testing.runtime(app) as runtime:
        yield runtime.service


async def replayed(service, stored):
    """What a replay shows beside what was recorded: the end, what the body saw, steps executed again, and new ones."""
    case, record = stored.case, stored.case.record
    found = await service.repeat(case)
    ended = found.outcome.status, found.outcome.result, found.outcome.error
    assert found.racing is None
    known = {entry.key for entry in case.known.entries}
    again = [key for key in recorded.executed(record.id) if key in known]
    new = [name for name in found.executed if name in app.steps]  # a wait that was given up may be over by now
    return (ended, recorded.seen(record.id), again, new), (
        (record.status, case.result, record.error),
        stored.seen,
        [],
        [],
    )


def test_every_kind_has_a_journal():
    assert {file.stem for file in FILES} == set(PIPELINES)


def without_traceback(outcome):
    (status, result, failure), *rest = outcome
    return status, result, failure and msgspec.structs.replace(failure, traceback=None), *rest


@EVERY
async def test_a_journal_is_replayed(service, file):
    now, before = await replayed(service, read(file.stem))
    assert without_traceback(now) == without_traceback(before)  # the recorded one may be of a version without


@EVERY
async def test_a_journal_that_breaks_off_anywhere_fits(service, file):
    case = read(file.stem).case
    verdict = await service.fits(case)
    assert verdict.problem is None
    assert recorded.executed(case.record.id) == []


@pytest.mark.parametrize("kind", RACES)
async def test_results_that_follow_each_other_too_soon_are_noticed(service, monkeypatch, kind):
    for module in (turns, waits, timers):
        monkeypatch.setattr(module, "SETTLE_TURNS", 1)
    monkeypatch.setattr(replay, "DIVERGENCE_GRACE_S", 0.05)
    now, before = await replayed(service, read(kind))
    assert now != before


async def test_a_step_that_the_journal_lacks_is_noticed(service):
    stored = read("in_sequence")
    (_, _, again, new), _ = await replayed(service, with_entries(stored, stored.case.known.entries[:-1]))
    assert (again, new) == ([], ["look_up"])


async def test_the_same_entries_in_another_order_are_noticed(service):
    stored = read("gathered")
    (_, seen, *_), (_, before, *_) = await replayed(service, with_entries(stored, stored.case.known.entries[::-1]))
    assert seen != before
