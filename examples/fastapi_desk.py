"""Support tickets in FastAPI: handlers start runs, and clients follow them at the mounted gateway.

uvicorn --app-dir examples fastapi_desk:site
curl http://127.0.0.1:8000/tickets -H 'Content-Type: application/json' -d '{"text": "My invoice is wrong"}'
curl -N http://127.0.0.1:8000/agents/v1/pipelines/triage/runs -H 'Accept: text/event-stream' \
     -H 'Content-Type: application/json' -d '{"input": {"text": "My invoice is wrong"}}'
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

from offramp import SLA, App, emit, per_loop

app = App("desk", classes=[SLA("interactive", p95=1.0, budget=2.0)])
KINDS = {"billing": {"invoice", "charge", "refund"}, "access": {"password", "login", "locked"}}


@per_loop
def client() -> httpx.AsyncClient:
    """For the services that steps call; made before the first run."""
    return httpx.AsyncClient(timeout=10)


@app.on_start
async def connect() -> None:
    """What the first run should not wait for goes here: connections, model files, imports."""
    client().headers["User-Agent"] = "desk"


class Ticket(BaseModel):
    text: str


class Answer(BaseModel):
    kind: str
    reply: str


@app.step(lane="process")
def classify(text: str) -> str:
    """Stands for work that needs a processor: it has one of its own."""
    words = set(text.lower().replace("?", " ").split())
    return max(KINDS, key=lambda kind: len(KINDS[kind] & words)) if any(KINDS[k] & words for k in KINDS) else "general"


@app.step
async def draft(text: str, kind: str) -> str:
    """Stands for a model, whose words clients see as they come."""
    reply = f"Thank you. The {kind} team looks at this: {text}"
    for word in reply.split():
        emit(f"{word} ")
        await asyncio.sleep(0.01)
    return reply


@app.pipeline(sla="interactive")
async def triage(text: str) -> Answer:
    """Find out what a ticket is about, and draft a reply."""
    kind = await classify(text)
    return Answer(kind=kind, reply=await draft(text, kind))


gateway = app.asgi()


@asynccontextmanager
async def lifespan(_site: FastAPI) -> AsyncIterator[None]:
    async with gateway.lifespan():  # what the site itself opens and closes is entered here, too
        yield


site = FastAPI(title="Desk", lifespan=lifespan)
site.mount("/agents", gateway)


@site.post("/tickets")
async def create(ticket: Ticket) -> Answer:
    """The answer, also when the run takes longer than its budget."""
    answer: Answer = await gateway.run("triage", text=ticket.text)
    return answer


@site.post("/tickets/later", status_code=202)
async def create_later(ticket: Ticket) -> dict[str, str]:
    """Where the run's events are, for a client that does not wait here."""
    handle = await gateway.start("triage", text=ticket.text)
    return {"id": handle.id, "events": f"/agents/v1/runs/{handle.id}/events"}
