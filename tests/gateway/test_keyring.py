from __future__ import annotations

import logging

import pytest

from offramp.core.keys import parse_keys
from offramp.errors import SettingsError
from offramp.gateway import keyring as module
from offramp.gateway.keyfile import add_key, revoke_key
from offramp.gateway.keyring import CHECK_EVERY_S, Keyring, file_of
from offramp.settings import Settings

SECRET = "0123456789abcdef"


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_on(self, seconds=CHECK_EVERY_S):
        self.now += seconds


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_without_keys_it_is_open(file, time):
    keyring = Keyring((), file, time)
    assert not keyring.closed
    assert keyring.find("anything") is None


def test_additions_and_revocations_are_taken_at_the_next_look(file, time):
    alice = add_key(file, "alice", "t")
    keyring = Keyring((), file, time)
    bob = add_key(file, "bob", "t")
    assert keyring.find(alice).name == "alice"
    assert keyring.find(bob) is None
    time.pass_on(CHECK_EVERY_S - 0.001)
    assert keyring.find(bob) is None
    time.pass_on(0.001)
    key = keyring.find(bob)
    assert key.name == "bob"
    revoke_key(file, "bob")
    assert keyring.knows(key)
    time.pass_on()
    assert not keyring.knows(key)
    assert keyring.find(bob) is None
    assert keyring.find(alice).name == "alice"


def test_the_file_is_looked_at_once_in_a_while_and_read_only_when_changed(file, time, monkeypatch):
    secret = add_key(file, "alice", "t")
    reads = []
    real = module.read_keys
    monkeypatch.setattr(module, "read_keys", lambda path: reads.append(path) or real(path))
    keyring = Keyring((), file, time)
    for _ in range(50):
        keyring.find(secret)
        time.pass_on(CHECK_EVERY_S / 2)
    assert len(reads) == 1
    add_key(file, "bob", "t")
    time.pass_on()
    keyring.find(secret)
    assert len(reads) == 2


def test_the_first_key_closes_a_gateway_that_was_open(file, time):
    keyring = Keyring((), file, time)
    secret = add_key(file, "alice", "t")
    time.pass_on()
    assert keyring.closed
    assert keyring.find(secret)


@pytest.mark.parametrize("how", ["revoked", "removed"])
def test_once_closed_it_stays_closed(file, time, how):
    secret = add_key(file, "alice", "t")
    keyring = Keyring((), file, time)
    if how == "revoked":
        revoke_key(file, "alice")
    else:
        file.unlink()
    time.pass_on()
    assert keyring.closed
    assert keyring.find(secret) is None


def test_a_file_without_keys_lets_nobody_in(file, time):
    add_key(file, "alice", "t")
    revoke_key(file, "alice")
    assert Keyring((), file, time).closed


def test_a_file_that_becomes_unreadable_changes_nothing_and_is_told_once(file, time, caplog):
    secret = add_key(file, "alice", "t")
    keyring = Keyring((), file, time)
    file.write_text("not keys, but ofk_something")
    with caplog.at_level(logging.ERROR, "offramp.gateway"):
        for _ in range(5):
            time.pass_on()
            assert keyring.find(secret).name == "alice"
    assert len(caplog.records) == 1
    assert "ofk_something" not in caplog.text
    file.unlink()
    bob = add_key(file, "bob", "t")
    time.pass_on()
    assert keyring.find(bob)
    assert keyring.find(secret) is None


def test_a_file_that_is_damaged_from_the_start_is_refused(file):
    file.write_text("{")
    with pytest.raises(SettingsError):
        Keyring((), file)


def test_keys_of_the_settings_and_of_the_file_count_both(tmp_path):
    settings = Settings(api_keys=f"env:{SECRET}", data=str(tmp_path))
    other = add_key(file_of(settings), "file", "t")
    keyring = Keyring.of(settings)
    assert keyring.find(SECRET).name == "env"
    assert keyring.find(other).name == "file"
    assert SECRET not in repr(keyring)


def test_where_the_file_is(tmp_path):
    assert file_of(Settings(data="d")).as_posix() == "d/keys.json"
    assert file_of(Settings(engine="embedded:e")).as_posix() == "e/keys.json"
    assert file_of(Settings(data="d", api_keys_file="f")).as_posix() == "f"


def test_a_file_that_is_named_must_be_there(tmp_path):
    with pytest.raises(SettingsError, match="OFFRAMP_API_KEYS_FILE: there is no file"):
        Keyring.of(Settings(api_keys_file=str(tmp_path / "none.json")))


def test_two_keys_of_one_secret_are_the_first(time):
    fixed = parse_keys(f"a:{SECRET}", "X") + parse_keys(f"b:{SECRET}", "X")
    assert Keyring(fixed, None, time).find(SECRET).name == "a"
