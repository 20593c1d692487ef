"""A FastAPI application with the pipelines of app.py: `uvicorn main:api`."""

from app import app
from fastapi import FastAPI

gateway = app.asgi()
api = FastAPI(title=app.name, lifespan=gateway.lifespan)


@api.get("/ask")
async def ask(question: str, rounds: int = 1) -> str:
    """The whole answer, however long it takes; the run is demoted at its budget and goes on."""
    answer: str = await gateway.run("research", question=question, rounds=rounds)
    return answer


# Streams, run documents, cancelling and the rest of Offramp's API.
api.mount("/agents", gateway)
