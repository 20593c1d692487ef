from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import RequestError
from offramp.gateway.negotiation import (
    IDEMPOTENCY_KEY_LENGTH_MAX,
    IDEMPOTENCY_KEY_PATTERN,
    LIST_LENGTH_MAX,
    LIST_PARTS_MAX,
    TRACE_LENGTH_MAX,
    WAIT_S_MAX,
    Preference,
    idempotency_key,
    position,
    prefer,
    trace_context,
    wants_stream,
)
from offramp.gateway.problems import HeadTooLarge

TOKEN = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=12)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
SPACE = st.sampled_from(["", " ", "\t", "  "])


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Preference()),
        (["respond-async"], Preference(respond_async=True)),
        (["Respond-Async"], Preference(respond_async=True)),
        (["wait=5"], Preference(wait=5)),
        (['wait="5"'], Preference(wait=5)),
        (["WAIT = 5"], Preference(wait=5)),
        (["wait=0"], Preference(wait=0)),
        (["respond-async, wait=10"], Preference(respond_async=True, wait=10)),
        (["respond-async", "wait=10"], Preference(respond_async=True, wait=10)),
        (["wait=3, wait=9"], Preference(wait=3)),
        (["wait=3;retry=1; x"], Preference(wait=3)),
        (["wait=-1"], Preference()),
        (["wait=1.5"], Preference()),
        (["wait=²"], Preference()),
        (["wait="], Preference()),
        (["wait"], Preference()),
        (["wait=" + "9" * 40], Preference(wait=WAIT_S_MAX)),
        (["wait=" + "9" * 5000], Preference()),
        (['return=minimal, handling="lenient, respond-async"'], Preference()),
        (['foo="a\\", wait=3", wait=4'], Preference(wait=4)),
        (['"respond-async"'], Preference()),
        ([",, ;,"], Preference()),
        (['foo="unterminated, wait=3'], Preference()),
    ],
)
def test_prefer(values, expected):
    assert prefer(values) == expected


def test_respond_async_with_wait_is_not_at_once():
    assert prefer(["respond-async"]).at_once
    assert not prefer(["respond-async, wait=1"]).at_once


@pytest.mark.parametrize(
    ("text", "status", "applied"),
    [
        ("respond-async", 202, "respond-async"),
        ("respond-async", 200, None),
        ("respond-async, wait=3", 202, "respond-async, wait=3"),
        ("respond-async, wait=3", 200, "wait=3"),
        ("handling=strict", 202, None),
    ],
)
def test_preference_applied_names_only_what_was(text, status, applied):
    assert prefer([text]).applied(status) == applied


@given(
    st.lists(
        st.tuples(TOKEN, st.none() | TOKEN | PRINTABLE.map(quoted), SPACE, st.lists(TOKEN, max_size=2)),
        max_size=5,
    ),
    st.integers(0, 10**8),
    st.booleans(),
    st.data(),
)
def test_prefer_finds_known_preferences_among_any_others(others, wait, is_quoted, data):
    known = {"wait", "respond-async"}
    items = [
        space.join([name, f"={value}" if value is not None else ""]) + "".join(";" + each for each in parameters)
        for name, value, space, parameters in others
        if name.lower() not in known
    ]
    for mine in (f'wait="{wait}"' if is_quoted else f"wait={wait}", "respond-async"):
        items.insert(data.draw(st.integers(0, len(items))), mine)
    cut = data.draw(st.integers(0, len(items)))
    headers = [", ".join(part) for part in (items[:cut], items[cut:]) if part]
    assert prefer(headers) == Preference(respond_async=True, wait=wait)


@given(st.lists(st.text(), max_size=3))
def test_prefer_and_accept_take_any_text(values):
    assert isinstance(prefer(values), Preference)
    assert isinstance(wants_stream(values), bool)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([], False),
        ([""], False),
        (["*/*"], False),
        (["application/json"], False),
        (["text/event-stream"], True),
        (["Text/Event-Stream"], True),
        (["text/event-stream;charset=utf-8"], True),
        (["text/*"], True),
        (["text/event-stream, */*"], True),
        (["*/*, text/event-stream"], True),
        (["text/event-stream;q=0.5, */*"], False),
        (["text/event-stream, application/json"], True),
        (["application/json, text/event-stream"], False),
        (["application/json", "text/event-stream"], False),
        (["application/json;q=0.9, text/event-stream"], True),
        (["application/json;q=0.2, text/event-stream;q=0.1"], False),
        (["text/event-stream;q=0"], False),
        (["text/event-stream;q=0, */*;q=0.1"], False),
        (["text/event-stream;q=2"], False),
        (["text/event-stream;q=x, application/json;q=0.1"], False),
        (["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], False),
        (['text/event-stream;x="a,b;q=0", application/json;q=0.5'], True),
        (["application/*, text/event-stream;q=0.9"], False),
        (["application/json;q=0, text/event-stream;q=0.1"], True),
    ],
)
def test_accept(accept, expected):
    assert wants_stream(accept) is expected


