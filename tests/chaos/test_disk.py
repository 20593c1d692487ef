"""Disks that are full, read-only, locked or damaged: a clear error, nothing acknowledged lost, and an end to it.

A file size limit stands in for a full disk: it needs no rights, and SQLite sees the same: a write that fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import sqlite3

import httpx
import psutil
import pytest

from tests.chaos.client import Asked, Client, Seen
from tests.chaos.invariants import violations
from tests.chaos.serving import GUARD_S, PATIENT, Serving

FULL_AT_BYTES = 64 * 1024
"""Less than the write-ahead log has after a few runs, more than the steps of these tests write down."""
pytestmark = pytest.mark.timeout(200)


@pytest.fixture
async def service(tmp_path, request):
    made = Serving(tmp_path, workers=1, **getattr(request, "param", PATIENT))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def client(service):
    async with Client(service.url) as made:
        yield made


async def up(service):
    await asyncio.to_thread(service.start)
    await asyncio.to_thread(service.wait_until_up)


async def logged(service, *texts):
    """Wait until the service says one of these on stderr."""
    async with asyncio.timeout(GUARD_S):
        while not any(text in service.log.read_text() for text in texts):  # noqa: ASYNC110 - nothing tells what another process does
            await asyncio.sleep(0.02)


async def ended(client, service, seen, following):
    """What was acknowledged ends by itself, and all invariants hold."""
    await asyncio.wait_for(asyncio.gather(*following), GUARD_S)
    for one in seen:
        await client.look_back(one)
    assert await asyncio.to_thread(service.terminate) == 0, service.log.read_text()
    assert {one.outcome for one in seen} == {"run.completed"}
    found = violations(service.home, seen, service.interruptions, service.silent())
    assert not found, "\n".join(found)


def begin(client, *asked):
    seen = [Seen(one) for one in asked]
    return seen, [asyncio.create_task(client.follow(one)) for one in seen]


async def in_flight(seen):
    async with asyncio.timeout(GUARD_S):
        while not all(one.first("step.started") for one in seen):  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)


def some():
    return (
        Asked("sequence", {"steps": 12, "seconds": 0.2}),
        Asked("sequence", {"steps": 12, "seconds": 0.2}, sla="brief"),
        Asked("sequence", {"steps": 12, "seconds": 0.2}, "deep"),
    )


async def refused(service):
    """The problem that a request for a run gets at last."""
    async with asyncio.timeout(GUARD_S), httpx.AsyncClient(timeout=GUARD_S) as http:
        while True:
            answer = await http.post(
                f"{service.url}/v1/pipelines/sequence/runs",
                json={"input": {"steps": 1}},
                headers={"prefer": "respond-async"},
            )
            if answer.status_code != 202:
                return answer
            await asyncio.sleep(0.02)


def limit_files(service, size):
    """Let no process of the service write any file beyond this size."""
    for process in service.family():
        with contextlib.suppress(psutil.Error):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
async def test_a_full_disk_refuses_new_runs_and_keeps_the_accepted_ones_waiting(service, client):
    await up(service)
    seen, following = begin(client, *some())
    await in_flight(seen)
    limit_files(service, FULL_AT_BYTES)
    answer = await refused(service)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "Traceback" not in answer.text
    await logged(service, f"{str(service.data / 'offramp.db')!r} cannot be written")
    read = await client.http.get(f"{service.url}/v1/runs/{seen[0].run}")
    assert read.status_code == 200  # what is known can be read meanwhile
    limit_files(service, resource.RLIM_INFINITY)
    await ended(client, service, seen, following)


REQUESTS = 50
FLOODS, FLOOD_WORDS = 2, 8_000
"""More than one transaction takes waits in front of the requests."""


class Asking:
    """Requests of each kind at once, of which a client knows only what it was answered; sent again, they are the same.

    Runs have a session of their own each, by which they are found.
    """

    def __init__(self, service, http, to_signal, to_cancel):
        self._service = service
        self._http = http
        self._signal = f"/v1/runs/{to_signal}/signals/approved"
        self._cancel = f"/v1/runs/{to_cancel}/cancel"

    async def all(self):
        """The answers: the client's own timeout is all that bounds them here."""
        return await asyncio.gather(*(self._ask(number) for number in range(REQUESTS)))

    async def _ask(self, number):
        kind, headers = number % 5, {"idempotency-key": f"key-{number}"}
        if kind == 0:
            return await self._http.post(self._signal, json={"by": "ada"}, headers=headers)
        if kind == 1:
            return await self._http.post(self._cancel)
        headers |= [{"prefer": "respond-async"}, {"accept": "text/event-stream"}, {}][kind - 2]
        body = {"input": {"steps": 1}, "session_id": f"session-{number}"}
        return await self._http.post("/v1/pipelines/sequence/runs", json=body, headers=headers)

    async def ready(self):
        return await self._http.get("/readyz")

    async def is_ready(self):
        async with asyncio.timeout(GUARD_S):
            while (await self.ready()).status_code != 200:  # noqa: ASYNC110 - nothing tells what another process does
                await asyncio.sleep(0.05)

    async def runs_by_session(self):
        """How many runs there are of each submission."""
        found = {}
        for number in range(REQUESTS):
            if number % 5 > 1:
                page = await self._http.get("/v1/runs", params={"session_id": f"session-{number}"})
                found[number] = len(page.json()["runs"])
        return found


