"""Backups of the SQLite database: made, put back, and never mixed with what was there before."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from offramp.errors import StoreError
from offramp.stores.sqlite import copies, custody
from offramp.stores.sqlite.copies import WrongFile, back_up, restore
from offramp.stores.sqlite.custody import Custody, InUse, beside, damage, header
from offramp.stores.sqlite.database import FILE_NAME, Database
from offramp.stores.sqlite.schema import MIGRATIONS
from tests.support import of_schema


def noted(path):
    """What `note` wrote, read as a process would that just opens the file."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT fingerprint FROM idempotency ORDER BY key")]


def opened(folder):
    """A database with a connection, so that its WAL is there."""
    database = Database(folder)
    database.writing = database.connect()
    return database


def note(database, *texts):
    for text in texts:
        database.writing.execute("INSERT INTO idempotency VALUES ('', ?, ?, 'run', 0)", (text, text))


def close(database):
    database.writing.close()
    database.close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "backup.db"


def crash(database):
    """Leave the files as a process does that is killed: the WAL with what is newest in it."""
    kept = {path: path.read_bytes() for path in (database.path, *beside(database.path)) if path.exists()}
    close(database)
    for path, data in kept.items():
        path.write_bytes(data)


def damaged(path):
    """Overwrite the page that a table begins on."""
    with closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'owners'").fetchone()[0]
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(data)


def test_a_backup_of_a_database_in_use_has_what_is_in_its_wal(folder, file):
    database = opened(folder)
    note(database, "a", "b")
    assert beside(database.path)[0].stat().st_size > 0
    assert back_up(folder, file) == file.stat().st_size
    note(database, "c")
    close(database)
    assert noted(file) == ["a", "b"]
    assert not any(path.exists() for path in beside(file))
    assert file.stat().st_mode & 0o077 == 0


def test_a_backup_is_put_back_and_what_came_after_is_gone(folder, file):
    database = opened(folder)
    note(database, "a")
    back_up(folder, file)
    note(database, "b")
    crash(database)
    assert restore(file, folder) == file.stat().st_size
    database = Database(folder)
    database.close()
    assert noted(database.path) == ["a"]
    assert header(file).is_backup, "the backup itself stays one"


def test_a_copy_beside_the_wal_of_another_database_is_not_opened(folder, file):
    database = opened(folder)
    note(database, "a")
    back_up(folder, file)
    note(database, "b")
    crash(database)
    shutil.copyfile(file, database.path)
    with pytest.raises(StoreError, match=r"is a backup, and offramp\.db-wal .* 'offramp restore FILE DIR'"):
        Database(folder)
    assert beside(database.path)[0].exists(), "nothing was lost by the refusal"
    restore(file, folder)
    Database(folder).close()
    assert noted(database.path) == ["a"]


def test_a_database_of_an_older_version_shrinks_once_its_backup_was_put_back(folder, file):
    folder.mkdir()
    with of_schema(9, folder) as old:
        old.executemany("INSERT INTO idempotency VALUES ('', ?, ?, 'run', 0)", ((n, "x" * 900) for n in range(1_000)))
        old.execute("DELETE FROM idempotency WHERE key > 0")
    Database(folder).close()
    back_up(folder, file)
    assert restore(file, folder) < file.stat().st_size / 2
    Database(folder).close()
    with closing(sqlite3.connect(folder / FILE_NAME)) as new:
        assert new.execute("PRAGMA auto_vacuum").fetchone()[0] == 2
        assert new.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert noted(folder / FILE_NAME) == ["x" * 900]


