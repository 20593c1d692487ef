"""An app and a worker process that tests kill: what its steps did is kept in a file beside the database."""

import asyncio
import os
import sys
import time
from pathlib import Path

import offramp
from offramp import App, Retry, current_run, emit
from offramp.paths.submission import Submission
from offramp.settings import Settings
from offramp.wiring import build

app = App("victim")
folder = Path(os.environ.get("OFFRAMP_TEST_FOLDER", "."))


def note(line: str) -> None:
    """One line, in one write, so that processes do not mix theirs."""
    with (folder / "executed").open("a") as file:
        file.write(f"{line}\n")


def allowed(name: str) -> bool:
    return (folder / name).exists()


@app.step(retry=Retry(attempts=1))
async def work(n: int) -> int:
    note(f"work {n} {current_run().attempt} {current_run().idempotency_key} {os.getpid()}")
    emit(f"step {n}")
    while n == 2 and not allowed("go"):  # noqa: ASYNC110 - what is waited for is done by another process
        await asyncio.sleep(0.005)
    return n


@app.step(effect="once")
def pay(amount: int) -> str:
    note(f"pay {amount}")
    while not allowed("go"):
        time.sleep(0.005)
    return "paid"


@app.pipeline(budget=0)
async def five() -> list[int]:
    return [await work(n) for n in range(5)]


@app.pipeline(budget=60)
async def fast_five() -> list[int]:
    return [await work(n) for n in range(5)]


@app.pipeline(budget=0)
async def paying() -> str:
    return await pay(5)


@app.step
async def tidy(n: int) -> int:
    note(f"tidy {n}")
    while n == 1 and not allowed("tidied"):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.005)
    return n


@app.pipeline(budget=0, deadline=3)
async def tidies_late() -> None:
    await cleaned_up()


@app.pipeline(budget=0)
async def tidies() -> None:
    await cleaned_up()


@app.pipeline(budget=60)
async def tidies_fast() -> None:
    await cleaned_up()


async def cleaned_up() -> None:
    try:
        for n in range(5):
            await work(n)
    except asyncio.CancelledError:
        note("struck")
        async with offramp.cleanup():
            for n in range(3):
                await tidy(n)
        raise


async def serve() -> None:
    lease_s = os.environ["OFFRAMP_TEST_LEASE_S"]
    store = os.environ.get("OFFRAMP_TEST_STORE", "")
    settings = Settings.load({}, Path("absent.toml"), data=str(folder), lease=lease_s, poll=0.1, store=store)
    service = build(app, settings, role=sys.argv[1], owner=sys.argv[2])
    await service.start()
    submitted = [(await service.submit(Submission(pipeline=name))).record.id for name in sys.argv[3:]]
    sys.stdout.write(" ".join(["ready", *submitted]) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    from tests.paths import victim

    asyncio.run(victim.serve())