@contextlib.asynccontextmanager
async def asking(service):
    """With a run to signal and a run to cancel, which both wait for a signal."""
    async with httpx.AsyncClient(base_url=service.url, timeout=30.0, limits=httpx.Limits(max_connections=None)) as http:
        waiting = []
        for _ in range(2):
            answer = await http.post(
                "/v1/pipelines/approval/runs", json={"input": {}}, headers={"prefer": "respond-async"}
            )
            waiting.append(answer.json()["id"])
        yield Asking(service, http, *waiting)
        await http.post(f"/v1/runs/{waiting[0]}/signals/released")
        for run in waiting:
            await http.get(f"/v1/runs/{run}/events", timeout=GUARD_S)  # to its end


async def all_refused(asking):
    """Each request is answered, and readiness says why it is refused."""
    answers = await asking.all()
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.headers["retry-after"] for answer in answers)
    codes = {answer.json()["type"].removeprefix("urn:offramp:error:") for answer in answers}
    assert codes <= {"store", "store-timeout"}
    ready = await asking.ready()
    assert ready.status_code == 503
    assert ready.json()["detail"].startswith(("the database", "the store")), ready.text


async def all_taken(asking):
    """Sent again once there is readiness, each request is taken, and each submission is one run."""
    await asking.is_ready()
    again = [answer.status_code for answer in await asking.all()]
    assert set(again) <= {200, 202, 409}
    assert 409 not in [status for number, status in enumerate(again) if number % 5 != 1]  # to cancel what is cancelled
    assert set((await asking.runs_by_session()).values()) == {1}


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
@pytest.mark.parametrize("service", [{**PATIENT, "write_timeout": 2}], indirect=True, ids=["write_timeout 2 s"])
async def test_a_full_disk_keeps_no_request_whatever_waits_in_front_of_it(service, client):
    await up(service)
    seen, following = begin(client, *some(), *(Asked("floods", {"words": FLOOD_WORDS}) for _ in range(FLOODS)))
    async with asking(service) as asked:
        ends = asyncio.ensure_future(
            asked._http.post("/v1/pipelines/sequence/runs", json={"input": {"steps": 12, "seconds": 0.2}})
        )
        await in_flight(seen)
        limit_files(service, FULL_AT_BYTES)
        await refused(service)
        (service.home / "flood").touch()
        async with asyncio.timeout(GUARD_S):
            while sum("flood" in line for line in ended_steps(service)) < FLOODS:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        await all_refused(asked)
        assert (await ends).status_code == 503  # its run has ended, which cannot be written
        limit_files(service, resource.RLIM_INFINITY)
        await all_taken(asked)
    await ended(client, service, seen, following)


def ended_steps(service):
    """The keys of steps that ended, as they noted down."""
    lines = (service.home / "executions").read_text().splitlines()
    return [line["key"] for line in map(json.loads, lines) if line["ended"] is not None]


