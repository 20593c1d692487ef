"""Research in rounds: one round fits the budget of two seconds, five rounds do not."""

import asyncio

from offramp import SLA, App, Retry, emit

app = App("desk", classes=[SLA("interactive", p95=1.5, budget=2.0)])


@app.step(timeout=10, retry=Retry(attempts=3))
async def search(query: str, source: str) -> str:
    await asyncio.sleep(0.6)  # stands in for a slow call; a plain def would run in a thread
    return f"{source} on {query}"


@app.step(timeout=60)
async def write(question: str, notes: list[str]) -> str:
    words = f"{question} {len(notes)} notes say it: {notes[0]} to {notes[-1]}.".split()
    for word in words:
        emit(word + " ")  # to every reader of the run
        await asyncio.sleep(0.02)
    return " ".join(words)


@app.pipeline(sla="interactive")
async def research(question: str, rounds: int = 1) -> str:
    """Search two sources in each round, then write."""
    notes: list[str] = []
    for number in range(1, rounds + 1):
        async with asyncio.TaskGroup() as group:  # the steps of one round overlap
            tasks = [group.create_task(search(f"{question} ({number})", source)) for source in ("web", "wiki")]
        notes += [task.result() for task in tasks]
    return await write(question, notes)