QVALUES = st.integers(0, 1000).map(lambda thousandth: thousandth / 1000)


@given(QVALUES, QVALUES, st.booleans())
def test_accept_obeys_quality_values(stream, json, stream_first):
    items = [f"text/event-stream;q={stream:.3f}", f"application/json; q={json:.3f}"]
    accept = ", ".join(items if stream_first else items[::-1])
    expected = stream > 0 and (stream > json or (stream == json and stream_first))
    assert wants_stream([accept]) is expected


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=IDEMPOTENCY_KEY_LENGTH_MAX))
def test_a_quoted_idempotency_key_is_what_was_quoted(key):
    assert idempotency_key([quoted(key)]) == key


@given(st.text(string.ascii_letters + string.digits + "-_:.", min_size=1, max_size=IDEMPOTENCY_KEY_LENGTH_MAX))
def test_a_bare_idempotency_key_is_the_quoted_one(key):
    assert idempotency_key([key]) == idempotency_key([f'"{key}"']) == key


@given(st.text())
def test_an_idempotency_key_is_kept_or_refused_and_never_altered_silently(text):
    try:
        key = idempotency_key([text])
    except RequestError:
        return
    assert key
    assert text.strip(" \t") in {key, quoted(key)}


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ['""'],
        ["a", "b"],
        ['"open'],
        ['a"b'],
        ["a b"],
        ['"é"'],
        ['"a\\b"'],
        ['"a";x=1'],
        ["x" * 256],
        ['"' + "x" * 256 + '"'],
    ],
)
def test_unusable_idempotency_keys(values):
    with pytest.raises(RequestError) as caught:
        idempotency_key(values)
    assert "Idempotency-Key" in str(caught.value)


def test_the_longest_idempotency_key():
    assert idempotency_key(["x" * 255]) == "x" * 255


@pytest.mark.parametrize(
    ("header", "query", "expected"),
    [(None, None, 0), ("", None, 0), ("7", None, 7), (None, "7", 7), ("9", "7", 9), ("", "7", 7), ("0", "7", 0)],
)
def test_position(header, query, expected):
    assert position(header, query) == expected


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "1 ", "٣", "9" * 16, "+1", "0x1"])
def test_a_position_is_an_event_number(text):
    with pytest.raises(RequestError, match="Last-Event-ID must be the number") as caught:
        position(text, None)
    assert caught.value.status == 400
    with pytest.raises(RequestError, match="starting_after must be the number"):
        position(None, text)


@pytest.mark.parametrize(("header", "query"), [("7", "x"), ("x", "7"), ("x", "x")])
def test_both_positions_are_checked_whichever_counts(header, query):
    with pytest.raises(RequestError):
        position(header, query)


@given(st.text() | PRINTABLE | PRINTABLE.map(quoted) | st.integers(253, 257).map("x".__mul__))
def test_the_documented_pattern_of_keys_is_what_is_taken(text):
    try:
        idempotency_key([text])
    except RequestError:
        taken = False
    else:
        taken = True
    assert bool(re.fullmatch(IDEMPOTENCY_KEY_PATTERN.strip("^$"), text.strip(" \t"))) is taken


@given(st.none() | st.text(), st.none() | st.text(), st.integers(0, 10**15 - 1))
def test_a_position_is_read_or_refused(header, query, number):
    assert position(str(number), None) == position(None, str(number)) == number
    try:
        found = position(header, query)
    except RequestError:
        return
    assert found == int(header or query or 0)


@given(st.dictionaries(st.sampled_from([*TRACE_LENGTH_MAX, "x"]), st.lists(st.text(), max_size=3)))
def test_trace_context_takes_any_text(headers):
    kept = trace_context(headers)
    assert all(kept[name] == ",".join(headers[name]) for name in kept)
    assert "x" not in kept


def test_trace_context_is_kept_within_bounds():
    parent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    assert trace_context({"traceparent": [parent], "tracestate": ["a=1", "b=2"], "baggage": []}) == {
        "traceparent": parent,
        "tracestate": "a=1,b=2",
    }
    assert trace_context({"traceparent": [parent, parent]}) == {}
    for name, length_max in TRACE_LENGTH_MAX.items():
        assert trace_context({name: ["x" * length_max]}) == {name: "x" * length_max}
        assert trace_context({name: ["x" * (length_max + 1)]}) == {}


@pytest.mark.parametrize("read", [prefer, wants_stream])
@pytest.mark.parametrize(
    "fits", ["x" * LIST_LENGTH_MAX, ",x" * LIST_PARTS_MAX, ";" * LIST_PARTS_MAX, '"' * LIST_LENGTH_MAX]
)
def test_lists_are_read_up_to_their_bounds_and_refused_past_them(read, fits):
    read([fits])
    read([fits[:100], fits[100:]])
    with pytest.raises(HeadTooLarge):
        read([fits, fits[0]])


def test_a_quote_that_is_never_closed_ends_with_its_header():
    assert prefer(['a="x, wait=1', "wait=2"]) == Preference(wait=2)
    assert prefer(['a="\\', "wait=2"]) == Preference(wait=2)
