"""The coordinator of a data directory: started once, killed, stopped, replaced; and what it lets in."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from offramp.core.limits.memory import State
from offramp.core.limits.spec import ResourceSpec
from offramp.core.rates import Rate
from offramp.errors import StoreError
from offramp.limits import address, client, known, link, starting
from offramp.ports.limits import Done
from tests.limits.processes import NAME, ONE, THREE
from tests.limits.sites import lives
from tests.support import GUARD_S, eventually

A_MINUTE = (ResourceSpec(NAME, rates=(Rate(1, 60),)),)


def crash(pid, number=signal.SIGKILL):
    os.kill(pid, number)


async def gone(pid):
    await eventually(lambda: not lives(pid))


async def test_of_many_processes_that_start_at_once_one_starts_it(place):
    joined = [place.join() for _ in range(8)]
    pids = {await place.connected(limits) for limits in joined}
    assert len(pids) == 1
    assert address.holder(place.data) == pids.pop()


async def test_it_is_for_this_user_alone(place):
    place.folder.mkdir(mode=0o755)
    await place.connected(place.join())
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in place.folder.iterdir()} == {0o600}
    assert stat.S_IMODE((place.data / address.LOCK).stat().st_mode) == 0o600


def environment_of(pid):
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_it_has_no_secrets_in_its_environment(place, monkeypatch):
    monkeypatch.setenv("OFFRAMP_API_KEYS", "tenant/name:sesame")
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    pid = await place.connected(place.join())
    environment = environment_of(pid)
    assert b"PATH=" in environment
    assert b"sesame" not in environment


async def test_a_path_too_long_for_a_socket_works(place, tmp_path):
    place.data = tmp_path / ("d" * 100) / ("e" * 100)
    place.data.mkdir(parents=True)
    place.folder = place.data / address.FOLDER
    limits = place.join()
    await place.connected(limits)
    await place.ask(limits).grant()


async def test_a_killed_process_gives_back_its_permits(place):
    limits = place.join()
    peer = await place.peer(3)
    waiting = [place.ask(limits) for _ in range(3)]
    await limits.levels()
    assert not any(asked.granted for asked in waiting)
    peer.send_signal(signal.SIGKILL)
    for asked in waiting:
        await asked.grant()


async def test_killed_three_times_under_load_it_gives_no_permit_twice(place):
    """Two other processes hold a permit each all the time, so one is left for 60 calls of this one."""
    limits = place.join()
    peers = [await place.peer(1), await place.peer(1)]
    pid = await place.connected(limits)
    last = place.ask(limits)
    for _ in range(3):
        await last.grant()
        waiting = [place.ask(limits) for _ in range(20)]
        crash(pid)
        pid = await place.connected(limits, not_to=pid)
        await limits.levels()
        assert not any(each.granted for each in waiting), "a permit too many, after a takeover"
        limits.done(last.id, Done())
        for each, following in zip(waiting, [*waiting[1:], None], strict=True):
            await each.grant()
            assert following is None or not following.granted
            if following is not None:
                limits.done(each.id, Done())
        last = waiting[-1]
    (level,) = await limits.levels()
    assert level.in_use == 3
    for peer in peers:
        assert peer.returncode is None


async def test_a_run_that_was_lifted_without_a_coordinator_goes_first(place):
    limits = place.join(ONE)
    pid = await place.connected(limits)
    held, older, lifted = place.ask(limits), place.ask(limits, run_id="r1"), place.ask(limits, run_id="r2")
    await held.grant()
    await eventually(lambda: older.all and lifted.all)
    crash(pid)
    limits.lift("r2", "high", 10)
    await place.connected(limits, not_to=pid)
    limits.done(held.id, Done())
    await lifted.grant()
    assert not older.granted


async def test_a_refusal_without_a_coordinator_stops_all_processes(place):
    limits, other = place.join(), place.join()
    pid = await place.connected(limits)
    held = place.ask(limits)
    await held.grant()
    crash(pid)
    limits.done(held.id, Done(how="throttled", blocked_s=60.0))
    waiting = place.ask(other)
    await eventually(lambda: waiting.all)
    assert waiting.all[0].expected_s > 30.0
    (level,) = await other.levels()
    assert level.scale < 1.0


async def test_one_that_hangs_is_killed_and_replaced(place):
    limits, other = place.join(ONE, beat_s=0.1), place.join(ONE, beat_s=0.1)
    pid = await place.connected(limits)
    assert await place.connected(other) == pid
    held = place.ask(limits)
    await held.grant()
    waiting = place.ask(other)
    await other.levels()
    crash(pid, signal.SIGSTOP)
    late = place.ask(other)
    await place.connected(limits, not_to=pid)
    await place.connected(other, not_to=pid)
    await gone(pid)
    await other.levels()
    assert not waiting.granted
    assert not late.granted
    limits.done(held.id, Done())
    await waiting.grant()


async def test_a_newcomer_that_gets_no_answer_replaces_it(place):
    first = place.join(ONE)
    pid = await place.connected(first)
    await place.ask(first).grant()
    crash(pid, signal.SIGSTOP)
    newcomer = place.join(ONE, beat_s=0.1)
    assert await place.connected(newcomer) != pid
    waiting = place.ask(newcomer)
    await place.connected(first, not_to=pid)
    await newcomer.levels()
    assert not waiting.granted


async def test_a_process_that_was_stopped_itself_does_not_blame_it(place):
    peer = await place.peer(1)
    limits = place.join()
    pid = await place.connected(limits)
    peer.send_signal(signal.SIGSTOP)
    await limits.levels()
    peer.send_signal(signal.SIGCONT)
    peer.stdin.write(b"\n")
    assert await peer.stdout.readline() == b"done\n"
    assert address.holder(place.data) == pid


async def test_it_stays_for_its_processes_when_it_is_told_to_end(place):
    """A machine that stops ends all processes at once, and those that drain need their permits."""
    limits = place.join()
    pid = await place.connected(limits)
    crash(pid, signal.SIGTERM)
    await place.ask(limits).grant()
    assert limits.pid == pid
    await asyncio.to_thread(limits.close)
    await gone(pid)


async def test_it_ends_by_itself_after_its_last_process(place):
    command = [sys.executable, "-m", "offramp.limits.coordinator", "--data", place.data, "--linger", "3"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert await process.stdout.readline() == b"ready\n"
    limits = place.join()
    assert await place.connected(limits) == process.pid
    await place.ask(limits).grant()
    await asyncio.to_thread(limits.close)
    async with asyncio.timeout(GUARD_S):
        assert await process.wait() == 0
    assert not (place.folder / address.SOCKET).exists()


async def test_a_second_one_refuses_to_start(place):
    pid = await place.connected(place.join())
    command = [sys.executable, "-m", "offramp.limits.coordinator", "--data", place.data]
    done = await asyncio.to_thread(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"process {pid} has the lock of {place.data}\n")


async def test_what_was_called_counts_after_all_have_left(place):
    limits = place.join(A_MINUTE)
    pid = await place.connected(limits)
    call = place.ask(limits)
    await call.grant()
    limits.written(call.id)
    limits.done(call.id, Done())
    await limits.levels()
    await asyncio.to_thread(limits.close)
    crash(pid, signal.SIGTERM)
    await gone(pid)
    again = place.join(A_MINUTE)
    second = place.ask(again)
    await eventually(lambda: second.all)
    assert second.all[0].reason == "rate"


async def test_what_was_called_counts_after_the_caller_was_killed_together_with_it(place):
    peer = await place.peer(1)
    limits = place.join(A_MINUTE)
    pid = await place.connected(limits)
    peer.stdin.write(b"\n")
    assert await peer.stdout.readline() == b"done\n"
    await limits.levels()
    await eventually(lambda: (found := known.read_state(place.folder, 0.0)) is not None and found[0].calls)
    crash(pid, signal.SIGSTOP)
    crash(peer.pid)
    crash(pid)
    await place.connected(limits, not_to=pid)
    second = place.ask(limits)
    await eventually(lambda: second.all)
    assert second.all[0].reason == "rate"


async def test_what_was_counted_is_kept_until_more_is(place):
    """A coordinator that is killed just after its start has read it, and written nothing."""
    place.folder.mkdir()
    known.write_state(place.folder, msgspec.msgpack.encode(known.Counted(0.0, State(7))))
    for _ in range(2):
        assert known.read_state(place.folder, 3.0) == (known.Counted(0.0, State(7)), 3.0)
    assert known.read_state(place.folder, known.STATE_AGE_S_MAX + 1) is None


async def test_the_newer_declaration_counts(place):
    now = place.clock.time()
    old = place.join((ResourceSpec(NAME, concurrency=1),), declared_at=now)
    await place.ask(old).grant()
    second = place.ask(old)
    newer = place.join((ResourceSpec(NAME, concurrency=2),), declared_at=now + 1)
    await second.grant()
    # One that joins late with what was declared earlier changes nothing.
    older = place.join((ResourceSpec(NAME, concurrency=9),), declared_at=now - 1)
    for limits in (newer, older):
        (level,) = await limits.levels()
        assert level.concurrency == 2
    log = (place.folder / address.LOG).read_text(encoding="utf-8")
    assert "resource 'openai'" in log
    assert "this one counts" in log
    assert "which is newer, counts" in log


async def test_one_that_cannot_be_started_is_reported_and_tried_again(place, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")
        limits = place.join()
        await eventually(lambda: "calls wait" in caplog.text)
        asked = place.ask(limits)
    await asked.grant()
    assert caplog.text.count("calls wait") == 1


async def test_one_that_fails_at_its_start_says_why(place, caplog):
    place.folder.mkdir()
    (place.folder / address.SOCKET).mkdir()
    place.join()
    await eventually(lambda: "calls wait" in caplog.text)
    assert f"{address.SOCKET}" in caplog.text


async def test_another_users_folder_is_refused(place, monkeypatch):
    place.folder.mkdir()
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(address.SettingsError, match="belongs to another user"):
        address.open_folder(place.data)


def no_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


async def start_where_no_byte_can_be_written(place):
    command = [sys.executable, "-m", "offramp.limits.coordinator", "--data", place.data]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=no_files
    )
    assert await process.stdout.readline() == b"ready\n"
    return process


async def test_it_serves_where_no_byte_can_be_written(place):
    """As on a full disk: permits of runs that are under way have nothing to do with it."""
    process = await start_where_no_byte_can_be_written(place)
    limits = place.join()
    assert await place.connected(limits) == process.pid
    await place.ask(limits).grant()
    assert address.holder(place.data) is None


async def test_one_that_could_not_sign_its_lock_is_killed_too_when_it_hangs(place):
    process = await start_where_no_byte_can_be_written(place)
    limits = place.join(beat_s=0.1)
    await place.connected(limits)
    crash(process.pid, signal.SIGSTOP)
    await place.connected(limits, not_to=process.pid)
    async with asyncio.timeout(GUARD_S):
        assert await process.wait() == -signal.SIGKILL


async def test_a_process_that_has_the_id_in_the_lock_by_chance_is_not_killed(place):
    """In another container it is one of another process."""
    innocent = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        lock = address.take_lock(place.data)
        os.pwrite(lock, b"%d\n" % innocent.pid, 0)
        try:
            assert not starting.end_hung(place.data, innocent.pid)
        finally:
            os.close(lock)
        assert lives(innocent.pid)
    finally:
        innocent.kill()
        await innocent.wait()


async def test_a_look_while_there_is_none_ends_with_an_error(place, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(client, "LEVELS_S_MAX", 0.01)
    with pytest.raises(StoreError, match="no coordinator of limits"):
        await place.join().levels()


def test_every_wait_for_a_hung_one_is_bounded():
    assert link.BEAT_S * (link.MISSED_MAX + 1) < 5 < client.LEVELS_S_MAX


async def test_three_resources_are_what_it_is_asked_for(place):
    limits = place.join((*THREE, ResourceSpec("other"), ResourceSpec("third")))
    assert [level.name for level in await limits.levels()] == [NAME, "other", "third"]
