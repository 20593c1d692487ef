"""Research in rounds: one round fits the budget of two seconds, five rounds do not."""

import asyncio

from offramp import SLA, App, Retry, emit

app = App("desk", classes=[SLA("interactive", p95=1.5, budget=2.0)])


@app.step(timeout=10, retry=Retry(attempts=3))
async def search(query: str, source: str) -> str:
    await asyncio.sleep(0.6)  # stands in for a slow call
    return f"{source} on {query}"


@app.step(timeout=60)
async def write(question: str, notes: list[str]) -> str:
    text = f"{question} {len(notes)} notes say it: {notes[0]} to {notes[-1]}."
    for word in text.split():
        emit(word + " ")  # to every reader of the run
        await asyncio.sleep(0.02)
    return text


@app.pipeline(sla="interactive")
async def research(question: str, rounds: int = 1) -> str:
    """Search two sources in each round, then write."""
    notes: list[str] = []
    for number in range(1, rounds + 1):
        query = f"{question} ({number})"
        async with asyncio.TaskGroup() as group:  # these two overlap
            web = group.create_task(search(query, "web"))
            wiki = group.create_task(search(query, "wiki"))
        notes += [web.result(), wiki.result()]
    return await write(question, notes)
