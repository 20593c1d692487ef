"""What old versions served when their databases were made, and what this one goes on with.

It uses nothing that the first schema's version did not have, but for signals. While `UPGRADES_HELD` is set, a held step
does not end: its process is killed in it.
"""

import asyncio
import os
from dataclasses import dataclass

import offramp
from offramp import SLA, App, Retry

app = App("upgrades", classes=[SLA("interactive", budget=30.0), SLA("hasty", budget=0.2)])


@dataclass
class Note:
    text: str
    words: int


@app.step
def note(text: str) -> Note:
    return Note(text, len(text.split()))


@app.step
async def held(text: str) -> str:
    offramp.emit(f"{text}…")
    if "UPGRADES_HELD" in os.environ:
        await asyncio.Event().wait()
    return f"{text}, held"


@app.step(effect="once")
async def pay(amount: int) -> str:
    if "UPGRADES_HELD" in os.environ:
        await asyncio.Event().wait()
    return f"paid {amount}"


@app.step(retry=Retry(attempts=2, base=0.01))
def broken(text: str) -> str:
    raise ValueError(text)


@app.pipeline
async def works(question: str) -> str:
    """Everything a journal may hold: steps side by side, what a body emits, values, a sleep, a step in a pipeline."""
    offramp.emit("body")
    made, drawn, at = offramp.uuid4(), offramp.random(), offramp.now()
    async with asyncio.TaskGroup() as group:
        left = group.create_task(note(f"{question} left"))
        right = group.create_task(note(f"{question} right"))
    await offramp.sleep(0.01)
    last = await inner(question)
    agreed = made.version == 4 and 0 <= drawn < 1 and at.tzinfo is not None
    words = left.result().words + right.result().words
    return f"{left.result().text}, {right.result().text}, {last}, {words}, {agreed}"


@app.pipeline
async def inner(question: str) -> str:
    return await held(question)


@app.pipeline(sla="interactive")
async def streamed(question: str) -> str:
    return f"{(await note(question)).text}, {await held(question)}"


@app.pipeline(sla="hasty")
async def demoted(question: str) -> str:
    return f"{(await note(question)).text}, {await held(question)}"


@app.pipeline
async def quick(question: str) -> str:
    return (await note(question)).text


@app.pipeline
async def fails(question: str) -> str:
    return await broken(question)


@app.pipeline
async def pays(amount: int) -> str:
    return await pay(amount)


@app.pipeline
async def sleeps(question: str) -> str:
    first = await note(question)
    await offramp.sleep(30)
    return f"{first.text}, {(await note('slept')).text}"


@app.pipeline
async def approval(question: str) -> str:
    first = await note(question)
    approved = await offramp.signal("approved", timeout=86_400)
    return f"{first.text}, {approved}, {(await note('sent')).text}"


@app.pipeline(deadline=30)
async def urgent(question: str) -> str:
    return await held(question)


@app.pipeline(deadline=0.3)
async def late(question: str) -> str:
    await held(question)
    return "not in time"


@app.pipeline(retention=1)
async def forgotten(question: str) -> str:
    return (await note(question)).text