def test_a_restore_that_is_cut_short_is_refused_at_the_start_and_can_be_done_again(folder, file, monkeypatch):
    database = opened(folder)
    note(database, "a")
    back_up(folder, file)
    note(database, "b")
    crash(database)

    def killed(_path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(
            "offramp.stores.sqlite.copies.beside", lambda path: killed(path) if path.name == FILE_NAME else []
        )
        with pytest.raises(KeyboardInterrupt):
            restore(file, folder)
    with pytest.raises(StoreError, match="offramp restore"):
        Database(folder)
    restore(file, folder)
    Database(folder).close()
    assert noted(database.path) == ["a"]


def test_a_restored_database_that_is_killed_after_its_first_start_is_opened_again(folder, file):
    database = opened(folder)
    note(database, "a")
    back_up(folder, file)
    close(database)
    restore(file, folder)
    database = opened(folder)
    note(database, "b")
    assert not header(database.path).is_backup
    crash(database)
    Database(folder).close()
    assert noted(database.path) == ["a", "b"]


HOLDS = (
    "import sys; from pathlib import Path; from offramp.stores.sqlite.database import Database; "
    "held = Database(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
)


def test_no_restore_while_a_process_has_the_database_open(folder, file):
    Database(folder).close()
    back_up(folder, file)
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(InUse, match="stop every gateway and worker"):
            restore(file, folder)
        back_up(folder, file)  # needs nothing stopped
        process.kill()
        process.wait()
        restore(file, folder)


def test_no_process_opens_a_database_that_is_being_restored(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(custody.Custody.__init__, "__defaults__", (0.1,))
    alone = Custody.alone(folder)
    with pytest.raises(InUse, match="restores or checks"):
        Database(folder)
    alone.close()
    Database(folder).close()


@pytest.mark.parametrize("left", ["the wal of a crash", "nothing: a restored copy"])
def test_a_damaged_database_is_not_served(folder, file, left):
    database = opened(folder)
    note(database, "a")
    back_up(folder, file)
    with closing(database.connect()) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    note(database, "b")
    crash(database)
    if left != "the wal of a crash":
        restore(file, folder)
    damaged_copy = folder / "c"
    shutil.copyfile(database.path, damaged_copy)
    damaged(damaged_copy)
    shutil.copyfile(damaged_copy, database.path)
    with pytest.raises(StoreError, match=r"is damaged \(.*\) and is not served: .*offramp restore"):
        Database(folder)


def test_looking_for_damage_is_bounded_and_says_that_it_was_cut(folder, caplog, monkeypatch):
    database = opened(folder)
    note(database, "a")
    crash(database)

    def never(_connection, seconds):
        raise TimeoutError(f"not done after {seconds:g} s")

    monkeypatch.setattr(custody, "damage", never)
    Database(folder).close()
    assert "'offramp doctor --check-data'" in caplog.text


def test_a_check_of_a_large_database_stops_when_it_is_told_to(tmp_path):
    with closing(sqlite3.connect(tmp_path / "large.db")) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.execute("CREATE INDEX i ON t (b, a)")
        connection.execute(
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 300000) "
            "INSERT INTO t SELECT x, x FROM n"
        )
        connection.commit()
        with pytest.raises(TimeoutError):
            damage(connection, 0.001, full=True)
        assert damage(connection, full=True) is None


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda file: None, "is no backup"),
        (lambda file: file.write_bytes(b"x" * 5000), "is no backup"),
        (lambda file: file.mkdir(), "is no backup"),
        (
            lambda file: sqlite3.connect(file).execute("CREATE TABLE runs (a)").connection.close(),
            "not a database of Offramp",
        ),
    ],
)
def test_what_is_no_backup_is_not_restored_and_changes_nothing(folder, file, made, says):
    database = opened(folder)
    note(database, "a")
    close(database)
    before = database.path.read_bytes()
    made(file)
    with pytest.raises(WrongFile, match=says):
        restore(file, folder)
    assert database.path.read_bytes() == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_backup_is_not_restored(folder, file):
    database = opened(folder)
    note(database, "a")
    back_up(folder, file)
    close(database)
    damaged(file)
    with pytest.raises(StoreError, match="is damaged"):
        restore(file, folder)
    Database(folder).close()
    assert noted(database.path) == ["a"]


def test_a_backup_of_a_newer_version_is_not_restored(folder, file):
    Database(folder).close()
    back_up(folder, file)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(WrongFile, match="schema 999"):
        restore(file, folder)


def test_a_file_that_is_no_backup_is_not_overwritten(folder, file):
    Database(folder).close()
    file.write_text("precious")
    with pytest.raises(WrongFile, match="exists and is no backup"):
        back_up(folder, file)
    with pytest.raises(WrongFile, match="exists and is no backup"):
        back_up(folder, folder / FILE_NAME)
    assert file.read_text() == "precious"


def test_a_backup_that_cannot_be_written_leaves_the_one_before(folder, file, monkeypatch):
    Database(folder).close()
    back_up(folder, file)
    before = file.read_bytes()
    monkeypatch.setattr(copies, "damage", lambda _connection, *, full: "row 1 missing")
    with pytest.raises(StoreError, match="the copy is damaged: row 1 missing"):
        back_up(folder, file)
    assert file.read_bytes() == before
    assert [path for path in file.parent.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(StoreError, match="cannot be written"):
        back_up(folder, folder / "no" / "such" / "folder")


def test_there_has_to_be_a_database(folder, file):
    with pytest.raises(WrongFile, match="there is no database"):
        back_up(folder, file)
    assert not folder.exists()
