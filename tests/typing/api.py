"""What a type checker makes of declared steps and pipelines; checked by `make types`, never run."""

from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, assert_type
from uuid import UUID

import httpx
import httpx2
import openai

import offramp
from offramp import (
    SLA,
    App,
    AsyncClient,
    Breaker,
    Client,
    Event,
    Pipeline,
    Resource,
    Retry,
    RouteRequest,
    Run,
    Step,
    as_completed,
    current_run,
    emit,
    now,
    per_loop,
    random,
    signal,
    sleep,
    uuid4,
)
from offramp.client import Options, RunDocument, RunPage, StepDelta, Ticket

app = App("typed", classes=[SLA("fast", p95=1.0)])
model = app.resource("model", concurrency=8, rate=("500/min", "10/s"), tokens="200k/min", breaker=Breaker(slow_after=8))
assert_type(model, Resource)
assert_type(model.http_client("httpx", timeout=3.0), httpx.Client)
assert_type(model.async_http_client("httpx"), httpx.AsyncClient)
assert_type(model.http_client("httpx2"), httpx2.Client)
assert_type(model.async_http_client("httpx2"), httpx2.AsyncClient)
assert_type(model.async_http_client(), Any)
openai_client = openai.AsyncOpenAI(http_client=model.async_http_client())


@app.step(uses=model, kind="llm")
async def limited(question: str) -> str:
    async with model.permit(tokens=1_200) as permit:
        permit.used(tokens=900)
    with model.permit() as plain:
        plain.used(tokens=1)
    return question


@app.step(uses=[model])
def limited_too(question: str) -> str:
    return question


either = app.failover(limited, limited_too, first_token=3.0, name="either")
either_step: Step[[str], str] = either
either_coroutine: Coroutine[Any, Any, str] = either(question="?")


@app.step(hedge=True, slow_after=2.0)
async def hedged(question: str) -> str:
    return question


limited_coroutine: Coroutine[Any, Any, str] = limited("?")
limited_too_coroutine: Coroutine[Any, Any, str] = limited_too("?")


@app.rule
def by_length(request: RouteRequest) -> tuple[Literal["deep"], str] | None:
    return ("deep", "long") if len(request.input["question"]) > 9 else None


@app.rule()
async def by_tenant(request: RouteRequest) -> Literal["fast", "deep"]:
    return "fast" if request.tenant else "deep"


async def seconds(request: RouteRequest) -> float:
    return request.budget_s


classified = App("classified", classifier=seconds, classifier_timeout=0.1)
worded = App("worded", classifier=offramp.text_complexity("question"))


@app.step
def bare(question: str, limit: int = 3) -> list[str]:
    return [question] * limit


@app.step
async def bare_async(question: str) -> int:
    return len(question)


@app.step(timeout=5, retry=Retry(attempts=3, on=OSError))
def called(question: str, *, limit: int) -> list[str]:
    return [question] * limit


@app.step(timeout=60, lane="loop", effect="once")
async def called_async(question: str) -> dict[str, int]:
    return {question: 1}


@app.pipeline
async def described(question: str) -> str:
    return question


@described.features
def of_question(question: str) -> dict[str, float | str]:
    return {"words": len(question.split()), "kind": "short"}


@app.pipeline
async def pipe(question: str) -> str:
    assert_type(await bare(question), list[str])
    assert_type(await bare_async(question), int)
    assert_type(await called(question, limit=3), list[str])
    assert_type(await called_async(question), dict[str, int])
    for ended in as_completed([bare("a"), bare("b")], timeout=1):
        assert_type(await ended, list[str])
    async for future in as_completed([bare_async("a")]):
        assert_type(future.result(), int)
    assert_type(await signal("go", schema=bool), bool)
    assert_type(await signal("go", ask={"text": "?"}, schema={"type": "boolean"}), Any)
    coroutine: Coroutine[Any, Any, list[str]] = bare(question, 2)
    return "".join(await coroutine)


@app.pipeline(sla="fast", budget=2, on_disconnect="demote")
async def outer(question: str) -> str:
    assert_type(await pipe(question), str)
    assert_type(now(), datetime)
    assert_type(uuid4(), UUID)
    assert_type(random(), float)
    assert_type(current_run(), Run)
    emit(question)
    await sleep(1)
    return question


assert_type(bare, Step[[str, int], list[str]])  # type: ignore[assert-type]  # the names are kept too
step: Step[..., list[str]] = bare
pipeline: Pipeline[..., str] = outer

client = per_loop(dict[str, int])
assert_type(client(), dict[str, int])


async def wrong() -> None:
    await bare(3)  # type: ignore[arg-type]
    await called("q")  # type: ignore[call-arg]
    await called_async("q", 1)  # type: ignore[call-arg]
    await pipe(question=1)  # type: ignore[arg-type]
    assert bare.nothing  # type: ignore[attr-defined]


async def local() -> None:
    gateway = app.asgi(data=Path(".offramp"), drain_timeout=5, trace_content=True, engine=None)
    assert_type(await (await gateway.start("pipe", question="q")).document(), dict[str, Any])
    app.asgi(drain_timeout="5")  # type: ignore[arg-type]
    app.asgi(drain=5)  # type: ignore[call-arg]
    async with app.local(worker_runs=1.5) as _:  # type: ignore[arg-type]
        assert_type(offramp.__version__, str)
    async with app.local() as runtime:
        handle = await runtime.start("pipe", question="q")
        async for event in handle:
            assert_type(event, Event)
        assert_type(await handle.document(), dict[str, Any])


def called_from_outside() -> None:
    with Client("http://127.0.0.1:8000", "key", patience=5) as client:
        options: Options = {"class": "fast", "session_id": "s"}
        assert_type(client.submit("pipe", {"question": "q"}, **options), RunDocument)
        for event in client.stream("pipe", {"question": "q"}, class_="fast", metadata={"a": "b"}, budget=1.0):
            assert_type(event, Event)
            if isinstance(event, StepDelta):
                assert_type(event.step, str)
        assert_type(client.list(limit=3), RunPage)
        assert_type([run.status for run in client.list()], list[str])
        assert_type(client.get("run_1").waiting_for[0].name, str | None)
        client.submit("pipe", {}, sesion_id="s")  # type: ignore[call-arg]
        client.submit("pipe", {}, budget="much")  # type: ignore[arg-type]


async def called_from_asyncio() -> None:
    async with AsyncClient() as client:
        document = await client.submit("pipe", {"question": "q"}, wait=0.5)
        assert_type(await client.cancel(document), RunDocument)
        assert_type(await client.ticket(document), Ticket)
        async for event in client.follow(document, after=3):
            assert_type(event.seq, int)
