"""A process is killed in the middle of a failover; another one goes on in the list, and begins no target again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offramp.core.events import decode
from tests.failover import victim
from tests.support import GUARD_S, assert_one_log, eventually, frames_of, member

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def process(folder, role, *pipelines):
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.failover.victim", role, "first", *pipelines],
        cwd=ROOT,
        env=os.environ | {"OFFRAMP_TEST_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = child.stdout.readline().split()
        assert said[:1] == ["ready"]
        child.run, *_ = said[1:]
        yield child
    finally:
        child.kill()
        child.wait(GUARD_S)
        child.stdout.close()


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_a_killed_process_of_a_failover(tmp_path, monkeypatch, path):
    monkeypatch.setattr(victim, "folder", tmp_path)
    with process(tmp_path, "local", path) as first:
        async with member(victim.app, tmp_path, "gateway", owner="gateway", lease=0.5, poll=0.1) as gateway:

            async def in_second():
                steps = (await gateway.document(first.run))["steps"]
                return [(step["attempts"], step["status"], step["target"]) for step in steps] == [
                    (2, "running", "slow")
                ]

            await eventually(in_second)
            first.send_signal(signal.SIGKILL)
            await asyncio.to_thread(first.wait, GUARD_S)
            (tmp_path / "go").touch()
            async with member(victim.app, tmp_path, "worker", owner="second", lease=0.5, poll=0.1):
                frames = await frames_of(gateway, first.run)
            record = await gateway.get(first.run)
            [step] = (await gateway.document(first.run))["steps"]
    assert_one_log(frames)
    assert (record.status, record.result) == ("completed", b'"slow: why"')
    assert (tmp_path / "executed").read_text().split("\n")[:-1] == ["broken 1", "slow 2", "slow 2"]
    events = [decode(frame.data) for frame in frames]
    started = [event.data["target"] for event in events if event.type == "step.started"]
    retrying = [
        (event.data["attempt"], event.data["error"]["code"], event.data["target"])
        for event in events
        if event.type == "step.retrying"
    ]
    assert started == ["broken", "slow", "slow"]
    assert retrying == [(1, "step-failed", "broken"), (2, "interrupted", "slow")]
    assert (step["attempts"], step["target"]) == (2, "slow")
