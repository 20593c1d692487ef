"""The features of a request's wording: what they count, and what a hostile text costs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core import wording


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who wrote Hamlet?", {"words": 3, "names": 1}),
        ("Book a table, then send me the translated menu.", {"order": 1, "actions": 1, "results": 1}),
        (
            "Translate it and send it to Ada Lovelace. Also notify Bob.",
            {"ands": 1, "actions": 2, "more": 1, "names": 2},
        ),
        ("Can you sort these?", {"yes_or_no": 0}),
        ("Is Paris bigger than Rome or the same?", {"yes_or_no": 1, "ors": 1, "several": 1}),
        ("Name the author who wrote the book that won.", {"relative": 2}),
        ("Calculate the area of 3, and calculate the area of 4.", {"repeated": 1, "actions": 1}),
        ("the search and the report", {"actions": 0}),
    ],
)
def test_each_feature_counts_what_its_name_says(text, expected):
    counts = wording.counts(text)
    assert {name: counts[name] for name in expected} == expected


@pytest.mark.parametrize(
    "quoted",
    ['"find it and send it"', "'find it and we'll send it'", "`find and send`", "https://x.org/a-and-b", "[a and b]"],
)
def test_quoted_material_is_not_wording(quoted):
    assert wording.counts(f"Translate {quoted} now") == wording.counts("Translate now")


def test_quotation_marks_around_the_whole_text_hide_nothing():
    assert wording.counts('"Find it and send it"') == wording.counts("Find it and send it")


def test_only_the_beginning_of_a_long_text_is_read():
    text = "word " * wording.TEXT_CHARS_MAX
    assert wording.counts(text) == wording.counts(text[: wording.TEXT_CHARS_MAX])
    assert wording.counts(text)["words"] == wording.TEXT_CHARS_MAX / len("word ")


@pytest.mark.parametrize(("count", "shown"), [(0, "no words"), (1, "1 word"), (12, "12 words")])
def test_a_count_reads_as_a_person_would_say_it(count, shown):
    assert wording.counted("words", count) == shown
    assert wording.counted("ands", 2) == '2 "and"'
    assert wording.counted("relative", 2) == "2 clauses inside a sentence"


@given(st.text(max_size=300))
def test_any_text_has_counts(text):
    counts = wording.counts(text)
    assert set(counts) == set(wording.FEATURES)
    assert all(0 <= count <= counts["words"] for count in counts.values())


HOSTILE = ['"', "'", " '", "'a", " 'a", "“", "[", "{", "`", "https://", "a'", "1.", "..", "\n", ", ", "a ", "[{'\"“`"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_costs_no_more_than_a_long_one(piece):
    text = piece * (wording.TEXT_CHARS_MAX // len(piece))
    begin = time.process_time()
    wording.counts(text)
    assert time.process_time() - begin < 1  # a quadratic pattern takes several seconds
