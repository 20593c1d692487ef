"""`offramp serve` as a set of processes that a test kills, stops and starts again, over one data folder."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.chaos.receiver import SECRET
from tests.servers import free_port

APP = Path(__file__).with_name("pipelines.py")
GUARD_S = 60.0
"""Against hanging, for a machine on which everything takes ten times as long."""
LEASE_S = 1.0
RECOVERY_S = 10.0
"""Within this an acknowledged run ends by itself after the last restart, on a machine that does nothing else."""
PATIENT = {"lease": 60, "drain_timeout": 40, "write_timeout": 60}
"""Settings under which nothing runs out on a busy machine: whose lock is free died, and nobody else is given up."""


class Interruption(NamedTuple):
    """What was done to a process, and when, on the monotonic clock; `until` where it was only stopped for a while."""

    pid: int
    how: str
    at: float
    until: float


class Serving:
    """One `offramp serve` after another, in one folder and on one port."""

    def __init__(
        self, home: Path, *, app: Path = APP, workers: int = 2, port: int | None = None, **settings: object
    ) -> None:
        self.home = home
        self.data = home / "data"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = app
        self.workers = workers
        self.interruptions: list[Interruption] = []
        self.started_at = 0.0
        self.log = home / "log"
        self._settings = {
            "lease": LEASE_S,
            "poll": 0.2,
            "heartbeat": 1,
            "processes": 1,
            "drain_timeout": 10,
            "process_deaths": 1_000,  # a process that is killed all the time makes no run suspect
            "webhook_secret": SECRET,
            "webhook_allow": "127.0.0.1",
            "webhook_timeout": 2,
            **settings,
        }
        self.variables: dict[str, str] = {}
        """What the environment of each start has besides."""
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, psutil.Process] = {}
        self._gateways: dict[Path, int] = {}

    # Starting.

    def start(self, **environment: str) -> None:
        self.log = self.home / f"log-{self.port}-{len(self._gateways) + 1}"
        variables = {f"OFFRAMP_{name.upper()}": str(value) for name, value in self._settings.items()}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "offramp", "serve", str(self.app)),
                    *("--port", str(self.port), "--data", str(self.data), "--workers", str(self.workers)),
                ],
                env={**plain, "PYTHONUNBUFFERED": "1", "CHAOS_HOME": str(self.home)}
                | variables
                | self.variables
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self._gateways[self.log] = self._process.pid
        self._watch(self._process.pid)

    def is_up(self) -> bool:
        with (
            contextlib.suppress(OSError, HTTPException),
            contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=2)) as connection,
        ):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def wait_until_up(self) -> None:
        ends_at = time.monotonic() + GUARD_S
        while not self.is_up():
            assert self.alive, f"serve ended by itself:\n{self.log.read_text()}"
            assert time.monotonic() < ends_at, f"not ready in {GUARD_S} s:\n{self.log.read_text()}"
            time.sleep(0.02)
        self.family()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def left_to_announce(self) -> list[str]:
        """The runs whose webhooks are not done."""
        with contextlib.closing(sqlite3.connect(self.data / "offramp.db")) as connection:
            return [run for (run,) in connection.execute("SELECT run_id FROM webhooks")]

    # Its processes.

    def _watch(self, pid: int) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            return self._known.setdefault(pid, psutil.Process(pid))
        return None

    def family(self) -> list[psutil.Process]:
        """The gateway and everything below it, workers first."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                self._watch(child.pid)
        return [process for process in reversed(self._known.values()) if _runs(process)]

    def _with(self, word: str) -> list[int]:
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if word in process.cmdline():
                    found.append(process.pid)
        return found

    def worker_pids(self) -> list[int]:
        below = set()
        with contextlib.suppress(psutil.Error):
            below = {child.pid for child in psutil.Process(self.pid).children()}
        return [pid for pid in self._with("worker") if pid in below]

    def lane_pids(self) -> list[int]:
        return self._with("--multiprocessing-fork")

    def coordinator_pids(self) -> list[int]:
        """The process that gives out the permits of resources: no child of the gateway, for it may outlive it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if "offramp.limits.coordinator" in line and str(self.data) in line and _runs(process):
                    self._watch(process.pid)
                    found.append(process.pid)
        return found

    # Harm.

    def _kill(self, pid: int, how: str) -> None:
        at = time.monotonic()  # before: this process may have to wait for its turn before it can look again
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.interruptions.append(Interruption(pid, how, at, time.monotonic()))

    def kill(self, pid: int) -> None:
        self._kill(pid, "killed")
        if pid == self.pid and self._process is not None:
            self._process.wait(GUARD_S)

    def kill_all(self) -> None:
        """SIGKILL for the gateway, its workers and their process lanes, as of a machine that goes down."""
        family = self.family()
        if self._process is not None and self.alive:
            self._kill(self.pid, "killed")
        for process in family:
            if process.pid != self.pid and _runs(process):
                self._kill(process.pid, "killed")
        if self._process is not None:
            self._process.wait(GUARD_S)

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end."""
        at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            self.interruptions.append(Interruption(pid, "stopped", at, time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def crashed(self, pid: int) -> None:
        """Note that a process of this start ended at an armed point; if it was the gateway, wait for that."""
        assert self._process is not None
        self.family()
        if pid == self.pid:
            assert self._process.wait(GUARD_S) == -signal.SIGKILL, self.log.read_text()
        self.interruptions.append(Interruption(pid, "crashed", self.started_at, time.monotonic()))

    def wait(self) -> int:
        """The exit code of a gateway that ends by itself."""
        assert self._process is not None
        return self._process.wait(GUARD_S)

    def terminate(self) -> int:
        """SIGTERM and the exit code."""
        assert self._process is not None
        self.family()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(GUARD_S)

    def write_interruptions(self) -> None:
        (self.home / "interruptions").write_text("\n".join(map(str, self.interruptions)))

    def close(self) -> None:
        """Leave nothing behind, stopped processes included."""
        self.family()
        self.coordinator_pids()
        if self._process is not None and self.alive:
            self._process.kill()
            self._process.wait(GUARD_S)
        for process in self._known.values():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def silent(self) -> set[int]:
        """Processes that lost their lease without being stopped here: the machine did not let them run in time."""
        found: set[int] = set()
        for log, gateway in self._gateways.items():
            pids: dict[str, int] = {}
            for line in log.read_text(errors="replace").splitlines():
                if started := re.search(r"(worker \d+) started \(pid (\d+)\)", line):
                    pids[started[1]] = int(started[2])
                elif "silent for longer than its lease" in line:
                    who = re.search(r"(worker \d+)  ", line)
                    found.add(pids.get(who[1], 0) if who else gateway)
                elif "released the runs of silent processes" in line:  # one that was killed soon after says nothing
                    found.update(int(pid) for pid in re.findall(r"gateway-\S+-(\d+)-", line))
                    found.update(pids.get(f"worker {number}", 0) for number in re.findall(r"\bworker-(\d+)-", line))
        return found - {item.pid for item in self.interruptions if item.how == "stopped"}


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
