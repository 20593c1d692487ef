"""A report on a topic, section by section, by any model behind an OpenAI-compatible API.

OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL say which.
"""

import asyncio
import os

from openai import AsyncOpenAI

from offramp import SLA, App, Retry, emit, per_loop

app = App("desk", classes=[SLA("interactive", p95=5.0, budget=6.0)])
MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")


@per_loop
def client() -> AsyncOpenAI:
    return AsyncOpenAI(max_retries=0)  # the steps retry, so that every attempt is seen


@app.step(kind="llm", timeout=30, retry=Retry(attempts=3))
async def outline(topic: str, sections: int) -> list[str]:
    prompt = f"Write {sections} titles for the sections of a short report on {topic}, one in each line, nothing else."
    answer = await client().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}])
    lines = (answer.choices[0].message.content or "").splitlines()
    return [line.strip() for line in lines if line.strip()][:sections]


@app.step(kind="llm", timeout=60, retry=Retry(attempts=3))
async def write(topic: str, title: str) -> str:
    prompt = f"Write the section {title!r} of a report on {topic}, in about fifty words."
    stream = await client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}], stream=True
    )
    written = []
    async for chunk in stream:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            emit(text)  # to every reader of the run
            written.append(text)
    return "".join(written)


@app.pipeline(sla="interactive")
async def report(topic: str, sections: int = 2) -> str:
    """Outline the report, then write its sections side by side."""
    titles = await outline(topic, sections)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(write(topic, title)) for title in titles]
    return "\n\n".join(f"# {title}\n\n{task.result()}" for title, task in zip(titles, tasks, strict=True))
