"""Rephrasing, searching and ranking, on the running Python's own manual."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.reference_desk.ranking import fuse
from examples.reference_desk.rephrasing import keywords_of, rephrase
from examples.reference_desk.search import (
    HITS_MAX,
    QUERY_WORDS_MAX,
    PassageIndex,
    match_expression,
    reference_index,
)
from examples.reference_desk.topics import Passage


def best_topics(question: str, limit: int = 4) -> list[str]:
    """Return the topics of the best passages for a question, as the pipeline finds them."""
    passages = fuse([reference_index().search(query) for query in rephrase(question)], limit)
    return [passage.topic for passage in passages]


def passage(number: int, topic: str = "walk") -> Passage:
    """Make a passage that its number distinguishes from others."""
    return Passage(topic=topic, title="Walk", heading="Walk", number=number, text=f"text {number}")


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("how do I write a context manager?", "context-managers"),
        ("what does the with statement do", "with"),
        ("How do I loop over a list?", "for"),
        ("how does `yield` work?", "yield"),
        ("how do I catch an error?", "try"),
        ("how to slice a list", "slicings"),
        ("global keyword", "global"),
        ("operator precedence", "operator-summary"),
        ("lambda", "lambda"),
    ],
)
def test_a_question_finds_its_topic(question: str, topic: str) -> None:
    assert topic in best_topics(question)


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        '"',
        '"""',
        "AND OR NOT",
        "NEAR(a b, 5)",
        "title : walk",
        "* ^ - + ( ) { }",
        "😀",
        "___",
        "a\0b",
        "'; drop table passages; --",
        "ÄÖÜ ß \u0131 \u0130",
        "\u0301 \u200d \ud800",
        "word " * 10_000,
    ],
)
def test_any_text_is_a_valid_query(query: str) -> None:
    assert len(reference_index().search(query)) <= HITS_MAX
    assert rephrase(query) is not None


@given(st.text())
def test_no_text_at_all_fails(query: str) -> None:
    for phrasing in [query, *rephrase(query)]:
        reference_index().search(phrasing)


def test_words_without_a_hit_find_nothing() -> None:
    assert reference_index().search("xyzzy plugh") == []


def test_a_query_is_bounded() -> None:
    expression = match_expression(" ".join(f"word{n}" for n in range(1_000)))
    assert f"word{QUERY_WORDS_MAX - 1}" in expression
    assert f"word{QUERY_WORDS_MAX}" not in expression


def test_a_heading_counts_more_than_the_text() -> None:
    index = PassageIndex(
        [
            Passage(topic="a", title="Flying", heading="Flying", number=1, text="not walking but something else"),
            Passage(topic="b", title="Walking", heading="Walking", number=1, text="not flying but something else"),
        ]
    )
    assert [hit.topic for hit in index.search("walk")] == ["b", "a"]
    index.close()


def test_many_threads_build_one_index() -> None:
    with ThreadPoolExecutor(8) as threads:
        indexes = set(threads.map(lambda _: reference_index(), range(32)))
        hits = list(threads.map(reference_index().search, ["yield"] * 32))
    assert len(indexes) == 1
    assert all(hit == hits[0] for hit in hits)


def test_a_question_is_asked_as_it_is_in_keywords_and_in_the_words_of_the_manual() -> None:
    assert rephrase("How do I write a loop?") == [
        "How do I write a loop?",
        "loop",
        "for while statement",
        "loop for while statement",
    ]


def test_a_rephrasing_is_asked_once() -> None:
    assert rephrase("lambda") == ["lambda"]


@pytest.mark.parametrize(
    ("question", "keywords"),
    [
        ("what is the with statement for", ["with", "statement"]),
        ("what does `for` do with a list", ["for", "list"]),
        ("a value for a name", ["value", "name"]),
        ("what is it", []),
    ],
)
def test_a_word_of_python_counts_where_it_is_marked_as_such(question: str, keywords: list[str]) -> None:
    assert keywords_of(question) == keywords


def test_what_several_searches_find_comes_first() -> None:
    one, two, three = passage(1), passage(2), passage(3)
    assert fuse([[one, two], [two, three]], limit=9) == [two, one, three]


def test_a_ranking_has_no_duplicates_and_a_limit() -> None:
    one, two = passage(1), passage(2)
    assert fuse([[one, one, two], [one]], limit=9) == [one, two]
    assert fuse([[one, two]], limit=1) == [one]
    assert fuse([], limit=3) == []


def test_equal_scores_have_an_order() -> None:
    one, two = passage(1), passage(2)
    assert fuse([[one], [two]], limit=9) == fuse([[two], [one]], limit=9) == [one, two]
