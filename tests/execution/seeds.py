"""An app that another process can import: bodies that do and do not depend on its hash seed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from offramp import App

NAMES = ["ada", "bob", "cleo", "dora", "emil", "fred"]
app = App("seeds")
holder = SimpleNamespace(app=app)


@app.step
async def customers(count: int) -> set[str]:
    return set(NAMES[:count])


@app.step
async def balance(customer: str) -> str:
    return f"balance of {customer}"


@app.step
async def last() -> str:
    return "last"


@app.pipeline
async def loops(count: int) -> list[str]:
    found = [await balance(customer) for customer in await customers(count)]
    return [*sorted(found), await last()]


@app.pipeline
async def sorts(count: int) -> list[str]:
    return [await balance(customer) for customer in sorted(await customers(count))]


@app.pipeline
async def gathers(count: int) -> list[str]:
    return sorted(await asyncio.gather(*(balance(customer) for customer in await customers(count))))


@app.pipeline
async def lists(count: int) -> list[str]:
    """What depends on the order is the result alone."""
    return list(await customers(count))


@app.pipeline
async def of_its_own() -> list[str]:
    """A set that no journal knows of."""
    return [await balance(customer) for customer in set(NAMES)]


@app.step
async def never() -> None:
    await asyncio.get_running_loop().create_future()


@app.pipeline(budget=0)
async def stuck(count: int, in_order: bool = False) -> None:
    """Stands in mid-loop: in the order of a set, or in one that is the same everywhere."""
    names = await customers(count)
    for number, customer in enumerate(sorted(names) if in_order else names):
        await balance(customer)
        if number == count // 2 - 1:
            await never()


@app.pipeline(budget=0)
async def ends_anyhow() -> None:
    """Stands behind a plain `as_completed`."""
    for ended in asyncio.as_completed([balance(name) for name in NAMES]):
        await ended
    await never()
