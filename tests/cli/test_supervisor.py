import asyncio
import os
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from offramp.cli import supervisor as module
from offramp.cli.pulse import PULSE, send_pulse
from offramp.cli.supervisor import SUPERVISED, Supervisor, how_it_ended, restart_after_s, supervised
from tests.cli.harness import is_alive

WORKER = f"""
import os, signal, sys
name = os.environ["{SUPERVISED}"].replace("/", " ")
signal.signal(signal.SIGTERM, STUBBORN)
os.write(1, f"{{name}} {{os.getpid()}}\\n".encode())  # in one piece: the pipe is shared
sys.stdin.read()
"""
POLITE, STUBBORN = "lambda *_: sys.exit(0)", "signal.SIG_IGN"


class Crew:
    """A supervisor of small scripts that write who they are to a pipe."""

    def __init__(self, on_term: str = POLITE, count: int = 1, drain_timeout: float = 20.0, **options: float) -> None:
        self.retired: asyncio.Queue[str] = asyncio.Queue()
        self.retire_fails: Exception | None = None
        read, write = os.pipe()
        self._pipe = read
        script = f"import os; os.dup2({write}, 1)\n" + WORKER.replace("STUBBORN", on_term)
        os.set_inheritable(write, True)
        self.write = write
        command = [sys.executable, "-c", script]
        self.supervisor = Supervisor(command, count, self._retire, drain_timeout, **options)

    async def _retire(self, owner: str) -> int:
        if self.retire_fails is not None:
            raise self.retire_fails
        await self.retired.put(owner)
        return 2

    async def next(self) -> tuple[str, str, int]:
        """Number, owner and process id of the next worker that runs."""
        line = await asyncio.to_thread(self._line)
        number, owner, pid = line.split()
        return number, owner, int(pid)

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._pipe, 1)
        return line.decode()

    def close(self) -> None:
        os.close(self._pipe)
        os.close(self.write)


@pytest.fixture
def inheriting(monkeypatch):
    """Lets the workers of these tests have the pipe they write to."""
    real = asyncio.create_subprocess_exec

    async def start(*command, pass_fds, **given):
        for descriptor in pass_fds:
            os.set_inheritable(descriptor, True)
        return await real(*command, **given, close_fds=False)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)


@pytest.fixture
def crew(inheriting):
    made: list[Crew] = []

    def make(*args, **options) -> Crew:
        made.append(Crew(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def test_a_dead_worker_is_retired_and_replaced_under_a_new_id(crew, caplog):
    caplog.set_level("INFO", "offramp")
    one = crew()
    one.supervisor.start()
    number, owner, pid = await one.next()
    os.kill(pid, signal.SIGKILL)
    assert await one.retired.get() == owner
    again = await one.next()
    assert again[0] == number == "1"
    assert again[1] != owner
    await one.supervisor.stop()
    assert not is_alive(again[2])
    assert f"worker 1 (pid {pid}) died: SIGKILL (out of memory?); 2 runs taken back" in caplog.text
    assert one.retired.empty()


async def test_it_starts_more_and_only_idle_ones_leave_for_good(crew, caplog):
    caplog.set_level("INFO", "offramp")
    one = crew()
    one.supervisor.start()
    first = await one.next()
    one.supervisor.scale(3)
    more = sorted([await one.next(), await one.next()])
    assert [number for number, _, _ in [first, *more]] == ["1", "2", "3"]
    one.supervisor.scale(1, [first[1]])
    assert await one.retired.get() == first[1]
    assert not is_alive(first[2])
    assert one.supervisor.count == 2, "the other one is not idle"
    assert sorted(one.supervisor.owners) == sorted(owner for _, owner, _ in more)
    one.supervisor.scale(3)
    assert (await one.next())[0] == "1"
    await one.supervisor.stop()
    assert "died" not in caplog.text
    one.supervisor.scale(5)
    assert one.supervisor.count <= 3, "it has stopped"


async def test_one_that_leaves_and_is_killed_meanwhile_gives_its_runs_back_and_stays_away(crew):
    one = crew(STUBBORN, count=2)
    one.supervisor.start()
    _, owner, pid = max(await one.next(), await one.next())
    one.supervisor.scale(1, one.supervisor.owners)
    os.kill(pid, signal.SIGKILL)
    assert await one.retired.get() == owner
    assert one.supervisor.count == len(one.supervisor.owners) == 1
    await one.supervisor.stop()


async def test_one_that_does_not_leave_is_killed(crew, caplog, monkeypatch):
    monkeypatch.setattr(module, "KILL_MARGIN_S", 0.05)
    one = crew(STUBBORN, count=2, drain_timeout=0.0)
    one.supervisor.start()
    _, owner, pid = max(await one.next(), await one.next())
    one.supervisor.scale(1, one.supervisor.owners)
    assert await one.retired.get() == owner
    assert not is_alive(pid)
    assert f"worker 2 (pid {pid}) did not leave in time and is killed" in caplog.text
    await one.supervisor.stop()


async def test_one_that_leaves_and_is_killed_while_all_stop_gives_its_runs_back(crew, monkeypatch):
    monkeypatch.setattr(module, "KILL_MARGIN_S", 0.5)
    one = crew(STUBBORN, drain_timeout=0.0)
    one.supervisor.start()
    _, owner, pid = await one.next()
    one.supervisor.scale(0, one.supervisor.owners)
    monkeypatch.setattr(module, "KILL_MARGIN_S", 600.0)  # so that the stop itself kills nothing
    await one.supervisor.stop()
    assert not is_alive(pid)
    assert one.retired.get_nowait() == owner


class Looks:
    """A monotonic clock for the supervisor's checks of leases."""

    def __init__(self, monkeypatch, supervisor):
        self.now = 1000.0
        self._supervisor = supervisor
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))  # the loop's goes on

    def look(self, later_s, *ids):
        self.now += later_s
        self._supervisor.present(set(ids))


