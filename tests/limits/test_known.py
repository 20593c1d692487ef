"""The processes of a coordinator, as its successor finds them: alive, dead, or another of the same id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from offramp.limits import known


@pytest.fixture
def child():
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_a_process_that_runs_lives(child):
    assert known.lives(known.client("c", child.pid))


def test_one_that_is_stopped_lives(child):
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert known.lives(known.client("c", child.pid))


def test_one_that_cannot_be_seen_may_live():
    assert known.lives(known.client("c", 0))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it in /proc")
def test_a_dead_child_that_nobody_has_waited_for_does_not(child):
    """Its id exists; a successor that waited for it would grant nothing for 3 s."""
    client = known.client("c", child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not known.lives(client)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows it in /proc")
def test_another_process_of_the_same_id_is_not_it(child):
    client = known.client("c", child.pid)
    assert not known.lives(msgspec.structs.replace(client, began=client.began - 1))
