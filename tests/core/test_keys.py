from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from offramp.core import keys
from offramp.core.keys import Key, digest_of, find, parse_keys, require_scopes, shown_tenant, stored_tenant
from offramp.core.quotas import Quota
from offramp.core.rates import Rate
from offramp.errors import SettingsError

SECRET = "0123456789abcdef"
OTHER = "fedcba9876543210"


def test_a_name_a_tenant_and_a_secret():
    assert parse_keys(f"acme/billing:{SECRET}, alice:{OTHER}", "X") == [
        Key("billing", "acme", digest_of(SECRET)),
        Key("alice", "", digest_of(OTHER)),
    ]


def test_a_bare_secret_is_named_by_its_place():
    assert [key.name for key in parse_keys(f"a:{OTHER},{SECRET}", "X")] == ["a", "key-2"]


def test_a_secret_may_be_base64_with_slashes():
    secret = "ab/cd+ef/gh12345=="
    assert parse_keys(secret, "X") == [Key("key-1", "", digest_of(secret))]


def test_a_hash_may_stand_for_a_secret():
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    (key,) = parse_keys(f"acme/billing:sha256:{digest}", "X")
    assert find(SECRET, [key]) is key
    with pytest.raises(SettingsError, match="64 hexadecimal"):
        parse_keys("a:sha256:abc", "X")


def test_scopes_follow_the_name():
    text = f"acme/a+inspect+operate:{SECRET},b+read:sha256:{digest_of(OTHER)},c:{'c' * 16}"
    assert [(key.name, key.tenant, key.scopes) for key in parse_keys(text, "X")] == [
        ("a", "acme", {"inspect", "operate"}),
        ("b", "", {"read"}),
        ("c", "", {"run"}),
    ]


@pytest.mark.parametrize("label", ["a+", "a+reed", "a+read+", "a++read", "a+Read", "+read", "a+read/b"])
def test_scopes_that_cannot_be_are_refused_by_their_place(label):
    with pytest.raises(SettingsError, match=r"X, key 1: (its scopes|a name)"):
        parse_keys(f"{label}:{SECRET}", "X")


def test_limits_follow_the_name_in_any_order():
    text = f"acme/a+runs=5+inspect+rate=100/min:{SECRET},b:{OTHER}"
    limited, free = parse_keys(text, "X")
    assert (limited.scopes, limited.quota) == ({"inspect"}, Quota("acme/a", Rate(100, 60), 5))
    assert free.quota is None


@pytest.mark.parametrize(
    "limit", ["runs=0", "runs=x", "runs=5+runs=6", "runs=\u0663", "rate=", "rate=1/x", "speed=3", "="]
)
def test_limits_that_cannot_be_are_refused_by_their_place(limit):
    with pytest.raises(SettingsError, match=r"^X, key 1: its "):
        parse_keys(f"a+{limit}:{SECRET}", "X")


def test_an_unknown_scope_is_named_with_the_nearest():
    assert require_scopes(["run", "inspect", "run"]) == {"run", "inspect"}
    with pytest.raises(SettingsError, match=r"no scope 'inspec'.*operate; did you mean 'inspect'.$"):
        require_scopes(["run", "inspec"])
    with pytest.raises(SettingsError, match="at least one scope"):
        require_scopes([])


def test_the_default_tenant_is_the_one_of_runs_without_keys():
    (key,) = parse_keys(f"default/alice:{SECRET}", "X")
    assert key.tenant == ""
    assert shown_tenant(stored_tenant("default")) == "default"
    assert shown_tenant(stored_tenant("acme")) == "acme"


@pytest.mark.parametrize(("length", "taken"), [(15, False), (16, True), (256, True), (257, False)])
def test_the_edges_of_a_secrets_length(length, taken):
    assert (keys.SECRET_LENGTH_MIN, keys.SECRET_LENGTH_MAX) == (16, 256)
    if taken:
        assert len(parse_keys("a:" + "x" * length, "X")) == 1
    else:
        with pytest.raises(SettingsError, match=f"its secret has {length} characters"):
            parse_keys("a:" + "x" * length, "X")


@pytest.mark.parametrize(("length", "taken"), [(0, False), (1, True), (64, True), (65, False)])
def test_the_edges_of_a_names_length(length, taken):
    for text in (f"{'n' * length}:{SECRET}", f"{'n' * length}/a:{SECRET}"):
        if taken:
            assert len(parse_keys(text, "X")) == 1
        else:
            with pytest.raises(SettingsError, match="is 1 to 64 letters"):
                parse_keys(text, "X")


@pytest.mark.parametrize("text", ["", " , ,", ","])
def test_a_variable_without_a_key_is_refused_rather_than_taken_for_no_keys(text):
    with pytest.raises(SettingsError, match="holds no key"):
        parse_keys(text, "X")


@pytest.mark.parametrize("text", [f"a:{SECRET},a:{OTHER}", f"a:{SECRET},b:{SECRET}", f"x/a:{SECRET},y/a:{OTHER}"])
def test_names_and_secrets_are_there_once(text):
    with pytest.raises(SettingsError, match="key 2"):
        parse_keys(text, "X")


@given(st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"]), min_size=8))
def test_no_refusal_repeats_what_was_given(text):
    given_text = text.strip()
    assume(len(given_text) >= 8)
    for entries in (f"a:{SECRET},{given_text}", f"b:{given_text}"):
        with contextlib.suppress(SettingsError):
            parse_keys(entries, "SOURCE")
            continue  # it is a key
        with pytest.raises(SettingsError) as caught:
            parse_keys(entries, "SOURCE")
        assert given_text not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_may_be_asked_for(secret):
    listed = parse_keys(f"a:{SECRET},b:{OTHER}", "X")
    assert find(secret, listed) is None
    assert find(SECRET, listed) is listed[0]
    assert find(OTHER, listed) is listed[1]


def test_every_key_is_compared_whichever_it_is(monkeypatch):
    compared = []
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda *pair: compared.append(pair) or real(*pair))
    listed = [Key(str(number), "", digest_of(f"{number:016}")) for number in range(5)]
    for secret in (f"{0:016}", f"{4:016}", "wrong"):
        compared.clear()
        find(secret, listed)
        assert len(compared) == 5


def test_a_key_shows_neither_secret_nor_hash():
    (key,) = parse_keys(f"acme/a:{SECRET}", "X")
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert SECRET not in shown
        assert key.digest not in shown
    assert repr(key) == "<key 'a' of tenant 'acme'>"
