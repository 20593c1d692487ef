"""What a model wrote is shown as text: it drives no terminal, and reads as it is stored."""

from __future__ import annotations

import io
import json
import logging

import pytest

from offramp.cli.logs import CompactFormatter, KeyValues, Logfmt
from offramp.cli.output import one_line, printable, with_fields, write_json

BIDI = "\u202aa\u202bb\u202cc\u202dd\u202ee\u2066f\u2067g\u2068h\u2069i\u200ej\u200fk\u061cl"
HOSTILE = {
    "bidi": (BIDI, "abcdefghijkl"),
    "a reordered name": ("report\u202efdp.exe", "reportfdp.exe"),
    "C1": ("a\x9b31mb\x90c", "a31mbc"),
    "C0": ("a\x07b\x00c\x7fd", "abcd"),
    "an escape sequence": ("a\x1b[2Jb\x1b]0;title\x07c", "abc"),
    "half of one": ("a\x1b]0;title", "a]0;title"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_text_is_shown_without_what_drives_or_reorders(name):
    text, shown = HOSTILE[name]
    assert printable(text) == one_line(text) == shown


def test_what_is_text_stays():
    text = "\u05e9\u05dc\u05d5\u05dd\t\u0645\u0631\u062d\u0628\u0627\n\U0001f469\u200d\U0001f4bb"
    assert printable(text) == text


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_json_has_all_of_it_as_escapes(name, is_terminal):
    text, _ = HOSTILE[name]
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    write_json({"text": text}, stream)
    written = stream.getvalue()
    assert json.loads(written) == {"text": text}
    assert printable(written) == written


@pytest.mark.parametrize("formatter", [CompactFormatter("", colour=False), KeyValues("x"), Logfmt("x")])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_line_of_a_log_has_any_of_it(formatter, name):
    text, _ = HOSTILE[name]
    try:
        raise ValueError(text)
    except ValueError as error:
        told = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("offramp", logging.ERROR, "x.py", 1, "failed: %s", (text,), told)
    line = formatter.format(record)
    assert printable(line) == line


def test_what_is_wrong_with_a_field_is_said_once():
    fields = [("/query/order", "one of desc, asc"), ("", "expected a string"), ("/input/q", "too long")]
    assert with_fields(ValueError("order is one of desc, asc"), fields) == (
        "order is one of desc, asc; the value: expected a string; /input/q: too long"
    )
