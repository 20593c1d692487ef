from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from offramp.core.keys import DEFAULT_TENANT, digest_of, find
from offramp.errors import SettingsError
from offramp.gateway import keyfile
from offramp.gateway.keyfile import add_key, read_keys, revoke_key

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data" / "keys.json"


def test_a_key_is_kept_as_its_hash_alone(file):
    secret = add_key(file, "alice", "acme")
    assert secret.startswith("ofk_")
    assert len(secret) == len("ofk_") + 43  # 256 bits in base64
    (entry,) = read_keys(file)
    assert (entry.name, entry.tenant, entry.sha256) == ("alice", "acme", digest_of(secret))
    assert find(secret, [entry.key]) == entry.key
    kept = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert secret.encode() not in kept
    assert secret[4:].encode() not in kept


def test_a_key_keeps_its_scopes_and_one_without_any_is_a_plain_one(file):
    add_key(file, "old", "acme")
    assert "scopes" not in file.read_text()  # as Offramp wrote it before there were scopes
    add_key(file, "new", "acme", frozenset({"operate", "inspect"}))
    assert [entry.key.scopes for entry in read_keys(file)] == [{"run"}, {"inspect", "operate"}]


def test_secrets_differ(file):
    assert len({add_key(file, f"k{number}", DEFAULT_TENANT) for number in range(20)}) == 20


def test_only_its_owner_may_read_it_before_and_after_a_change(file):
    add_key(file, "a", DEFAULT_TENANT)
    add_key(file, "b", DEFAULT_TENANT)
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_revoking(file):
    add_key(file, "a", DEFAULT_TENANT)
    add_key(file, "b", DEFAULT_TENANT)
    assert revoke_key(file, "a") == 1
    assert [entry.name for entry in read_keys(file)] == ["b"]
    with pytest.raises(SettingsError, match="no key 'a'"):
        revoke_key(file, "a")
    assert revoke_key(file, "b") == 0
    assert read_keys(file) == []


def test_a_name_is_there_once_whatever_its_tenant(file):
    add_key(file, "a", "x")
    with pytest.raises(SettingsError, match="a key 'a' of tenant 'x' exists"):
        add_key(file, "a", "y")


@pytest.mark.parametrize(("name", "tenant"), [("", "t"), ("a b", "t"), ("a", "a/b"), ("-a", "t"), ("a", "n" * 65)])
def test_names_that_cannot_be_are_refused(file, name, tenant):
    with pytest.raises(SettingsError, match="is 1 to 64 letters"):
        add_key(file, name, tenant)
    assert not file.exists()


def test_there_are_at_most_so_many(file, monkeypatch):
    monkeypatch.setattr(keyfile, "KEYS_MAX", 2)
    add_key(file, "a", "t")
    add_key(file, "b", "t")
    with pytest.raises(SettingsError, match="KEYS_MAX"):
        add_key(file, "c", "t")


def test_revoking_where_nothing_is_makes_nothing(file):
    with pytest.raises(SettingsError, match="--data"):
        revoke_key(file, "a")
    assert not file.parent.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"alice:my-plain-secret-0123456789",
        b'{"version": 1, "keys": [{"name": "a", "secret": "my-plain-secret-0123456789"}]}',
        b'{"version": 1, "keys": [{"name": "a", "tenant": "t", "sha256": "my-plain-secret", "created_at": ""}]}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_file_is_one_line_that_repeats_nothing_of_it(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    for call in (lambda: read_keys(file), lambda: add_key(file, "b", "t"), lambda: revoke_key(file, "a")):
        with pytest.raises(SettingsError, match="is damaged or was edited by hand") as caught:
            call()
        assert "my-plain-secret" not in str(caught.value)
    assert file.read_bytes() == content


def test_a_file_of_a_newer_version_is_left_alone(file):
    file.parent.mkdir()
    file.write_text(json.dumps({"version": 2, "keys": []}))
    with pytest.raises(SettingsError, match="upgrade"):
        add_key(file, "a", "t")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(SettingsError, match="cannot be written to"):
        add_key(tmp_path / "taken" / "keys.json", "a", "t")


def test_writers_in_several_processes_lose_no_key_and_readers_see_whole_files(file):
    program = (
        "import sys; from pathlib import Path; from offramp.gateway.keyfile import add_key, revoke_key\n"
        "file, who = Path(sys.argv[1]), sys.argv[2]\n"
        "for number in range(10):\n"
        "    add_key(file, f'{who}-{number}', 't')\n"
        "    add_key(file, f'{who}-gone', 't'); revoke_key(file, f'{who}-gone')\n"
    )
    add_key(file, "first", "t")
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            seen.append(len(read_keys(file)))  # raises if half of one is seen

    reader = threading.Thread(target=read)
    reader.start()
    try:
        writers = [
            subprocess.Popen([sys.executable, "-c", program, str(file), who], cwd=ROOT) for who in ("a", "b", "c")
        ]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    finally:
        stop.set()
        reader.join(30)
    expected = {"first"} | {f"{who}-{number}" for who in "abc" for number in range(10)}
    assert {entry.name for entry in read_keys(file)} == expected
    assert seen[0] >= 1
    # Nothing temporary is left behind.
    assert {path.name for path in file.parent.iterdir()} == {"keys.json", "keys.json.lock"}
