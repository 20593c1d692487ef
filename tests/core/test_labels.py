from __future__ import annotations

import datetime as dt

import pytest

from offramp import App
from offramp.core.labels import LABEL_LENGTH_MAX, label_of, require_label
from offramp.errors import DeclarationError

NAMES = ["source", "query"]


class Unspeakable:
    def __format__(self, _spec):
        raise SystemExit("no words")


@pytest.mark.parametrize(
    ("label", "values", "made"),
    [
        ("{source} {query}", ["web", "why"], "web why"),
        ("{query!r:>5}", ["web", "w"], "  'w'"),
        ("{source[0]} of {query.year}", [["a", "b"], dt.date(2026, 1, 2)], "a of 2026"),
        ("{query:%H:%M}", ["web", dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)], "03:04"),
        ("{query:<80.80}", ["web", "w"], "w" + " " * 79),
        ("{{{source}}}", ["web", ""], "{web}"),
        ("always", ["web", "why"], "always"),
        ("{query}", ["web", "one\ntwo\x1b[31m"], "one two [31m"),
        ("{query}", ["web", "\udcff"], " "),
    ],
)
def test_a_label_is_a_format_of_the_arguments(label, values, made):
    assert require_label(label, NAMES, "step 's'") == label
    assert label_of(label, NAMES, values) == made


@pytest.mark.parametrize("length", [LABEL_LENGTH_MAX, LABEL_LENGTH_MAX + 1])
def test_a_label_is_cut(length):
    assert LABEL_LENGTH_MAX == 80
    assert label_of("{query}", NAMES, ["web", "x" * length]) == "x" * LABEL_LENGTH_MAX


@pytest.mark.parametrize(
    ("label", "values"),
    [("{source.gone}", ["web", ""]), ("{query:d}", ["web", "text"]), ("{query}", ["web", Unspeakable()])],
)
def test_what_cannot_be_formatted_has_no_label(label, values):
    assert label_of(label, NAMES, values) is None


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("{sources}", "did you mean 'source'"),
        ("{}", "name them"),
        ("{0}", "name them"),
        ("{source", "is not a format"),
        ("{source!x}", "conversion 'x'"),
        ("{source:{query}}", "leave it out"),
        ("", "label= is a format"),
        (7, "label= is a format"),
        ("{source:>81}", "'source' with a width or precision above 80"),
        ("{source:x<0999999999}", "width or precision"),
        ("{source:.1000000f}", "width or precision"),
    ],
)
def test_a_bad_format_is_refused_at_declaration(label, message):
    with pytest.raises(DeclarationError, match=rf"step 'gather': .*{message}"):

        @App("bad").step(label=label)
        async def gather(source: str, query: str) -> None: ...
