from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.journal import DuplicateEntry, Entry, Journal, digest

names = st.sampled_from(["search", "write", "offramp.now"])
arguments = st.sampled_from([b"", b"[1]", b"[2]", b'["a"]'])
calls = st.lists(st.tuples(names, arguments), max_size=30)


def recorded(made):
    journal = Journal()
    for number, (name, encoded) in enumerate(made):
        journal.add(Entry(journal.key(name, encoded), name, "step", str(number).encode()))
    return journal.entries


@given(calls)
def test_every_call_of_a_run_has_a_key_of_its_own(made):
    journal = Journal()
    keys = [journal.key(*call) for call in made]
    assert len(set(keys)) == len(keys)


@given(calls)
def test_a_replay_that_calls_the_same_finds_every_entry_in_its_place(made):
    entries = recorded(made)
    replay = Journal(entries)
    found = [replay.ask(replay.key(*call)) for call in made]
    assert found == entries
    assert [replay.position(entry.key) for entry in found] == list(range(len(entries)))
    assert replay.unasked() == []


@given(calls, st.randoms(use_true_random=False))
def test_calls_that_interleave_differently_find_the_entries_of_their_name_and_arguments(made, order):
    entries = recorded(made)
    replay = Journal(entries)
    shuffled = list(made)
    order.shuffle(shuffled)
    found = [replay.ask(replay.key(*call)) for call in shuffled]
    assert all(entry is not None for entry in found)
    assert [entry.name for entry in found] == [name for name, _ in shuffled]
    assert replay.unasked() == []


@given(calls, st.data())
def test_an_entry_that_is_not_asked_for_is_reported_in_order(made, data):
    entries = recorded(made)
    kept = data.draw(st.sets(st.integers(0, len(made) - 1)) if made else st.just(set()))
    replay = Journal(entries)
    for position, entry in enumerate(entries):
        if position in kept:
            replay.ask(entry.key)
    assert replay.unasked() == [entry for position, entry in enumerate(entries) if position not in kept]


@given(calls)
def test_an_entry_is_written_once(made):
    journal = Journal()
    for name, encoded in made:
        entry = Entry(journal.key(name, encoded), name, "step")
        journal.add(entry)
        with pytest.raises(DuplicateEntry):
            journal.add(entry)
    assert len(journal.entries) == len(made)


def test_a_journal_that_holds_a_key_twice_is_not_replayed():
    entry = Entry("search:0:0", "search", "step")
    with pytest.raises(DuplicateEntry):
        Journal([entry, entry])


def test_what_this_execution_adds_is_not_given_back_to_it_and_is_no_divergence():
    journal = Journal([Entry("search:x:0", "search", "step")])
    added = Entry(journal.key("write"), "write", "step")
    journal.add(added)
    assert journal.ask(added.key) is None
    assert [entry.name for entry in journal.unasked()] == ["search"]


def test_keys_are_the_same_in_every_process_and_version():
    journal = Journal()
    assert journal.key("search", b'["a"]') == "search:2757634b7f53cf25:0"
    assert journal.key("search", b'["a"]') == "search:2757634b7f53cf25:1"


def test_moved_code_finds_its_entries():
    made = [("search", b"[1]"), ("write", b"[1]"), ("search", b"[2]")]
    replay = Journal(recorded(made))
    random.Random(1).shuffle(made)
    assert [replay.ask(replay.key(*call)).name for call in made] == [name for name, _ in made]


def test_a_call_is_found_under_an_earlier_form_of_its_arguments():
    recorded_keys = [f"ask:{digest(b'old')}:{n}" for n in range(2)]
    journal = Journal([Entry(key, "ask", "step") for key in recorded_keys])
    assert [journal.key("ask", b"new", lambda: [b"other", b"old"]) for _ in range(3)] == [
        *recorded_keys,
        f"ask:{digest(b'new')}:2",
    ]


def test_a_step_that_was_only_begun_is_found_under_an_earlier_form():
    begun = f"pay:{digest(b'old')}:0"
    journal = Journal([], [begun])
    assert journal.key("pay", b"new", lambda: [b"old"]) == begun
    assert journal.key("pay", b"new", lambda: [b"old"]) == f"pay:{digest(b'new')}:1"


def test_earlier_forms_are_not_asked_for_where_the_call_is_known_or_nothing_is():
    def never():
        raise AssertionError("asked")

    assert Journal().key("ask", b"new", never) == f"ask:{digest(b'new')}:0"
    known = Journal([Entry(f"ask:{digest(b'new')}:0", "ask", "step")])
    assert [known.key("ask", b"new", never) for _ in range(2)] == [f"ask:{digest(b'new')}:{n}" for n in range(2)]


@given(st.lists(st.sampled_from(["old", "new"]), max_size=8), st.integers(0, 4))
def test_whichever_version_recorded_a_call_it_is_found_in_the_order_of_calls(versions, further):
    # One run, taken up by one version or the other for each call: numbers are counted over both.
    recorded_keys = [f"ask:{digest(version.encode())}:{n}" for n, version in enumerate(versions)]
    journal = Journal([Entry(key, "ask", "step") for key in recorded_keys])
    asked = [journal.key("ask", b"new", lambda: [b"old"]) for _ in range(len(versions) + further)]
    assert asked == [*recorded_keys, *(f"ask:{digest(b'new')}:{len(versions) + n}" for n in range(further))]
