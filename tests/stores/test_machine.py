"""A database that is open on one machine is refused on another; a machine here is a name, as the kernel gives it."""

import os
import subprocess
import sys
import time

import pytest

from offramp.stores.sqlite import machine
from offramp.stores.sqlite.custody import LOCK_NAME
from offramp.stores.sqlite.database import Database
from offramp.stores.sqlite.machine import OnOtherMachine

HOLDS = """
import sys
from pathlib import Path
from offramp.stores.sqlite import machine
from offramp.stores.sqlite.database import Database
machine.here, machine.BEAT_S = lambda: "elsewhere", 0.02
database = Database(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
database.close()
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def elsewhere(folder):
    """A process on another machine that has the folder's database open."""
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"open\n"
        yield process
        process.kill()


def test_a_database_that_is_open_on_another_machine_is_refused(folder, elsewhere):
    with pytest.raises(OnOtherMachine, match=r"open on another machine: .* keep the runs of several machines in Redis"):
        Database(folder)


def test_locks_that_each_machine_keeps_by_itself_do_not_let_it_in(folder, elsewhere):
    (folder / LOCK_NAME).rename(folder / "locked")
    (folder / LOCK_NAME).write_bytes((folder / "locked").read_bytes())  # another inode: no lock is on it
    with pytest.raises(OnOtherMachine):
        Database(folder)


def test_it_opens_at_once_when_the_other_machine_has_closed_it(folder, elsewhere, caplog):
    elsewhere.communicate(b"\n", timeout=30)
    Database(folder).close()
    assert caplog.text == ""


def test_it_opens_when_the_other_machine_is_silent(folder, elsewhere, monkeypatch, caplog):
    elsewhere.kill()
    elsewhere.wait()
    monkeypatch.setattr(machine, "SILENT_S", 0.1)
    monkeypatch.setattr(machine, "BEAT_S", 0.1)
    Database(folder).close()
    assert "waiting 0.1 s to see whether it still is" in caplog.text


def test_it_opens_at_once_where_the_other_machine_is_long_gone(folder, elsewhere, caplog):
    elsewhere.kill()
    elsewhere.wait()
    before = time.time() - machine.GONE_S - 1
    os.utime(folder / LOCK_NAME, (before, before))
    Database(folder).close()
    assert caplog.text == ""


def test_processes_of_one_machine_share_it_and_the_last_leaves_it_to_any(folder):
    first, second = Database(folder), Database(folder)
    assert (folder / LOCK_NAME).read_text() == machine.here() != ""
    first.close()
    assert (folder / LOCK_NAME).read_text() == machine.here()
    second.close()
    assert (folder / LOCK_NAME).read_text() == ""
