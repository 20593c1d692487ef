from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.events import TERMINAL
from offramp.errors import InputError, RequestError
from offramp.gateway.bodies import DEPTH_MAX, depth_exceeds
from offramp.gateway.native.request import parse


def body(**fields):
    return json.dumps({"input": {}} | fields).encode()


def test_a_full_body():
    request = parse(
        b'{"input": {"a": [1, "x"]}, "session_id": "s", "class": "batch", "metadata": {"k": "v"}, '
        b'"budget": 3, "follow": true}'
    )
    assert bytes(request.input) == b'{"a": [1, "x"]}'
    assert (request.session_id, request.sla, request.metadata) == ("s", "batch", {"k": "v"})
    assert (request.budget, request.follow) == (3.0, True)


def test_a_webhook_with_and_without_events():
    asked = {"url": "https://example.com/hooks?key=secret", "events": ["step.completed"]}
    webhook = parse(body(webhook=asked)).webhook
    assert (webhook.url, webhook.events) == (asked["url"], ("step.completed",))
    assert "secret" not in repr(webhook)
    usual = parse(body(webhook={"url": "https://example.com"})).webhook.events
    assert set(usual) == TERMINAL | {"run.demoted"}


def test_defaults():
    request = parse(b' {"input":{}} \n')
    assert (request.session_id, request.sla, request.metadata) == (None, None, {})
    assert (request.budget, request.follow, request.webhook) == (None, False, None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  ",
        b"{",
        b"nonsense",
        b'{"input": {}} trailing',
        b'{"input": {"a": 01}}',
        b'{"input": {"a": NaN}}',
        b'{"input": {"a": "\xff"}}',
        b'{"input": {"a": "\\ud800"}}',
        b'{"input": {"a": "line\nbreak"}}',
        b'\xef\xbb\xbf{"input": {}}',
        b"{'input': {}}",
    ],
)
def test_malformed_json_is_400(raw):
    with pytest.raises(RequestError) as caught:
        parse(raw)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b"{}", "/input"),
        (b"[]", ""),
        (b'"text"', ""),
        (b'{"input": []}', "/input"),
        (b'{"input": null}', "/input"),
        (b'{"input": {"a": 1e999}}', ""),
        (body(sesion_id="x"), "/sesion_id"),
        (body(session_id=3), "/session_id"),
        (body(session_id=""), "/session_id"),
        (body(session_id="x" * 201), "/session_id"),
        (body(budget="3"), "/budget"),
        (body(budget=True), "/budget"),
        (body(follow=1), "/follow"),
        (body(metadata=[]), "/metadata"),
        (body(metadata={str(n): "" for n in range(17)}), "/metadata"),
        (body(metadata={"": "x"}), "/metadata/"),
        (body(metadata={"x" * 65: "x"}), "/metadata/" + "x" * 64),
        (body(metadata={"a/b": "x" * 513}), "/metadata/a~1b"),
        (body(webhook="https://example.com"), "/webhook"),
        (body(webhook={}), "/webhook/url"),
        (body(webhook={"url": "https://example.com", "secret": "x"}), "/webhook/secret"),
        (body(webhook={"url": 3}), "/webhook/url"),
        (body(webhook={"url": "ftp://example.com"}), "/webhook/url"),
        (body(webhook={"url": "https://user:pass@example.com"}), "/webhook/url"),
        (body(webhook={"url": "https://example.com", "events": []}), "/webhook/events"),
        (body(webhook={"url": "https://example.com", "events": ["run.complete"]}), "/webhook/events/0"),
        (body(webhook={"url": "https://example.com", "events": ["run.failed", "step.delta"]}), "/webhook/events/1"),
        (body(webhook={"url": "https://example.com", "events": [1]}), "/webhook/events/0"),
        (body(**{"class": 1}), "/class"),
    ],
)
def test_a_field_that_does_not_fit_is_422_and_pointed_at(raw, pointer):
    with pytest.raises(InputError) as caught:
        parse(raw)
    assert caught.value.status == 422
    assert [found for found, _ in caught.value.errors] == [pointer]
    assert str(caught.value)


def test_a_metadata_value_that_is_no_string_is_refused():
    with pytest.raises(InputError) as caught:
        parse(body(metadata={"k": 1}))
    assert caught.value.errors[0][0].startswith("/metadata")


def test_what_is_wrong_with_the_whole_body_is_said_of_the_body():
    with pytest.raises(InputError, match=r"^the body: Expected `object`"):
        parse(b"[]")


def test_the_nearest_field_is_named():
    with pytest.raises(InputError, match="did you mean 'session_id'"):
        parse(body(sesion_id="x"))


def test_several_bad_fields_are_reported_together():
    with pytest.raises(InputError) as caught:
        parse(b'{"input": 1, "session_id": "", "metadata": {"": ""}}')
    assert [pointer for pointer, _ in caught.value.errors] == ["/input", "/session_id", "/metadata/"]


def test_the_largest_metadata():
    fits = {f"{n:064}": "x" * 512 for n in range(16)}
    assert parse(body(metadata=fits, session_id="x" * 200)).metadata == fits


def nested(levels):
    return b"[" * levels + b"]" * levels


def test_depth_at_its_edge():
    # The body itself is one level.
    assert parse(b'{"input": {"a": ' + nested(DEPTH_MAX - 2) + b"}}")
    with pytest.raises(InputError, match=f"deeper than {DEPTH_MAX}"):
        parse(b'{"input": {"a": ' + nested(DEPTH_MAX - 1) + b"}}")


def test_absurd_depth_costs_no_recursion():
    with pytest.raises(InputError, match="deeper"):
        parse(b'{"input": {"a": ' + nested(500_000) + b"}}")


def test_brackets_in_strings_do_not_count():
    text = '[{"\\' * 100
    assert json.loads(bytes(parse(body(input={"a": text})).input)) == {"a": text}


def depth_of(value):
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.integers(0, 6), st.booleans())
def test_depth_is_what_recursion_counts(value, levels, ascii_only):
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert depth_exceeds(raw, levels) is (depth_of(value) > levels)
