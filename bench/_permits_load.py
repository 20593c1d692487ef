"""One process that takes permits and gives them back, for bench/limits.py, and writes what it measured to a file.

`_permits_load.py KIND PLACE CALLS PER_S TASKS FILE`: KIND is `nothing`, `alone`, `socket`, `redis` or `echo`. With
PER_S 0 it is as fast as it can, with TASKS tasks. It says when it is ready, and begins at a line of its stdin.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench._limits_echo import ECHO, FRAME_BYTES  # noqa: E402 - found through the line above
from offramp.core.limits.messages import Answer, Ask, Done, Granted  # noqa: E402
from offramp.core.limits.spec import ResourceSpec  # noqa: E402
from offramp.core.rates import RATE_MAX, Rate  # noqa: E402
from offramp.execution.clock import SystemClock  # noqa: E402
from offramp.limits.opening import Meeting  # noqa: E402

NAME = "openai"
# High enough not to make a call wait: what is measured is what a permit costs.
SPEC = ResourceSpec(NAME, concurrency=1_000, rates=(Rate(RATE_MAX, 1),))
RUN = "0198a3f0c7e27d1e8f00a1b2c3d4e5f6"


class Permits(Protocol):
    """What the load needs of limits."""

    def ask(self, ask: Ask, notify: Callable[[Answer], object]) -> None: ...

    def written(self, permit_id: str) -> None: ...

    def done(self, permit_id: str, done: Done) -> None: ...


class Nothing:
    """Grants at once: what the load itself costs."""

    def ask(self, _ask: Ask, notify: Callable[[Answer], object]) -> None:
        notify(Granted())

    def written(self, permit_id: str) -> None: ...

    def done(self, permit_id: str, done: Done) -> None: ...


class Echo:
    """The least that a grant by another process costs: bytes over a unix socket and back, read by a thread."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._waiting: dict[bytes, Callable[[Answer], object]] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, ask: Ask, notify: Callable[[Answer], object]) -> None:
        frame = ask.id.encode().ljust(FRAME_BYTES)
        self._waiting[frame] = notify
        self._socket.sendall(frame)

    def written(self, permit_id: str) -> None:
        """Nothing: the floor has one message there, one back, and one at the end."""

    def done(self, permit_id: str, _done: Done) -> None:
        self._socket.sendall(permit_id.encode().ljust(FRAME_BYTES))

    def _read(self) -> None:
        rest = b""
        while data := self._socket.recv(65536):
            rest += data
            while len(rest) >= FRAME_BYTES:
                frame, rest = rest[:FRAME_BYTES], rest[FRAME_BYTES:]
                notify = self._waiting.pop(frame, None)
                if notify is not None:
                    notify(Granted())


async def opened(kind: str, place: str) -> Permits:
    if kind == "nothing":
        return Nothing()
    if kind == ECHO:
        return Echo(place)
    clock = SystemClock()
    limits = Meeting(kind, place, (SPEC,), (), clock.time()).open(clock)  # type: ignore[arg-type]
    await limits.levels()
    return limits


class Load:
    """Calls, and how long each waited for its permit."""

    def __init__(self, limits: Permits, calls: int) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._numbers = iter(range(calls))
        self.waited_us: list[float] = []

    async def call(self, number: int) -> None:
        granted = self._loop.create_future()
        name = f"{RUN}:{os.getpid()}:{number}"

        def notify(answer: Answer) -> None:
            if isinstance(answer, Granted):
                self._loop.call_soon_threadsafe(granted.set_result, None)

        began = time.perf_counter()
        self._limits.ask(Ask(id=name, resource=NAME, run_id=RUN, step="write", tenant="acme"), notify)
        await granted
        self.waited_us.append((time.perf_counter() - began) * 1e6)
        self._limits.written(name)
        self._limits.done(name, Done(tokens=1_000, first_s=0.4))

    async def flat_out(self) -> None:
        for number in self._numbers:
            await self.call(number)

    async def paced(self, per_s: float) -> None:
        began = time.perf_counter()
        for number in self._numbers:
            await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
            await self.call(number)


async def main(kind: str, place: str, calls: int, per_s: float, tasks: int) -> dict[str, Any]:
    load = Load(await opened(kind, place), calls)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began, cpu = time.perf_counter(), time.process_time()
    if per_s:
        await load.paced(per_s)
    else:
        await asyncio.gather(*(load.flat_out() for _ in range(tasks)))
    return {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "waited_us": sorted(load.waited_us),
    }


if __name__ == "__main__":
    import msgspec

    kind, place, calls, per_s, tasks, file = sys.argv[1:]
    result = uvloop.run(main(kind, place, int(calls), float(per_s), int(tasks)))
    Path(file).write_bytes(msgspec.json.encode(result))
    print("done", flush=True)
    # Until all have finished: a connection that ends is work for the coordinator.
    sys.stdin.read()
    os._exit(0)
