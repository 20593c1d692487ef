from __future__ import annotations

import os
import typing
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import SettingsError
from offramp.settings import Given, Settings, unread, unread_warning

NUMBERS = [item for item in fields(Settings) if "low" in item.metadata]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "offramp.toml"


def test_arguments_beat_the_environment_beats_the_file_beats_the_default(file):
    file.write_text("lease = 20.0\npoll = 2.0\nthreads = 9\n")
    environment = {"OFFRAMP_LEASE": "30", "OFFRAMP_POLL": "3"}
    settings = Settings.load(environment, file, lease=40)
    assert (settings.lease, settings.poll, settings.threads, settings.processes) == (40.0, 3.0, 9, 0)


def test_arguments_that_are_none_and_empty_variables_do_not_count(file):
    assert Settings.load({"OFFRAMP_POLL": ""}, file, poll=None, data=None) == Settings()


@pytest.mark.parametrize("item", NUMBERS, ids=lambda item: item.name)
def test_every_number_has_its_edges(item):
    for edge in (item.metadata["low"], item.metadata["high"]):
        assert getattr(Settings(**{item.name: edge}), item.name) == edge
    for beyond in (item.metadata["low"] - 1, item.metadata["high"] + 1):
        with pytest.raises(SettingsError, match=f"{item.name} must be from"):
            Settings(**{item.name: beyond})


@given(st.text(alphabet="xyz, -", max_size=10))
def test_text_that_is_no_number_is_a_settings_error(text):
    with pytest.raises(SettingsError, match="poll must be a number"):
        Settings(poll=text)
    with pytest.raises(SettingsError, match="worker_runs must be a whole number"):
        Settings(worker_runs=text)


@pytest.mark.parametrize(("name", "value"), [("poll", "nan"), ("poll", "inf"), ("threads", 1.5), ("threads", True)])
def test_numbers_that_mean_something_else_are_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        Settings(**{name: value})


def test_an_unknown_name_is_refused_with_the_nearest(file):
    with pytest.raises(SettingsError, match=r"no setting 'leese'; did you mean 'lease'\?"):
        Settings.load({}, file, leese=1)
    file.write_text("pol = 1\n")
    with pytest.raises(SettingsError, match=r"^offramp\.toml: no setting 'pol'; did you mean 'poll'\?"):
        Settings.load({}, file)


def test_a_folder_may_be_given_as_a_path(tmp_path, file):
    assert Settings.load({}, file, data=tmp_path).data == str(tmp_path)


def test_text_is_text(file):
    with pytest.raises(SettingsError, match="data must be text"):
        Settings.load({}, file, data=3)


def test_a_file_that_is_no_toml_or_cannot_be_read_is_named(file, tmp_path):
    file.write_text("lease = = 3")
    with pytest.raises(SettingsError, match=r"offramp\.toml is not TOML"):
        Settings.load({}, file)
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.load({}, tmp_path)


def test_a_wrong_value_names_where_it_came_from(file):
    with pytest.raises(SettingsError, match="OFFRAMP_LEASE"):
        Settings.load({"OFFRAMP_LEASE": "long"}, file)
    file.write_text("lease = 'long'\n")
    with pytest.raises(SettingsError, match=r"offramp\.toml"):
        Settings.load({}, file)


def test_secrets_are_not_shown_and_not_taken_from_a_file_that_is_shared(file):
    settings = Settings(api_keys="alice:0123456789abcdef")
    assert "0123456789abcdef" not in f"{settings!r}{settings}"
    with pytest.raises(SettingsError) as caught:
        Settings(api_keys=["alice:0123456789abcdef"])
    assert str(caught.value) == "api_keys must be text, got list"
    file.write_text("api_keys = 'alice:0123456789abcdef'\n")
    with pytest.raises(SettingsError, match="OFFRAMP_API_KEYS") as caught:
        Settings.load({}, file)
    assert "0123456789abcdef" not in str(caught.value)


def test_variables_that_nobody_reads_are_named_with_the_nearest():
    options = dict.fromkeys(("OFFRAMP_PORT", "OFFRAMP_URL", "OFFRAMP_API_KEY", "OFFRAMP_SUPERVISED"), "x")
    read = options | {f"OFFRAMP_{item.name.upper()}": "x" for item in fields(Settings)}
    assert unread(read | {"HOME": "/", "OFF_RAMP": "x"}) == []
    assert unread_warning(read) == ""
    misspelt = {"OFFRAMP_WORKER_RUN": "secret", "OFFRAMP_DATE": "secret", "OFFRAMP_poll": "secret"}
    assert [name for name, _ in unread(read | misspelt)] == sorted(misspelt)
    assert unread_warning(misspelt) == (
        "OFFRAMP_DATE is set, but nothing reads it: did you mean 'OFFRAMP_DATA'?; "
        "OFFRAMP_WORKER_RUN is set, but nothing reads it: did you mean 'OFFRAMP_WORKER_RUNS'?; "
        "OFFRAMP_poll is set, but nothing reads it: did you mean 'OFFRAMP_POLL'?"
    )


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Settings().poll = 2.0


def test_every_setting_is_described():
    described = Settings.describe()
    assert [row[0] for row in described] == [item.name for item in fields(Settings)]
    assert all(row[3] for row in described)


def test_a_secret_is_shown_nowhere(file):
    secret = "whsec_" + "a" * 32
    assert secret not in repr(Settings(webhook_secret=secret))
    for wrong in ("hunter2", f"{secret} hunter2", 12345678):
        with pytest.raises(SettingsError, match="webhook_secret") as caught:
            Settings.load({}, file, webhook_secret=wrong)
        assert "hunter2" not in str(caught.value)
        assert "12345678" not in str(caught.value)
    with pytest.raises(SettingsError, match="OFFRAMP_WEBHOOK_SECRET"):
        Settings.load({"OFFRAMP_WEBHOOK_SECRET": "hunter2"}, file)


def test_what_webhooks_may_reach_is_checked_at_the_start(file):
    assert Settings(webhook_allow="10.0.0.0/8, hooks.internal").webhook_allow
    with pytest.raises(SettingsError, match=r"OFFRAMP_WEBHOOK_ALLOW.*10\.0\.0\.1/8"):
        Settings.load({"OFFRAMP_WEBHOOK_ALLOW": "10.0.0.1/8"}, file)


def test_the_keyword_arguments_are_the_settings():
    """Each field of `Settings` is in `Given` with its type, or None; a folder or file may be a path as well."""
    paths = {"data", "objects", "api_keys_file"}
    kinds = typing.get_type_hints(Settings)
    expected = {name: kind | os.PathLike[str] | None if name in paths else kind | None for name, kind in kinds.items()}
    assert typing.get_type_hints(Given) == expected
