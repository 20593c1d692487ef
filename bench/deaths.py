"""Measures many runs of a slow step while their workers are all killed, once and twice.

Real processes: `offramp serve` with two workers, killed with SIGKILL while as many runs as fit are in their step. See
README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]

WORKERS = 2
STEP_S = 3.0
READY_S_MAX = 60.0
PHASE_S_MAX = 600.0
LOOK_EVERY_S = 0.1
RATIO_MAX = 2.0
"""Largest ratio of the time with two kills to that with one."""

APP = f"""
import asyncio
from offramp import App

app = App("slow")

@app.step
async def slow(n: int) -> int:
    await asyncio.sleep({STEP_S})
    return n

@app.pipeline(budget=0)
async def pipe(n: int) -> int:
    return await slow(n)
"""


class Service:
    """A running `offramp serve` and its requests."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: asyncio.Task[None]) -> None:
        self._process = process
        self._log = log
        self._web = httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False)

    def workers(self) -> list[psutil.Process]:
        """The living worker processes."""
        return [child for child in psutil.Process(self._process.pid).children() if "worker" in child.cmdline()]

    async def aclose(self) -> None:
        """Stop it and its children."""
        family = psutil.Process(self._process.pid).children(recursive=True)
        await self._web.aclose()
        self._process.terminate()
        await asyncio.gather(self._process.wait(), self._log)
        psutil.wait_procs(family, timeout=5.0)

    async def submit(self, n: int) -> None:
        """Start a run."""
        body = {"input": {"n": n}}
        answer = await self._web.post("/v1/pipelines/pipe/runs", json=body, headers={"prefer": "respond-async"})
        answer.raise_for_status()

    async def count(self, status: str) -> int:
        """Runs of this status, counted page by page."""
        count, after = 0, None
        while True:
            params = {"status": status, "limit": "100"} | ({} if after is None else {"after": after})
            page = (await self._web.get("/v1/runs", params=params)).json()
            count += len(page["runs"])
            if not page["has_more"]:
                return count
            after = page["after"]

    async def until(self, status: str, count: int) -> None:
        """Wait until this many runs have this status."""
        ends_at = time.monotonic() + PHASE_S_MAX
        while (number := await self.count(status)) < count:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{number} of {count} runs are {status} after {PHASE_S_MAX:g} s")
            await asyncio.sleep(LOOK_EVERY_S)


async def serve(folder: Path) -> Service:
    """Start it with default settings."""
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "-m", "offramp", "serve", "app.py", "--port", "0", "--workers", str(WORKERS)]
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stderr=asyncio.subprocess.PIPE)
    if process.stderr is None:
        raise RuntimeError("its log cannot be read")
    log, url, ready = process.stderr, "", 0
    async with asyncio.timeout(READY_S_MAX):
        while ready < WORKERS or not url:
            line = (await log.readline()).decode()
            url = next((word.rstrip(",") for word in line.split() if word.startswith("http://127")), url)
            ready += "  ready in" in line
    return Service(process, url, asyncio.create_task(_read(log)))


async def _read(log: asyncio.StreamReader) -> None:
    while await log.readline():
        pass


async def measure(runs: int, kills: int) -> float:
    """Seconds from the first submission until all runs are done."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with aclosing(await serve(Path(folder))) as service:
            began = time.monotonic()
            for n in range(runs):
                await service.submit(n)
            for _ in range(kills):
                await service.until("running", min(runs, 100 * WORKERS))
                for worker in service.workers():
                    worker.kill()
            await service.until("completed", runs)
            return time.monotonic() - began


async def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=300)
    runs = options.parse_args().runs
    once, twice = await measure(runs, 1), await measure(runs, 2)
    verdict = "met" if twice <= RATIO_MAX * once else "missed"
    print(f"{runs} runs of a step of {STEP_S:g} s, {WORKERS} workers")
    print(f"killed once   {once:6.1f} s\nkilled twice  {twice:6.1f} s, {twice / once:.2f} times (target 2: {verdict})")


if __name__ == "__main__":
    asyncio.run(main())
