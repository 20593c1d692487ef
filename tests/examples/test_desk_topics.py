"""How topics are cut into passages."""

import pytest

from examples.reference_desk.topics import (
    PASSAGE_CHARS_AIM,
    Passage,
    language_reference,
    read_topic,
    read_topics,
)

TEXT = """The "walk" statement
********************

Walking is done on foot:

   walk(here, there)

It takes time.


Details
=======

Some.

See also:

  **PEP 0** - of no use here

More.

-[ Footnotes ]-

[1] Nobody reads this.
"""


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    """Return all passages of the running Python's own manual."""
    return read_topics(language_reference())


def test_a_passage_knows_its_title_and_heading() -> None:
    first, second = read_topic("walk", TEXT)
    assert (first.id, first.title, first.heading) == (
        "walk#1",
        'The "walk" statement',
        'The "walk" statement',
    )
    assert (second.id, second.title, second.heading) == ("walk#2", 'The "walk" statement', "Details")


def test_an_example_stays_with_the_sentence_that_introduces_it() -> None:
    long = "word " * (PASSAGE_CHARS_AIM // 5)
    _, second = read_topic("walk", f"{long}\n\nAs in:\n\n   walk()\n")
    assert second.text == "As in:\n\n   walk()"


def test_footnotes_and_pointers_elsewhere_are_left_out() -> None:
    text = "".join(passage.text for passage in read_topic("walk", TEXT))
    assert "PEP 0" not in text
    assert "Nobody" not in text
    assert text.endswith("Some.\n\nMore.")


def test_a_text_that_two_topics_share_belongs_to_the_shorter() -> None:
    passages = read_topics({"walk": "Walking.", "everything": "Flying\n******\n\nWings.\n\n\nWalk\n====\n\nWalking."})
    assert [(passage.topic, passage.text) for passage in passages] == [
        ("walk", "Walking."),
        ("everything", "Wings."),
    ]


def test_a_topic_without_a_heading_is_called_by_its_name() -> None:
    (passage,) = read_topic("walk", "Walking.")
    assert (passage.title, passage.heading) == ("walk", "walk")


def test_an_empty_topic_has_no_passages() -> None:
    assert list(read_topic("nothing", "")) == []
    assert list(read_topic("nothing", "Nothing\n*******\n\n\n")) == []


def test_the_whole_manual_is_cut(passages: list[Passage]) -> None:
    assert len(passages) > 300
    assert len({passage.id for passage in passages}) == len(passages)
    assert all(passage.text.strip() and passage.title and passage.heading for passage in passages)


def test_no_underline_is_left_in_a_passage(passages: list[Passage]) -> None:
    left = [line for passage in passages for line in passage.text.splitlines() if len(line) > 3 and set(line) == {"*"}]
    assert left == []
