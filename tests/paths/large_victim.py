"""An app with a large step, and a worker of it that is killed between its object and its journal entry, once."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from offramp import App
from offramp.settings import Settings
from offramp.stores.blobs.blobs import PlacedBlobs
from offramp.wiring import build

MIB = 1 << 20
app = App("large-victim")
folder = Path(os.environ.get("OFFRAMP_TEST_FOLDER", "."))


@app.step
async def make(letter: str) -> str:
    with (folder / "executed").open("a") as file:
        file.write(f"{letter}\n")
    return letter * MIB


@app.pipeline(budget=0)
async def makes() -> list[int]:
    return [len(await make("a")), len(await make("b"))]


class Deadly(PlacedBlobs):
    """The process dies when the second object of a run is kept, the first time, and its first entry is written."""

    store = None

    async def put(self, run_id, data):
        reference = await super().put(run_id, data)
        if run_id.startswith("run_") and b"bbb" in data and not (folder / "died").exists():
            while not await self.store.journal(run_id):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return reference


async def serve() -> None:
    settings = Settings.load({}, Path("absent.toml"), data=str(folder), objects=sys.argv[2], lease=60, poll=0.1)
    service = build(app, settings, role="worker", owner=sys.argv[1])
    values = service.process.values
    values.blobs = Deadly(values.blobs.place)
    values.blobs.store = service.process.store
    await service.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
