"""Steps that use no resource, for bench/limits.py: `_permits_steps.py plain|declared RUNS` prints CPU us of one step.

`declared`: the app declares a resource, which none of these steps uses.
"""

from __future__ import annotations

import asyncio
import sys
import time

from offramp import App

STEPS = 20
WARM_RUNS = 20

app = App("steps")


@app.step
async def nothing(number: int) -> int:
    return number


@app.pipeline(budget=60.0)
async def many() -> int:
    return sum([await nothing(number) for number in range(STEPS)])


async def main(runs: int) -> float:
    async with app.local() as runtime:
        for _ in range(WARM_RUNS):
            await (await runtime.start("many")).result()
        began = time.process_time()
        for _ in range(runs):
            await (await runtime.start("many")).result()
        return (time.process_time() - began) / (runs * STEPS) * 1e6


if __name__ == "__main__":
    kind, runs = sys.argv[1:]
    if kind == "declared":
        app.resource("openai", concurrency=10, rate="100/min")
    print(asyncio.run(main(int(runs))))
