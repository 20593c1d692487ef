"""A large step whose worker is killed between its object and its journal entry, once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from offramp import SLA, App
from offramp.stores.blobs.blobs import PlacedBlobs

MIB = 1 << 20
HERE = Path(os.environ.get("STEPS_HOME", "."))
app = App("large", classes=[SLA("deep", budget=0)])
_put = PlacedBlobs.put


async def _put_and_die(self, run_id, data):
    reference = await _put(self, run_id, data)
    if data.startswith(b'"bbb') and not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return reference


PlacedBlobs.put = _put_and_die  # in the processes that serve this


@app.step(timeout=60)
async def make(letter: str) -> str:
    with (HERE / "steps").open("a", encoding="utf-8") as file:
        file.write(f"{letter} {os.getpid()}\n")
    return letter * MIB


@app.pipeline(sla="deep")
async def makes(tag: str) -> list[str]:
    return [(await make("a"))[:1], (await make("b"))[:1], tag]
