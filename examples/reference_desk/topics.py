"""The Python language reference that every CPython ships, cut into passages worth quoting.

Splits a topic's text; does not search or rank, and does not depend on runs.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest

import msgspec

PASSAGE_CHARS_AIM = 700
"""Paragraphs are joined until a passage has about this many characters: enough to be read on its own."""

PASSAGE_CHARS_MAX = 1_500
"""A paragraph with its indented examples is cut when it is longer than this many characters."""

_UNDERLINE = re.compile(r"([*=\-~^])\1{2,}")
# Footnotes and "See also" blocks (indented below their line) only point elsewhere.
_ASIDES = re.compile(r"^-\[ Footnotes \]-$(?s:.*)|^( *)See also:\n(?:\s*\n|\1 +.*\n)*", re.MULTILINE)
_BELONGS_ABOVE = re.compile(r" |\d+\. |\* ")
_BLANK_LINES = re.compile(r"\n\s*\n")


class Passage(msgspec.Struct, frozen=True):
    """A piece of one topic: the paragraphs between two headings, or some of them."""

    topic: str
    title: str
    heading: str
    number: int
    text: str

    @property
    def id(self) -> str:
        """Name the passage within one Python version, such as `with#2`."""
        return f"{self.topic}#{self.number}"


def language_reference() -> dict[str, str]:
    """Return the topics behind `help()`: names such as `with`, each with its plain text."""
    from pydoc_data.topics import topics

    return dict(topics)


def read_topics(topics: Mapping[str, str]) -> list[Passage]:
    """Split every topic into passages and keep each distinct text once.

    Some topics repeat others: `compound` holds all of `with`. The shorter topic is the more specific one, so
    topics are read from the shortest to the longest, and repeated text is skipped.
    """
    seen: set[str] = set()
    passages: list[Passage] = []
    for topic in sorted(topics, key=lambda name: (len(topics[name]), name)):
        for passage in read_topic(topic, topics[topic]):
            words = " ".join(passage.text.split())
            if words not in seen:
                seen.add(words)
                passages.append(passage)
    return passages


def read_topic(topic: str, text: str) -> Iterator[Passage]:
    """Split one topic into passages, in the order of its text."""
    title = topic
    number = 0
    for index, (heading, body) in enumerate(_sections(_ASIDES.sub("\n\n", text))):
        if index == 0 and heading:
            title = heading
        for part in _passages(body):
            number += 1
            yield Passage(topic=topic, title=title, heading=heading or title, number=number, text=part)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield heading and body of each section; a heading is a line underlined over its whole length."""
    heading, body = "", list[str]()
    lines = iter(zip_longest(text.splitlines(), text.splitlines()[1:], fillvalue=""))
    for line, following in lines:
        if _underlines(following, line):
            if heading or any(body):
                yield heading, "\n".join(body)
            heading, body = line, []
            next(lines)
        else:
            body.append(line)
    yield heading, "\n".join(body)


def _underlines(line: str, title: str) -> bool:
    is_title = title.strip() != "" and not title.startswith(" ")
    return is_title and len(line) == len(title) and _UNDERLINE.fullmatch(line) is not None


def _passages(body: str) -> Iterator[str]:
    """Join the paragraphs of a section up to the aimed length."""
    held = ""
    for paragraph in _paragraphs(body):
        if held and len(held) + len(paragraph) > PASSAGE_CHARS_AIM:
            yield held
            held = paragraph
        else:
            held = f"{held}\n\n{paragraph}" if held else paragraph
    if held:
        yield held


def _paragraphs(body: str) -> Iterator[str]:
    """Yield paragraphs, each with the examples, descriptions and list items below it as far as they fit."""
    held = ""
    for block in _BLANK_LINES.split(body.strip("\n")):
        if held and _BELONGS_ABOVE.match(block) and len(held) + len(block) <= PASSAGE_CHARS_MAX:
            held = f"{held}\n\n{block}"
        else:
            if held:
                yield held
            held = block
    if held.strip():
        yield held
