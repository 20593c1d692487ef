"""The command line as a real process, its output awaited line by line; a gateway that misbehaves on demand."""

from __future__ import annotations

import functools
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from tests.servers import until_exit

WAIT_S = 30.0
OFFRAMP = [sys.executable, "-m", "offramp"]
READ_LATE = ("OFFRAMP_", "_OFFRAMP_", "COMP_", "PYTEST_", "AWS_")
"""Variables that no module reads when it is imported."""


def environment(**extra: str) -> dict[str, str]:
    """This environment without settings of ours, so that a developer's own do not count."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OFFRAMP_", "COV_"))}
    return {**plain, "PYTHONUNBUFFERED": "1", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8", **extra}


CLEAN = environment()
"""As it is before the first test."""


def offramp(
    *arguments: str, cwd: Path, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as a fork of a loaded process where it can be one."""
    given = environment(**(env or {}))
    other = {name for name in given.keys() | CLEAN.keys() if given.get(name) != CLEAN.get(name)}
    if all(name.startswith(READ_LATE) for name in other):
        return loaded().run(arguments, cwd, given, stdin)
    return subprocess.run(
        [*OFFRAMP, *arguments],
        cwd=cwd,
        env=given,
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT_S * 2,
        check=False,
    )


class Loaded:
    """A process that has loaded the command line, and forks for each command."""

    def __init__(self, folder: str) -> None:
        self._address = str(Path(folder, "commands"))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen()
            script = Path(__file__).with_name("loaded.py")
            command = [sys.executable, str(script), str(listener.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(command, env=CLEAN, stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()])

    def run(
        self, arguments: Sequence[str], cwd: Path, env: dict[str, str], stdin: str
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` returns; a command that is not in time is killed."""
        with (
            socket.socket(socket.AF_UNIX) as connection,
            tempfile.TemporaryFile("w+", encoding="utf-8") as given,
            tempfile.TemporaryFile("w+", encoding="utf-8") as out,
            tempfile.TemporaryFile("w+", encoding="utf-8") as err,
        ):
            given.write(stdin)
            given.seek(0)
            connection.settimeout(WAIT_S * 2)
            connection.connect(self._address)
            command = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": env}).encode()
            socket.send_fds(connection, [command], [file.fileno() for file in (given, out, err)])
            pid = int.from_bytes(connection.recv(4), "big", signed=True)
            try:
                code = int.from_bytes(connection.recv(4), "big", signed=True)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess([*OFFRAMP, *arguments], code, out.read(), err.read())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@functools.cache
def loaded() -> Loaded:
    """The one that the tests of this process share."""
    return until_exit(Loaded, "commands")


class Running:
    """A command that goes on; `wait_for` reads its stderr until a line matches."""

    def __init__(
        self, arguments: Sequence[str], cwd: Path, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, *OFFRAMP, *arguments],
            cwd=cwd,
            env=environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.seen: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        ends_at = time.monotonic() + WAIT_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, ends_at - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no line like {pattern!r} in:\n" + "\n".join(self.seen)
            self.seen.append(line)
            found = re.search(pattern, line)
            if found:
                return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr once it has left."""
        assert self.process.stdout is not None
        stdout = self.process.stdout.read()
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        while (line := self._lines.get(timeout=WAIT_S)) is not None:
            self.seen.append(line)
        return code, stdout, "\n".join(self.seen)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def running(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> Iterator[Running]:
    """A command that goes on, to the end of the block; `prefix` is a command that executes it."""
    command = Running(arguments, cwd, env, prefix)
    try:
        yield command
    finally:
        command.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> None:
    """Returns once no process has this id; there is no event for a process that is not ours."""
    ends_at = time.monotonic() + WAIT_S
    while is_alive(pid):
        assert time.monotonic() < ends_at, f"process {pid} is still there"
        time.sleep(0.02)


@contextmanager
def served(app: object, certificate: Path | None = None) -> Iterator[str]:
    """An ASGI application on a real port, over TLS if given a certificate with its key; its address."""
    bound = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        ssl_certfile=certificate,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        # The socket listens already: a request that comes early waits in its backlog.
        yield f"http{'s' if certificate else ''}://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        bound.close()
