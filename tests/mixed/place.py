"""Gateways and workers of the reference desk as on several machines: nothing shared but Redis and Temporal."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import httpx

from tests.cli.harness import Running

ROOT = Path(__file__).parent.parent.parent
GUARD_S = 90.0
LEASE_S = 2


def until(condition):
    """Wait for what another process does, which tells nobody."""
    ends = time.monotonic() + GUARD_S
    while not (found := condition()):
        assert time.monotonic() < ends, "what has to happen did not happen"
        time.sleep(0.01)
    return found


class Place:
    """Processes, each with a data folder of its own; `close` leaves none behind."""

    def __init__(self, home, temporal, redis):
        self.home = home
        self._options = ["--engine", temporal.url(uuid.uuid4().hex), "--store", redis.url(uuid.uuid4().hex)]
        self._processes = []

    def _start(self, command, *options):
        data = self.home / f"data{len(self._processes)}"
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        env = {"PYTHONPATH": path, "DESK_HOME": str(self.home), "OFFRAMP_LEASE": str(LEASE_S)}
        arguments = [command, "tests.mixed.desk:app", *self._options, "--data", str(data), *options]
        process = Running(arguments, ROOT, env | {"OFFRAMP_PROCESSES": "1"})
        self._processes.append(process)
        return process

    def open(self):
        """Start two gateways and two workers at once; returns them when they are ready."""
        gateways = [self._start("serve", "--port", "0", "--workers", "0") for _ in range(2)]
        workers = [self._start("worker") for _ in range(2)]
        for worker in workers:
            worker.wait_for("ready in")
        for gateway in gateways:
            gateway.url = gateway.wait_for(r"at (http://127.0.0.1:\d+),")[1]
            until(lambda url=gateway.url: httpx.get(f"{url}/readyz").status_code == 200)
        return gateways, workers

    def close(self):
        for process in self._processes:
            process.close()

    @contextlib.contextmanager
    def answers_held(self):
        """Nothing is written to a question meanwhile."""
        hold = self.home / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    # What the steps wrote down.

    def executions(self):
        """The executions of each step of each run, by idempotency key, in the order they began."""
        found = defaultdict(list)
        file = self.home / "executions"
        for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            line = json.loads(text)
            if line["ended"]:
                next(one for one in reversed(found[line["key"]]) if one["pid"] == line["pid"])["ended"] = line["at"]
            else:
                found[line["key"]].append(line)
        return found

    def begun(self, step):
        """How many executions of a step have begun."""
        return sum(len(made) for key, made in self.executions().items() if key.split(":")[1] == step)

    def repeated(self, *died):
        """Steps that were executed again though the process that executed them before was none of these."""
        pids = {process.process.pid for process in died}
        found = self.executions().items()
        return [(key, pair) for key, made in found for pair in pairwise(made) if pair[0]["pid"] not in pids]

    def executed_again(self, seen):
        """Steps that began though a client had heard that they were finished."""
        made = self.executions()
        return [
            (key, frame.at)
            for one in seen
            for frame in one.frames
            if frame.type == "step.completed"
            for key in [f"{one.run}:{json.loads(frame.data)['key']}"]
            if made[key][-1]["at"] > frame.at
        ]