async def test_a_worker_that_hung_is_killed_and_replaced(crew, caplog, monkeypatch):
    monkeypatch.setattr(module, "ABORT_S", 0.05)
    one = crew(STUBBORN, silence_s=10.0)
    one.supervisor.start()
    _, owner, pid = await one.next()
    os.kill(pid, signal.SIGSTOP)  # as deaf to an abort as a process can be
    looks = Looks(monkeypatch, one.supervisor)
    looks.look(0, owner)
    for later_s in (30, 5, 5):
        looks.look(later_s)
    assert await one.retired.get() == owner
    again = await one.next()
    assert again[1] != owner
    assert f"worker 1 (pid {pid}) lost its lease and takes no other: it hung, and is killed" in caplog.text
    os.kill(again[2], signal.SIGKILL)
    await one.retired.get()
    await one.supervisor.stop()


async def test_a_worker_that_takes_a_lease_again_or_had_none_yet_lives(crew, monkeypatch):
    one = crew(silence_s=10.0)
    one.supervisor.start()
    _, owner, pid = await one.next()
    looks = Looks(monkeypatch, one.supervisor)
    for later_s in (0, 100):  # it is still starting
        looks.look(later_s)
    looks.look(0, owner)
    looks.look(100)  # the store was away, and this look came before its renewal
    looks.look(9, owner)
    looks.look(9)
    looks.look(9)
    assert is_alive(pid)
    await one.supervisor.stop()
    assert one.retired.empty()


async def test_every_worker_has_its_own_number_and_id(crew):
    one = crew(count=3)
    one.supervisor.start()
    workers = [await one.next() for _ in range(3)]
    assert sorted(number for number, _, _ in workers) == ["1", "2", "3"]
    assert len({owner for _, owner, _ in workers}) == 3
    await one.supervisor.stop()
    assert not any(is_alive(pid) for _, _, pid in workers)


async def test_who_does_not_leave_is_killed_and_retired(crew, monkeypatch):
    monkeypatch.setattr(module, "KILL_MARGIN_S", 0.0)
    one = crew(STUBBORN, drain_timeout=0.05)
    one.supervisor.start()
    _, owner, pid = await one.next()
    await one.supervisor.stop()
    assert not is_alive(pid)
    assert await one.retired.get() == owner


async def test_a_stop_that_is_cut_short_leaves_nobody_behind(crew):
    one = crew(STUBBORN)
    one.supervisor.start()
    _, owner, pid = await one.next()
    stopping = asyncio.create_task(one.supervisor.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await one.supervisor.stop()
    assert not is_alive(pid)
    assert await one.retired.get() == owner


async def test_a_failing_retirement_does_not_keep_the_worker_down(crew, caplog):
    one = crew()
    one.retire_fails = OSError("disk full")
    one.supervisor.start()
    _, _, pid = await one.next()
    os.kill(pid, signal.SIGKILL)
    assert (await one.next())[2] != pid
    await one.supervisor.stop()
    assert "could not be given back" in caplog.text


async def test_a_command_that_cannot_start_is_tried_again(caplog):
    tried: asyncio.Queue[int] = asyncio.Queue()

    async def nobody(owner: str) -> int:
        await tried.put(0)
        return 0

    supervisor = Supervisor(["/nonexistent/offramp"], 1, nobody, 1.0)
    supervisor.start()
    assert await tried.get() == await tried.get()
    await supervisor.stop()
    assert "could not be started" in caplog.text


async def test_a_worker_whose_pulse_stops_is_killed_whatever_is_known_of_its_lease(caplog, monkeypatch):
    monkeypatch.setattr(module, "PULSE_SILENCE_S_MIN", 0.2)
    retired = asyncio.Queue()

    async def retire(owner):
        await retired.put(owner)
        return 0

    once = f"import os, sys; os.write(int(os.environ['{PULSE}']), b'.'); sys.stdin.read()"
    supervisor = Supervisor([sys.executable, "-c", once], 1, retire, 20.0, silence_s=0.01)
    supervisor.start()
    assert (await asyncio.wait_for(retired.get(), 60)).startswith("worker-1-")
    await supervisor.stop()
    assert "has not answered for 0.2 s: it hung, and is killed" in caplog.text


def test_a_process_that_no_supervisor_started_sends_no_pulse(monkeypatch):
    monkeypatch.delenv(PULSE, raising=False)
    before = threading.active_count()
    send_pulse()
    assert threading.active_count() == before


def test_restarts_wait_longer_each_time_up_to_a_bound():
    assert [restart_after_s(n) for n in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert restart_after_s(1000) == 10.0


@pytest.mark.parametrize(
    ("code", "text"), [(2, "exit code 2"), (-15, "SIGTERM"), (-9, "SIGKILL (out of memory?)"), (-250, "signal 250")]
)
def test_an_exit_code_is_told_in_words(code, text):
    assert how_it_ended(code) == text


def test_a_worker_learns_its_id_once(monkeypatch):
    monkeypatch.setenv(SUPERVISED, "3/worker-3-x")
    assert supervised() == (3, "worker-3-x")
    assert supervised() == (0, None)
