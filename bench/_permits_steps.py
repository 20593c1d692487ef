"""Steps that use no resource, for bench/limits.py: `_permits_steps.py RUNS` prints JSON, CPU us of one step by app.

`plain`: an app without resources; `declared`: one that declares a resource, which none of these steps uses. Their runs
take turns in one process, so that a noisy machine affects both alike.
"""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from offramp import App
from offramp.paths.local import LocalRuntime

STEPS = 20
WARM_RUNS = 20
KINDS = ("plain", "declared")


def app_of(kind: str) -> App:
    app = App(kind)
    if kind == "declared":
        app.resource("openai", concurrency=10, rate="100/min")

    @app.step
    async def nothing(number: int) -> int:
        return number

    @app.pipeline(budget=60.0)
    async def many() -> int:
        return sum([await nothing(number) for number in range(STEPS)])

    return app


async def one(runtime: LocalRuntime) -> float:
    """CPU of one run, in seconds."""
    began = time.process_time()
    await (await runtime.start("many")).result()
    return time.process_time() - began


async def main(runs: int) -> dict[str, float]:
    async with app_of("plain").local() as plain, app_of("declared").local() as declared:
        runtimes = dict(zip(KINDS, (plain, declared), strict=True))
        for _ in range(WARM_RUNS):
            for runtime in runtimes.values():
                await one(runtime)
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(runs):
            for kind in KINDS if number % 2 else reversed(KINDS):
                found[kind].append(await one(runtimes[kind]))
    # The median: now and then a run pays for what the other one's store writes later.
    return {kind: sorted(each)[len(each) // 2] / STEPS * 1e6 for kind, each in found.items()}


if __name__ == "__main__":
    print(msgspec.json.encode(asyncio.run(main(int(sys.argv[1])))).decode())
