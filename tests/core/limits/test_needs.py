from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.limits import needs


def body(**given):
    return json.dumps(given).encode()


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ({"max_tokens": 500}, 500),
        ({"max_completion_tokens": 500}, 500),
        ({"max_output_tokens": 500}, 500),
        ({"max_tokens": 900, "max_completion_tokens": 500}, 500),
        ({"max_tokens": 500, "n": 3}, 1_500),
        ({"generationConfig": {"maxOutputTokens": 500}}, 500),
        ({"inferenceConfig": {"maxTokens": 500}}, 500),
    ],
)
def test_the_most_that_a_request_can_use_is_its_input_and_what_it_permits(given, output):
    written = body(**given, messages="word " * 100)
    assert needs.tokens_max(written) == needs.input_tokens(written) + output


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"no json",
        b"[1]",
        b'"max_tokens"',
        body(max_tokens="5"),
        body(max_tokens=0),
        body(max_tokens=None),
        b"\xff\xfe",
    ],
)
def test_without_a_limit_nothing_is_known(written):
    assert needs.tokens_max(written) is None


def test_files_count_by_their_number_not_their_length():
    text = body(messages="word " * 1_000, max_tokens=5)
    image = "data:image/png;base64," + "QUJD" * 100_000
    with_images = body(messages="word " * 1_000, images=[image, image], max_tokens=5)
    more = needs.input_tokens(with_images) - needs.input_tokens(text)
    assert 2 * needs.TOKENS_PER_FILE <= more < 2 * needs.TOKENS_PER_FILE + 50


def test_a_huge_request_is_not_read(monkeypatch):
    monkeypatch.setattr(needs, "BODY_BYTES_MAX", 40)
    assert needs.tokens_max(body(max_tokens=5)) is not None
    assert needs.tokens_max(body(max_tokens=5, text="x" * 40)) is None


@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_bytes_have_an_estimate(text, times):
    written = text + b"a" * needs.FILE_BYTES_MIN * times
    assert 0 <= needs.input_tokens(written) <= len(written) // needs.BYTES_PER_TOKEN + 4 * needs.TOKENS_PER_FILE
    needs.tokens_max(written)
