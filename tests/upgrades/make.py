"""Has an old version make a database with runs in every state it knows, and writes that down as SQL.

    python tests/upgrades/make.py PYTHON

PYTHON is the interpreter of an environment in which that version is installed, with the packages of its own
constraints.txt: the last commit before the schema's next migration. What is made is `databases/schema-N.sql.gz`;
`test_upgrades.py` opens it with the present code.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LEASE_S = 60
SIGNALS_SINCE, WEBHOOKS_SINCE, DEATHS_SINCE = 3, 2, 6
"""The first schemas with them."""
# Every process imports it first: names of this machine do not get into the database.
SITE = "import socket\nsocket.gethostname = lambda: 'host'\n"
Run = dict[str, Any]


class Old:
    """A service of the old version, its gateway and worker processes of their own, so that each can be taken down."""

    def __init__(self, python: str, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        shutil.copy(HERE / "app.py", folder / "app.py")
        (folder / "sitecustomize.py").write_text(SITE)
        self._python, self._folder = python, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(folder),
            "OFFRAMP_LEASE": str(LEASE_S),
            "OFFRAMP_PURGE_EVERY": "1",
            "OFFRAMP_WEBHOOK_SECRET": "whsec_" + "b2ZmcmFtcA" * 4,
            "OFFRAMP_WEBHOOK_ALLOW": "127.0.0.1/32",
            "UPGRADES_HELD": "1",
        }
        self.gateway = self._start("serve", "--workers", "0", "--port", str(self._port), "--data", str(self.data))
        self.worker = self.work()

    def _start(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._python, "-m", "offramp", command, "app.py:app", *options],
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,
        )

    def work(self) -> subprocess.Popen[bytes]:
        self.worker = self._start("worker", "--engine", f"embedded:{self.data}")
        return self.worker

    def ask(self, path: str, body: Any = None, **headers: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Accept": "application/json", **headers},
            method="GET" if body is None else "POST",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def submit(self, case: str, pipeline: str, prefer: str = "respond-async", *, key: str = "", **more: Any) -> Run:
        """Start a run that the test knows by its case."""
        arguments = {"amount": 3} if pipeline == "pays" else {"question": case}
        body = {"input": arguments, "metadata": {"case": case}, "session_id": "of-then"} | more
        headers = {"Idempotency-Key": key} if key else {}
        return self.ask(f"/v1/pipelines/{pipeline}/runs", body, Prefer=prefer, **headers)

    def ended(self, run: Run) -> bool:
        return self.ask(f"/v1/runs/{run['id']}")["finished_at"] is not None

    def is_in(self, run: Run, step: str) -> bool:
        """Whether the step was begun and is not finished."""
        row = self.rows("SELECT count(*) FROM runs WHERE id = ? AND owner IS NOT NULL", run["id"])
        steps = self.ask(f"/v1/runs/{run['id']}")["steps"]
        return row[0][0] == 1 and any(found["name"] == step and found["status"] == "running" for found in steps)

    def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.data / "offramp.db", timeout=10)) as connection:
            return connection.execute(sql, arguments).fetchall()

    def kill(self) -> None:
        for process in (self.worker, self.gateway):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(what: Callable[[], Any], message: str, within_s: float = 30) -> None:
    ends = time.monotonic() + within_s
    while True:
        with contextlib.suppress(urllib.error.URLError, sqlite3.OperationalError, ConnectionError):
            if what():
                return
        if time.monotonic() > ends:
            raise TimeoutError(message)
        time.sleep(0.05)


def make(old: Old) -> None:
    """Runs in every state; every process is killed in the end."""
    until(lambda: old.ask("/readyz"), "the gateway is not ready")
    schema = old.rows("PRAGMA user_version")[0][0]

    # Those that end before the upgrade.
    runs = [
        old.submit("completed", "quick", key="once-only"),
        old.submit("failed", "fails"),
        old.submit("expired", "late"),
        old.submit("purged", "forgotten"),
        cancelled := old.submit("cancelled", "works"),
    ]
    if schema >= WEBHOOKS_SINCE:  # at a port where nothing listens
        webhook = {"url": "http://127.0.0.1:1024/hook", "events": ["run.completed"]}
        runs.append(old.submit("announced", "quick", webhook=webhook))
    until(lambda: old.is_in(cancelled, "held"), "the run to be cancelled does not begin")
    old.ask(f"/v1/runs/{cancelled['id']}/cancel", {})
    for run in runs:
        until(lambda run=run: old.ended(run), f"{run['metadata']} does not end")
    until(lambda: old.rows("SELECT 1 FROM runs WHERE purged = 1"), "nothing is purged")

    # One whose worker dies once before.
    killed = old.submit("killed", "works")
    until(lambda: old.is_in(killed, "held"), "the run whose worker is killed does not begin")
    old.worker.kill()
    old.worker.wait()
    old.work()
    if schema >= DEATHS_SINCE:
        until(lambda: old.rows("SELECT 1 FROM runs WHERE deaths = 1"), "no death is counted", LEASE_S * 2)

    # Those that a process executes, or that wait.
    running = [(old.submit("running", "works"), "held"), (old.submit("paid", "pays"), "pay")]
    running += [(old.submit("demoted", "demoted", "wait=9", budget=1), "held"), (killed, "held")]
    running += [(old.submit("asked-to-end", "works"), "held")]
    for run, step in running:
        until(lambda run=run, step=step: old.is_in(run, step), f"{run['metadata']} does not begin", LEASE_S * 2)
    waiting = [old.submit("sleeping", "sleeps")]
    if schema >= SIGNALS_SINCE:
        waiting += [old.submit("waiting", "approval"), old.submit("signalled", "approval")]
    noted = "SELECT 1 FROM journal WHERE run_id = ?"
    for run in waiting:
        until(lambda run=run: old.rows(noted, run["id"]), f"{run['metadata']} does not begin")
    if schema >= SIGNALS_SINCE:
        parked = "SELECT 1 FROM runs WHERE parked_until IS NOT NULL AND id = ?"
        for run in waiting:
            until(lambda run=run: old.rows(parked, run["id"]), f"{run['metadata']} is not parked")
    with streaming(old):
        # The worker stands still: it takes nothing and hears of nothing any more.
        os.killpg(old.worker.pid, signal.SIGSTOP)
        old.ask(f"/v1/runs/{running[-1][0]['id']}/cancel", {})
        for case, pipeline in (("queued", "works"), ("queued-to-wait", "approval"), ("queued-too-long", "urgent")):
            old.submit(case, pipeline)
        if schema >= SIGNALS_SINCE:
            old.ask(f"/v1/runs/{waiting[2]['id']}/signals/approved", "late")
        time.sleep(0.5)  # writes that no caller waits for are on disk by then
        old.kill()


@contextlib.contextmanager
def streaming(old: Old) -> Iterator[None]:
    """While a client reads a run that the gateway itself executes."""
    body = {"input": {"question": "streamed"}, "metadata": {"case": "streamed"}, "session_id": "of-then"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{old._port}/v1/pipelines/streamed/runs",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Accept": "text/event-stream"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        for line in answer:
            if b"held" in line:
                break
        yield


def dump(database: Path) -> tuple[int, str]:
    """The schema's number, and the whole database as SQL."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        script = "\n".join(connection.iterdump())
    made = f"-- made at {time.time():.0f} by tests/upgrades/make.py"
    return schema, f"{made}\n{script}\nPRAGMA user_version = {schema};\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        service = Old(str(Path(sys.argv[1]).absolute()), Path(temporary))
        try:
            make(service)
        finally:
            service.kill()
        number, sql = dump(service.data / "offramp.db")
    target = HERE / "databases" / f"schema-{number}.sql.gz"
    target.write_bytes(gzip.compress(sql.encode(), mtime=0))
    print(f"{target}: {target.stat().st_size} bytes")  # noqa: T201 - a program
