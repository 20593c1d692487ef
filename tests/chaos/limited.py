"""The App with resources under attack: steps of every kind that call a provider, and write down their executions.

What is written, and by what, is as in `pipelines.py`.
"""

import asyncio
import os
import time

import offramp
from offramp import SLA, App, Retry
from tests.chaos.pipelines import began, ended

PROVIDER = os.environ.get("CHAOS_PROVIDER", "")
RATES = os.environ.get("CHAOS_RATES", "40/s").split()
CONCURRENCY = int(os.environ.get("CHAOS_CONCURRENCY", "8"))

app = App(
    "limited",
    classes=[
        SLA("interactive", budget=30.0, priority=10),
        SLA("brief", budget=0.25, priority=10),
        SLA("batch", budget=0, priority=-1),
    ],
)
model = app.resource("model", concurrency=CONCURRENCY, rate=RATES)
tool = app.resource("tool", concurrency=2)
client = offramp.per_loop(lambda: model.async_http_client(base_url=PROVIDER, timeout=60))
PATIENT = Retry(attempts=40, base=0.05, cap=1.0)


def asked(words, **more):
    return {"model": "any", "messages": [{"role": "user", "content": f"in=5 out={words}"}], **more}


async def post(words):
    answer = await client().post("/v1/chat/completions", json=asked(words))
    answer.raise_for_status()


@app.step(uses=model, retry=PATIENT)
async def call(n: int, words: int) -> str:
    line = began()
    await post(words)
    return ended(line)


@app.step(uses=model, retry=PATIENT)
async def stream(n: int, words: int) -> str:
    line = began()
    async with client().stream("POST", "/v1/chat/completions", json=asked(words, stream=True)) as answer:
        answer.raise_for_status()
        async for _ in answer.aiter_bytes():
            pass
    return ended(line)


@app.step(uses=model, retry=PATIENT)
def thread(n: int, words: int) -> str:
    line = began()
    with model.http_client(base_url=PROVIDER, timeout=60) as here:
        here.post("/v1/chat/completions", json=asked(words)).raise_for_status()
    return ended(line)


@app.step(lane="process", uses=model, retry=PATIENT)
def lane(n: int, words: int) -> str:
    line = began(os.getppid())
    with model.http_client(base_url=PROVIDER, timeout=60) as here:
        here.post("/v1/chat/completions", json=asked(words)).raise_for_status()
    return ended(line)


@app.step(uses=model, retry=PATIENT)
async def agent(n: int, calls: int) -> str:
    """One call that decides, then several at once: the step's permit serves the first of them."""
    line = began()
    await post(2)
    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(post(5))
    return ended(line)


@app.step(uses=[model, tool], retry=PATIENT)
async def both(n: int, seconds: float) -> str:
    line = began()
    async with tool.permit():
        await asyncio.sleep(seconds)
    await post(3)
    return ended(line)


@app.step(uses=[tool, model], retry=PATIENT)
async def turned(n: int, seconds: float) -> str:
    """The same two, the other way round."""
    line = began()
    await post(3)
    async with tool.permit():
        await asyncio.sleep(seconds)
    return ended(line)


@app.step(retry=PATIENT)
def plain(n: int, seconds: float) -> str:
    line = began()
    time.sleep(seconds)
    return ended(line)


@app.pipeline(sla="interactive")
async def calls(steps: int, words: int = 20) -> list[str]:
    return [await call(n, words) for n in range(steps)]


@app.pipeline(sla="interactive")
async def streams(steps: int, words: int = 20) -> list[str]:
    return [await stream(n, words) for n in range(steps)]


@app.pipeline(sla="interactive")
async def threads(steps: int, words: int = 10) -> list[str]:
    return [await thread(n, words) for n in range(steps)]


@app.pipeline(sla="interactive")
async def lanes(steps: int, words: int = 10) -> list[str]:
    return [await lane(n, words) for n in range(steps)]


@app.pipeline(sla="interactive")
async def agents(steps: int, at_once: int = 3) -> list[str]:
    return [await agent(n, at_once) for n in range(steps)]


@app.pipeline(sla="interactive")
async def pairs(branches: int, seconds: float = 0.02) -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(both(n, seconds) if n % 2 else turned(n, seconds)) for n in range(branches)]
    return [task.result() for task in tasks] + [await plain(99, seconds)]


@app.pipeline(sla="interactive")
async def endless() -> list[str]:
    """To be cancelled."""
    return [await call(n, 5) for n in range(3_000)]
