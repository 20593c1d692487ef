"""The servers under test: started on loopback, measured for CPU time, and always stopped afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, NamedTuple

import psutil  # type: ignore[import-untyped]

from bench._http import connect, get

ROOT = Path(__file__).resolve().parent.parent
READY_S_MAX = 60.0
STOP_S_MAX = 10.0
PORTS = range(20_000, 30_000)
"""Below the ephemeral range, in which a client polling for its server can connect to itself."""


class Memory(NamedTuple):
    """Memory of the process that speaks HTTP, and of its workers together."""

    http: float
    workers: float


class Server:
    """A running server and its children."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: IO[bytes] | None = None) -> None:
        self.port = port
        self._output = output
        self._process = psutil.Process(process.pid)

    def family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time of the process that speaks HTTP."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def family_cpu_s(self) -> float:
        """The same including its running children."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory_mb(self) -> Memory:
        """Resident memory now, in MB of 1,000,000 bytes."""
        http, *others = [process.memory_info().rss / 1e6 for process in self.family()]
        return Memory(http, sum(others))

    def log(self) -> str:
        """Its stderr output so far, if recorded."""
        if self._output is None:
            return ""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")  # does not move the file position

    def kill(self) -> None:
        """Send SIGKILL to all of them, as if the machine went down."""
        family = self.family()
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=STOP_S_MAX)


def free_port() -> int:
    for port in random.sample(PORTS, 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@asynccontextmanager
async def serving(
    arguments: Sequence[str], port: int, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Server]:
    """`python -m ARGUMENTS` once it is ready; stopped afterwards, and killed if that takes too long."""
    command = [sys.executable, "-m", *arguments]
    with tempfile.TemporaryFile() as output:
        process = _start(command, output, variables or {})
        server = Server(process, port, output)
        try:
            await _ready(process, port, output)
            yield server
        finally:
            _stop(process, server)


def _start(command: Sequence[str], output: IO[bytes], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=output
    )


async def _ready(process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
    async with asyncio.timeout(READY_S_MAX):
        while process.poll() is None:
            with contextlib.suppress(OSError):
                connection = await connect(port)
                answer = await connection.whole(get("/readyz"))
                connection.close()
                if answer.status == 200:
                    return
            await asyncio.sleep(0.02)
    output.seek(0)
    raise RuntimeError(f"the server ended before it was ready: {output.read().decode(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes], server: Server) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        family = server.family()
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_S_MAX)
        for late in alive:
            late.kill()
    process.wait()


def gateway(port: int, data: Path) -> Sequence[str]:
    """Offramp's server with one worker."""
    return ["offramp", "serve", "bench/_gateway_app.py:app", "--port", str(port), "--data", str(data)]


def bare(port: int, recorded: Path) -> Sequence[str]:
    """The bare server, replaying the gateway's bytes."""
    return ["bench._bare", str(port), str(recorded)]
