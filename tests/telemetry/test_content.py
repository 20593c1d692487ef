"""What a trace shows of values: nothing that a key calls a credential, and not more than it may."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.reference import reference_to
from offramp.telemetry.content import DECODED_BYTES_MAX, cut, redacted, shown


@pytest.mark.parametrize(
    "key",
    [
        *(
            "password",
            "db_passwd",
            "PASSPHRASE",
            "clientSecret",
            "secret",
            "token",
            "access_token",
            "apiKey",
            "api-key",
        ),
        *("api_key", "x-api-key", "AWS_ACCESS_KEY", "private_key", "credentials", "Authorization", "Set-Cookie"),
    ],
)
def test_keys_that_name_credentials_hide_what_they_hold(key):
    assert redacted({"a": [{key: "s3cret"}], key: {"deep": "s3cret"}}) == {
        "a": [{key: "[redacted]"}],
        key: "[redacted]",
    }


@pytest.mark.parametrize("key", ["question", "max_tokens", "tokens", "tokenizer", "key", "author", "pass"])
def test_other_keys_do_not(key):
    assert redacted({key: 1}) == {key: 1}


def test_arguments_are_redacted_by_the_names_of_parameters():
    assert shown(b'["a","b"]', 100, ["query", "api_key"]) == '{"query":"a","api_key":"[redacted]"}'


def test_the_edges_of_what_is_looked_through():
    fits = msgspec.json.encode("x" * (DECODED_BYTES_MAX - 2))
    assert shown(fits, 4) == '"xxx…'
    assert shown(fits + b" ", 4) == f"({DECODED_BYTES_MAX + 1} bytes)"
    deep = b"[" * 100_000 + b"]" * 100_000
    assert shown(deep, 100) == "(200000 bytes)"


@given(st.text(), st.integers(1, 40))
def test_a_cut_keeps_whole_characters_of_the_beginning(text, bytes_max):
    made = cut(text.encode(), bytes_max)
    assert made == text or (made.endswith("…") and text.startswith(made[:-1]))
    assert len(made.removesuffix("…").encode()) <= bytes_max or made == text


def test_of_a_value_that_is_kept_elsewhere_only_the_size_is_shown():
    kept = reference_to("run_1", b'"' + b"x" * 5000 + b'"')
    assert shown(kept.encoded(), 100) == "(5002 bytes)"
