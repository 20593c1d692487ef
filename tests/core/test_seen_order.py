"""A journal in the order in which its body saw it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.journal import ORDER, Entry, as_seen, mark, reordered


def entries(*keys):
    return [Entry(key, key, "step", b"1") for key in keys]


def keys(ordered):
    return [entry.key for entry in ordered]


def note(*seen):
    return Entry(f"{ORDER}:1", ORDER, "value", msgspec.json.encode([mark(key) for key in seen]))


def test_what_was_seen_takes_its_own_places_and_the_rest_stays():
    ordered = reordered(entries("a", "b", "v", "c"), [mark(key) for key in ("c", "a", "unknown")])
    assert keys(ordered) == ["c", "b", "v", "a"]


def test_a_note_is_no_entry_of_the_body():
    assert keys(as_seen([*entries("a", "b"), note("b", "a"), *entries("c")])) == ["b", "a", "c"]


def test_a_later_note_counts_after_an_earlier_one():
    assert keys(as_seen([*entries("a", "b", "c"), note("b", "a"), note("c", "a")])) == ["b", "c", "a"]


def test_without_notes_it_is_as_recorded():
    made = entries("a", "b")
    assert as_seen(made) == made


@given(st.lists(st.integers(0, 30), unique=True), st.randoms())
def test_whatever_was_seen_nothing_is_lost(numbers, chance):
    made = entries(*map(str, numbers))
    seen = [str(number) for number in numbers]
    chance.shuffle(seen)
    assert keys(as_seen([*made, note(*seen)])) == seen
