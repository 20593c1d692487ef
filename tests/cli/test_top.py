from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest

from offramp.cli.top_frame import Snapshot, frame
from offramp.core.slo import WINDOWS
from tests.cli.harness import OFFRAMP, WAIT_S, environment, offramp

AT = 1_700_000_000.0
STARTED = "2023-11-14T22:13:10.000Z"


def level(name, *, burn=0.0, firing=False):
    window = {"runs": 10, "within_target": 1.0, "burn_rate": burn}
    return {
        "class": name,
        "target_s": 2.0,
        "budget_left": 0.5,
        "windows": dict.fromkeys(WINDOWS, window),
        "alerts": [{"firing": firing}],
    }


def row(name, pipeline="p", **counts):
    statuses = ("queued", "running", "completed", "failed", "cancelled", "expired")
    return {
        "pipeline": pipeline,
        "class": name,
        "counts": {status: {"fast": counts.get(status, 0), "deep": 1} for status in statuses},
        "demoted": 3,
        "queue": {"length": 2, "oldest_s": 150.0},
    }


def run(number, **more):
    made = {"id": f"run_{number:026}", "pipeline": "p", "status": "running", "path": "deep", "class": "quick"}
    return {**made, "created_at": STARTED, **more}


def worker(number):
    name = f"worker-{'h' * 30}-{number}"
    figures = {"ready": True, "runs_held": 2, "warm_lanes": 1, "started_at": STARTED}
    return {"id": name, "kind": "worker", "host": "host", "pid": 1, "version": "1", **figures}


def test_a_frame_says_how_classes_runs_and_processes_are():
    shown = Snapshot(
        "http://gateway",
        AT,
        [level("quick", burn=1.5), level("slow", burn=20.0, firing=True)],
        [row("quick", completed=1_000), row("quick", pipeline="q", failed=4), row("batch")],
        [worker(1)],
        [run(1), run(2, waiting_for=[{"kind": "signal", "name": "approved"}]), run(3, status="queued")],
    )
    lines = frame(shown, 100, 24)
    texts = [line.text for line in lines]
    quick, slow, batch = lines[3:6]
    assert quick.text.split() == ["quick", "2.0", "s", "1.5", "1.5", "50%", "1,012", "8", "6", "4", "2m"]
    assert (quick.style, slow.style) == ("yellow", "red")
    assert batch.text.split()[:5] == ["batch", "-", "-", "-", "-"]
    assert any(re.search(r"run_0+2 +p +waits +deep +10s +quick \(for approved\)", text) for text in texts)
    assert any(re.search(r"worker-h+… host +yes +2 +1 +10s", text) for text in texts)
    assert "and 3 more" in texts, "the statistics know of more runs than were listed"


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 60)])
def test_a_frame_fits_however_much_there_is(size):
    width, height = size
    names = [f"class-{number}-\x1b[31m{'long' * 9}" for number in range(30)]
    shown = Snapshot(
        "http://gateway/" + "x" * 300,
        AT,
        [level(name) for name in names],
        [row(name) for name in names],
        [worker(number) for number in range(30)],
        [run(number) for number in range(50)],
        problem="the gateway cannot be reached " * 20,
    )
    lines = frame(shown, width, height)
    assert len(lines) <= height
    assert all(len(line.text) <= width for line in lines)
    assert not any("\x1b" in line.text for line in lines)
    if height >= 24:
        assert [line.text.split()[0] for line in lines if line.text.isupper() or "BURN" in line.text] == [
            "CLASS",
            "RUN",
            "PROCESS",
        ]


def test_one_frame_is_printed_for_a_script(gateway, project):
    offramp("submit", "explain", "-i", '{"question": "why"}', cwd=project, env={"OFFRAMP_URL": gateway.url})
    shown = offramp("top", "--once", "--url", gateway.url, cwd=project)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert len(lines) <= 24
    assert any(re.match(r"interactive .* 1 +0 +0 +0$", line) for line in lines), shown.stdout
    processes = [line for line in lines if line.startswith(("gateway-", "worker-"))]
    assert len(processes) == 2


def test_a_gateway_that_is_not_there_is_one_line(project):
    gone = offramp("top", "--url", "http://127.0.0.1:9", cwd=project)
    assert (gone.returncode, gone.stdout) == (3, "")
    assert len(gone.stderr.splitlines()) == 1


def test_it_redraws_until_q_and_leaves_the_terminal_as_it_was(gateway, project):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(follower)
    given = environment(TERM="xterm")
    del given["COLUMNS"]
    command = [*OFFRAMP, "top", "--every", "0.5", "--url", gateway.url]
    process = subprocess.Popen(command, cwd=project, env=given, stdin=follower, stdout=follower, stderr=follower)
    seen, ends = "", time.monotonic() + WAIT_S
    try:
        while seen.count("PROCESS") < 2:
            assert select.select([leader], [], [], max(0.0, ends - time.monotonic()))[0], seen
            seen += os.read(leader, 65_536).decode()
        os.write(leader, b"xq")
        assert process.wait(WAIT_S) == 0
        seen += os.read(leader, 65_536).decode()
        assert termios.tcgetattr(follower) == before
        assert "\x1b[?1049h" in seen
        assert "\x1b[?1049l" in seen
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)
