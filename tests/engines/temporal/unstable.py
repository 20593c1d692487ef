"""What the killed processes of `test_strayed.py` execute: bodies whose order of calls depends on their process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import offramp
from offramp import SLA, App
from offramp.engines.temporal.engine import Options

HERE = Path(os.environ.get("STEPS_HOME", "."))
PROMPT = os.environ.get("PROMPT", "Say it shortly")
CUSTOMERS = ["ada", "bob", "cleo", "dora", "emil", "fred"]
if "EVENTS_MAX" in os.environ:  # of one history; no setting, as it changes nothing but what Temporal keeps
    Options.__init__.__kwdefaults__["history_events_max"] = int(os.environ["EVENTS_MAX"])
app = App("unstable", classes=[SLA("deep", budget=0)])


async def held(name: str, place: int) -> str:
    """A line for each execution; the third of a run waits to be let go."""
    with (HERE / "steps").open("a", encoding="utf-8") as file:
        file.write(f"{name} {os.getpid()}\n")
    while place == 3 and not (HERE / "go").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.02)
    return f"balance of {name}"


def place() -> int:
    """How many steps began."""
    path = HERE / "steps"
    return 1 + (len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0)


@app.step(timeout=60)
async def customers() -> set[str]:
    return set(CUSTOMERS)


@app.step(timeout=60)
async def balance(customer: str) -> str:
    return await held(customer, place())


@app.step(short=True)
async def short_balance(customer: str) -> str:
    return f"balance of {customer}"


@app.step(timeout=60)
async def ask(prompt: str) -> str:
    return prompt.upper()


@app.step(timeout=60)
async def gate(tag: str) -> str:
    return await held(tag, 3)


@app.pipeline(sla="deep")
async def loops(tag: str) -> dict[str, str]:
    return {customer: await balance(customer) for customer in await customers()}


@app.pipeline(sla="deep")
async def loops_shortly(tag: str) -> dict[str, str]:
    found = {}
    for number, customer in enumerate(await customers()):
        found[customer] = await short_balance(customer)
        if number == 2:
            await gate(tag)
    return found


@app.pipeline(sla="deep")
async def prompts(tag: str) -> list[str]:
    return [await ask(f"{PROMPT}: {tag}"), await gate(tag)]


@app.pipeline(sla="deep")
async def draws(tag: str) -> list[str]:
    """Branches in the order of a set: what each is given is its own, so that the order does not matter."""
    token = str(offramp.uuid4())

    async def branch(customer: str) -> list[str]:
        return [customer, await balance(customer), await ask(f"{customer} {token}")]

    branches = await asyncio.gather(*(branch(customer) for customer in await customers()))
    return sorted(" ".join(made) for made in branches)


@app.pipeline(sla="deep")
async def sleeps(tag: str) -> list[str]:
    for customer in await customers():
        await offramp.sleep(0.001 * (1 + CUSTOMERS.index(customer)))
    return [await gate(tag)]


@app.pipeline(sla="deep")
async def as_they_come(tag: str) -> list[str]:
    """Branches that draw values: each keeps its own."""

    async def branch(customer: str) -> str:
        token = str(offramp.uuid4())
        return f"{await balance(customer)} {await ask(f'{customer} {token}')} {token}"

    return sorted([await ended for ended in offramp.as_completed([branch(customer) for customer in CUSTOMERS])])
