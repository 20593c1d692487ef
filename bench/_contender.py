"""One contender at one concurrency in its own process and folder; prints its `Load` as JSON.

Started by engine.py: `python -m bench._contender NAME CONCURRENCY RUNS SECONDS FOLDER`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import uvloop

from bench._load import OneRun, drive
from offramp.cli.collector import relax


def _open(name: str, folder: Path) -> AbstractAsyncContextManager[OneRun]:
    # Each contender imports only its own modules, so that none pays for another's.
    if name == "floor":
        from bench import _floor

        return _floor.contender(folder)
    if name == "dbos":
        from bench import _dbos

        return _dbos.contender(folder)
    if "temporal" in name:
        from bench import _temporal

        short = name.endswith("-short")
        return _temporal.offramp(folder, short=short) if "offramp" in name else _temporal.plain(local=short)
    from bench import _offramp

    return _offramp.contender(folder, queued=name == "offramp-queued")


async def _main(name: str, concurrency: int, runs_max: int, seconds_max: float, folder: Path) -> None:
    async with _open(name, folder) as one_run:
        relax()  # as in the processes of `serve` and `worker`, for every contender
        load = await drive(name, one_run, concurrency, runs_max, seconds_max)
    sys.stdout.write(msgspec.json.encode(load).decode() + "\n")


if __name__ == "__main__":
    given = sys.argv[1:]
    uvloop.run(_main(given[0], int(given[1]), int(given[2]), float(given[3]), Path(given[4])))
