"""Full-text search over passages: SQLite's FTS5 in memory, built once per process.

Builds the index and turns any text into a valid query. `ranking.py` merges several searches.
"""

import re
import sqlite3
import threading
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

from .topics import Passage, language_reference, read_topics

HITS_MAX = 8
"""Passages per search."""

QUERY_WORDS_MAX = 32
"""Words of a query beyond this many are ignored, which bounds the cost of a search."""

_WORD = re.compile(r"\w+")

_SCHEMA = """
create virtual table passages using fts5(
    title, heading, text, topic unindexed, number unindexed, tokenize = 'porter unicode61'
)
"""

# bm25() takes one weight for each column and gives better matches smaller numbers (Robertson and Zaragoza,
# "The Probabilistic Relevance Framework: BM25 and Beyond", 2009): a word in a heading counts for more than one in
# the text.
_SEARCH = """
select topic, title, heading, number, text from passages where passages match ?
order by bm25(passages, 3.0, 3.0, 1.0), topic, number limit ?
"""


class PassageIndex:
    """Passages that can be searched from any thread."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        """Index the passages; the index holds the only copy."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(_SCHEMA)
        self._database.executemany(
            "insert into passages (topic, title, heading, number, text) values (?, ?, ?, ?, ?)",
            ((each.topic, each.title, each.heading, each.number, each.text) for each in passages),
        )
        self._database.commit()

    def search(self, query: str, hits_max: int = HITS_MAX) -> list[Passage]:
        """Return at most `hits_max` passages that contain a word of the query, the best first.

        Any text is a query: words are all that counts, so quotes, operators and emoji neither fail nor have a
        meaning.
        """
        expression = match_expression(query)
        if not expression:
            return []
        with self._lock:
            rows = self._database.execute(_SEARCH, (expression, hits_max)).fetchall()
        return [
            Passage(topic=topic, title=title, heading=heading, number=number, text=text)
            for topic, title, heading, number, text in rows
        ]

    def close(self) -> None:
        """Free the memory."""
        self._database.close()


def match_expression(query: str) -> str:
    """Turn any text into an FTS5 expression that any of its words, or two neighbours as a phrase, may match.

    All are quoted strings, in which only the quote itself has a meaning, and a word holds no quote. The
    phrases lift "with statement" above all the passages in which the two words only occur.
    """
    words = _WORD.findall(query)[:QUERY_WORDS_MAX]
    phrases = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    return " OR ".join(f'"{phrase}"' for phrase in dict.fromkeys(phrases))


def reference_index() -> PassageIndex:
    """Return the index over the language reference, built by the first caller."""
    with _building:
        return _reference_index()


_building = threading.Lock()


@cache
def _reference_index() -> PassageIndex:
    return PassageIndex(read_topics(language_reference()))
