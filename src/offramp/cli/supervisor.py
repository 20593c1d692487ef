"""Keeps a number of worker processes running: starts, restarts with backoff, stops. Knows nothing of runs.

It gives back a dead worker's lease at once through `retire`, so that its runs continue without waiting for its expiry.
A worker that lost its lease and takes no other has hung, as in a step that blocks the interpreter: it is killed.
While a hung worker holds the database's write lock, no process can check leases; its pulse reveals it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import signal
import time
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from offramp.cli.pulse import PULSE, Pulse
from offramp.ports import forks

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
STABLE_S = 60.0
KILL_MARGIN_S = 5.0
"""How long a worker may take beyond its drain before it is killed."""
PULSE_LEASES = 3
"""How many lease times without a pulse before a worker is killed, whatever its lease."""
PULSE_SILENCE_S_MIN = 5.0
"""The minimum of that time: a busy machine may stop a thread for some seconds."""
ABORT_S = 1.0
"""How long a hung worker may take to write its stacks before it is killed."""
SUPERVISED = "OFFRAMP_SUPERVISED"
"""`NUMBER/OWNER`, for a worker that stops when its stdin ends."""

logger = logging.getLogger("offramp")


def restart_after_s(failures: int) -> float:
    """Seconds before a restart after so many deaths in a row."""
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 30))


def supervised() -> tuple[int, str | None]:
    """This process's worker number and owner id if a supervisor started it, else `(0, None)`.

    Removes the variable, so that processes started by user code do not read it.
    """
    number, _, owner = os.environ.pop(SUPERVISED, "").partition("/")
    return (int(number), owner) if number.isdigit() and owner else (0, None)


class Supervisor:
    """Runs `count` processes of `command`.

    Args:
        command: what to execute; each process learns its number and owner id from `OFFRAMP_SUPERVISED`.
        count: how many at first; see `scale`.
        retire: gives back the runs of a dead process; returns their number.
        drain_timeout: seconds in which a process must leave after SIGTERM.
        first_line: what each process reads first from its stdin, which stays open while this process lives.
        silence_s: seconds after which a process that lost its lease is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        retire: Callable[[str], Awaitable[int]],
        drain_timeout: float,
        first_line: bytes = b"",
        *,
        silence_s: float = math.inf,
    ) -> None:
        self._command = command
        self._count = count
        self._retire = retire
        self._drain_timeout = drain_timeout
        self._first_line = first_line
        self._silence_s = silence_s
        self._owners: dict[int, str] = {}
        self._missed: dict[str, float] = {}
        """For each process seen with a lease: since when it has none, infinite while it has one."""
        self._processes: dict[int, Process] = {}
        self._pulses: dict[int, Pulse] = {}
        self._killed: set[int] = set()
        self._leaving: set[int] = set()
        """Workers that were asked to leave, as fewer do."""
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.on_start: Callable[[str, float], object] = lambda _owner, _at: None
        """Called with each started process's owner id and start on the monotonic clock."""
        self.on_end: Callable[[str], object] = lambda _owner: None
        forks.on_fork(self)

    def forked(self) -> None:
        """In a forked child: close its copies of the workers' stdin, since a worker stops only when all are closed."""
        pipes = [process.stdin for process in self._processes.values()]
        forks.close_copy(*(forks.descriptor_of(pipe) for pipe in pipes if pipe is not None))

    @property
    def count(self) -> int:
        """How many processes are to run."""
        return len(self._keepers) - len(self._leaving) if self._watch is not None else self._count

    @property
    def owners(self) -> list[str]:
        """The ids of the processes that are to go on."""
        return [owner for number, owner in self._owners.items() if number not in self._leaving]

    def start(self) -> None:
        """Start all processes, and from now on restart each that ends."""
        self._watch = asyncio.create_task(self._watch_pulses())
        self.scale(self._count)

    def scale(self, count: int, idle: Collection[str] = ()) -> None:
        """Keep this many processes from now on; if these are fewer, only idle ones leave.

        Args:
            count: how many.
            idle: owner ids of processes that execute nothing. They drain, so that what they took since is not lost.
        """
        if self._stopping.is_set():
            return
        free = (number for number in itertools.count(1) if number not in self._keepers)
        while self.count < count:
            number = next(free)
            self._keepers[number] = asyncio.create_task(self._keep(number))
        for number in sorted(self._processes, reverse=True):
            if self.count <= count:
                return
            if number not in self._leaving and self._owners[number] in idle:
                self._dismiss(number, self._processes[number])

    def _dismiss(self, number: int, process: Process) -> None:
        self._leaving.add(number)
        _signal(process, signal.SIGTERM)
        loop = asyncio.get_running_loop()
        loop.call_later(self._drain_timeout + KILL_MARGIN_S, self._kill_late, number, process)

    def _kill_late(self, number: int, process: Process) -> None:
        if self._processes.get(number) is process:
            logger.warning("worker %d (pid %d) did not leave in time and is killed", number, process.pid)
            self._killed.add(number)
            _kill_group(process.pid)

    async def stop(self) -> None:
        """Ask all processes to drain and leave; kill those that do not, or all if this call is cancelled."""
        self._stopping.set()
        for number, process in self._processes.items():
            if number not in self._leaving:  # a second signal would cut its drain short
                _signal(process, signal.SIGTERM)
        keepers = list(self._keepers.values())
        try:
            if keepers:
                await asyncio.wait(keepers, timeout=self._drain_timeout + KILL_MARGIN_S)
        finally:
            # Also if the wait was cut short: a process that stops at once leaves no worker behind.
            for number, process in self._processes.items():
                logger.warning("worker %d (pid %d) did not leave in time and is killed", number, process.pid)
                self._killed.add(number)
                _kill_group(process.pid)
        if keepers:
            await asyncio.wait(keepers)
        if self._watch is not None:
            self._watch.cancel()

    async def _watch_pulses(self) -> None:
        silence_s = max(PULSE_SILENCE_S_MIN, PULSE_LEASES * self._silence_s)
        while not self._stopping.is_set():
            await asyncio.sleep(1.0)
            for number, pulse in list(self._pulses.items()):
                process = self._processes.get(number)
                if process is not None and pulse.silent_s() >= silence_s:
                    self._pulses.pop(number).close()
                    self._end(number, process, f"has not answered for {silence_s:g} s")

    def present(self, ids: Collection[str]) -> None:
        """Take the processes that hold a lease, at every check: a live process without one for too long has hung."""
        now = time.monotonic()
        for number, owner in self._owners.items():
            process = self._processes.get(number)
            if owner in ids:
                self._missed[owner] = math.inf
            elif owner in self._missed:
                since = self._missed[owner] = min(now, self._missed[owner])
                if process is not None and now - since >= self._silence_s:
                    del self._missed[owner]
                    self._end(number, process, "lost its lease and takes no other")

    def _end(self, number: int, process: Process, why: str) -> None:
        """Kill a process that hung. The abort makes it write the stacks of its threads first."""
        if self._stopping.is_set() or number in self._leaving:  # it is killed if it does not leave
            return
        logger.error("worker %d (pid %d) %s: it hung, and is killed", number, process.pid, why)
        _signal(process, signal.SIGABRT)

        def kill() -> None:
            if self._processes.get(number) is process:
                _kill_group(process.pid)

        asyncio.get_running_loop().call_later(ABORT_S, kill)

    async def _keep(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            owner = f"worker-{number}-{uuid.uuid4().hex[:12]}"
            started = time.monotonic()
            self._owners[number] = owner
            self.on_start(owner, started)
            death = await self._run(number, owner)
            self.on_end(owner)
            self._missed.pop(owner, None)
            if self._stopping.is_set():
                if number in self._killed:
                    await self._give_back(number, owner)
                return
            if number in self._leaving:
                # Usually none: it has handed its runs over, unless it was killed meanwhile.
                await self._give_back(number, owner)
                del self._keepers[number], self._owners[number]
                self._leaving.discard(number)
                self._killed.discard(number)
                return
            failures = 1 if time.monotonic() - started >= STABLE_S else failures + 1
            pause = restart_after_s(failures)
            runs = await self._give_back(number, owner)
            held = f"; {runs} run{'' if runs == 1 else 's'} taken back" if runs else ""
            logger.warning("worker %d %s%s; it is restarted in %.1f s", number, death, held, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run(self, number: int, owner: str) -> str:
        """Run one process from start to end; returns how it ended, in words."""
        pulse = Pulse(asyncio.get_running_loop())
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                pass_fds=(pulse.sends,),
                env={**os.environ, SUPERVISED: f"{number}/{owner}", PULSE: str(pulse.sends)},
                # Ctrl-C goes to this process only, which then stops its workers in order.
                start_new_session=True,
            )
        except OSError as error:
            pulse.close()
            return f"could not be started ({error.strerror or error})"
        finally:
            pulse.started()
        self._processes[number], self._pulses[number] = process, pulse
        if process.stdin is not None:
            process.stdin.write(self._first_line)
        logger.info("worker %d started (pid %d)", number, process.pid)
        if self._stopping.is_set():
            _signal(process, signal.SIGTERM)
        code = await process.wait()
        del self._processes[number]
        if self._pulses.pop(number, None) is not None:
            pulse.close()
        # Its children must not continue steps that the run's next owner executes again.
        _kill_group(process.pid)
        for group in _groups_of(process.pid):
            _kill_group(group)
        return f"(pid {process.pid}) died: {how_it_ended(code)}"

    async def _give_back(self, number: int, owner: str) -> int:
        try:
            return await self._retire(owner)
        except Exception:
            # Its lease will expire; the worker is restarted anyway.
            logger.exception("the runs of worker %d could not be given back at once", number)
            return 0


def how_it_ended(code: int) -> str:
    """An exit code for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _groups_of(session: int) -> set[int]:
    """The process groups of a session, if the system shows them (Linux); a lane and its children form one."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            _state, _parent, group, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session:
                found.add(int(group))
    return found


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