@pytest.mark.parametrize("service", [{**PATIENT, "write_timeout": 1}], indirect=True, ids=["write_timeout 1 s"])
async def test_a_disk_that_does_not_answer_keeps_no_request(service, client):
    await up(service)
    seen, following = begin(client, *some())
    await in_flight(seen)
    async with asking(service) as asked:
        with contextlib.closing(sqlite3.connect(service.data / "offramp.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the writer waits for the lock, as for a disk
            await all_refused(asked)
            other.execute("ROLLBACK")
            await all_taken(asked)
    await ended(client, service, seen, following)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
async def test_a_service_that_is_killed_while_its_disk_is_full_recovers_what_was_acknowledged(service, client):
    await up(service)
    seen, following = begin(client, *some())
    await in_flight(seen)
    limit_files(service, FULL_AT_BYTES)
    await refused(service)
    service.kill_all()
    await up(service)
    await ended(client, service, seen, following)


@pytest.mark.chaos
@pytest.mark.parametrize("service", [{"lease": 1}], indirect=True, ids=["lease 1 s"])
async def test_a_database_that_another_program_locks_for_seconds_delays_and_loses_nothing(service, client):
    await up(service)
    seen, following = begin(client, *some())
    await in_flight(seen)
    with contextlib.closing(sqlite3.connect(service.data / "offramp.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # Longer than the lease and than SQLite waits for a lock (5 s).
        answer = await refused(service)
        assert answer.status_code == 503
        await logged(service, "cannot be written: database is locked")
        other.execute("ROLLBACK")
    await ended(client, service, seen, following)


async def test_a_folder_that_cannot_be_written_is_refused_with_its_name(service):
    service.data.parent.mkdir(exist_ok=True)
    service.data.write_text("a file where the folder is to be")
    await asyncio.to_thread(service.start)
    assert await asyncio.to_thread(service.wait) != 0
    log = service.log.read_text()
    assert str(service.data) in log
    assert "Traceback" not in log


@pytest.mark.chaos  # skipped where root cannot make a file immutable
async def test_a_read_only_database_is_refused_with_its_name_and_usable_afterwards(service, client):
    await up(service)
    seen, following = begin(client, *some())
    await in_flight(seen)
    service.kill_all()
    with read_only(service.data):
        await asyncio.to_thread(service.start)
        assert await asyncio.to_thread(service.wait) != 0
        log = service.log.read_text()
        assert str(service.data) in log
        assert "Traceback" not in log
    await up(service)
    await ended(client, service, seen, following)


@contextlib.contextmanager
def read_only(folder):
    """No right to write, also for root where files can be made immutable."""
    names = [folder, *folder.iterdir()]
    modes = [path.stat().st_mode for path in names]
    attributes = os.geteuid() == 0
    if attributes and (shutil.which("chattr") is None or os.system(f"chattr +i {folder}/* {folder} 2>/dev/null")):
        pytest.skip("root writes everywhere here")
    for path in [] if attributes else names:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        if attributes:
            os.system(f"chattr -i {folder} {folder}/*")
        for path, mode in zip(names, modes, strict=True):
            path.chmod(mode)


async def test_a_damaged_file_is_refused_with_its_name(service):
    service.data.mkdir(parents=True)
    (service.data / "offramp.db").write_bytes(b"this is no database " * 1000)
    await asyncio.to_thread(service.start)
    assert await asyncio.to_thread(service.wait) != 0
    log = service.log.read_text()
    assert str(service.data) in log
    assert "file is not a database" in log
    assert "Traceback" not in log


async def test_pages_damaged_under_a_running_service_are_told_and_nobody_is_answered_wrongly(service, client):
    await up(service)
    done = await client.see(Asked("chatty", {"steps": 5, "words": 40}, "deep"))
    assert done.outcome == "run.completed"
    assert await asyncio.to_thread(service.terminate) == 0  # checkpoints: everything is in the one file
    file = service.data / "offramp.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    await asyncio.to_thread(service.start)
    code = await wait_or_up(service)
    if code is None:
        with contextlib.suppress(httpx.TransportError):  # it may answer probes already, and then end
            answer = await client.http.get(f"{service.url}/v1/runs/{done.run}")
            assert answer.status_code >= 500, answer.text
            assert "Traceback" not in answer.text
        await logged(service, "malformed", "not usable", "not a database")
        service.kill_all()
    else:
        assert code != 0
        await logged(service, "malformed", "not usable", "not a database")
    # With the file back, as from a backup, it all goes on.
    for rest in service.data.glob("offramp.db-*"):
        rest.unlink()
    file.write_bytes(whole)
    await up(service)
    again = (await client.http.get(f"{service.url}/v1/runs/{done.run}")).json()
    assert again["result"] == json.loads(done.frames[-1].data)["result"]


async def wait_or_up(service):
    """The exit code, or None once it serves."""
    async with asyncio.timeout(GUARD_S):
        while service.alive:
            with contextlib.suppress(httpx.TransportError):
                async with httpx.AsyncClient() as http:
                    await http.get(f"{service.url}/healthz")
                return None
            await asyncio.sleep(0.05)
    return service.wait()
